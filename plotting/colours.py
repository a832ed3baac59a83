"""Which colours a field is drawn in.

Reflectivity has the table of the US National Weather Service, which every American radar display uses; it is not made
for eyes with a colour-vision deficiency. Any other map can be given by name: "ChaseSpectral" or "HomeyerRainbow" of
cmweather, or one of matplotlib's, such as "cividis". The other fields have maps that such eyes can read (ColorBrewer
and matplotlib).
"""

from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize

from data.variables import TABLE, lookup

# Reflectivity in steps of 5 dBZ from 5 to 75: the NWS table as Py-ART, MetPy and cmweather ("NWSRef") have it.
REFLECTIVITY_LEVELS = np.arange(5, 80, 5)
NWS_REFLECTIVITY = (
    "#00ecec", "#01a0f6", "#0000f6", "#00ff00", "#00c800", "#009000", "#ffff00",
    "#e7c000", "#ff9000", "#ff0000", "#d60000", "#c00000", "#ff00ff", "#9955c9",
)  # fmt: skip
NO_ECHO, BEYOND = "white", "black"  # below 5 dBZ; 75 dBZ and more, black as in cmweather
MASKED = "0.8"  # grey, cells without a value
ERROR = "RdBu_r"  # blue too low, red too high

# A hue stands for a variable: Okabe & Ito (2008), without the yellow, which is faint, and the black, which stands for
# totals. Steps of one quantity (thresholds, wavelengths) have shades of one map, baselines have dashes.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#8c564b")
MARKERS = "osD^vPXp"
BASELINE_DASHES = {"persistence": ":", "extrapolation": "--"}
# Maps of a quantity without a natural zero have one direction; only winds and errors diverge, about zero.
MAPS = {"T2M": "YlOrRd", "D2M": "YlGnBu", "CAPE": "RdPu", "CIN": "PuBu_r", "RAIN": "Blues", "orography": "cividis"}


def line_styles(variables: Iterable[str]) -> dict[str, dict]:
    """Colour and marker of each variable's line, the same in every figure. Variables that the table does not know take
    colours that are free."""
    variables, table = list(variables), [v.name for v in TABLE]
    known = {n: table.index(lookup(n).name) for n in variables if lookup(n).name in table}
    free = [c for c in range(len(LINES)) if c not in known.values()] or [0]
    others = {n: free[i % len(free)] for i, n in enumerate(v for v in variables if v not in known)}
    return {n: _style(LINES[c % len(LINES)], c) for n, c in (known | others).items()}


def step_styles(count: int) -> list[dict]:
    """Colours and markers of `count` steps of one quantity, from light to dark."""
    return [_style(shade, c) for c, shade in enumerate(matplotlib.colormaps["viridis_r"](np.linspace(0.25, 1, count)))]


def _style(colour, c: int) -> dict:
    return {"color": colour, "marker": MARKERS[c % len(MARKERS)], "linewidth": 1.6, "markersize": 4}


def colour_map(name: str | Colormap) -> Colormap:
    """A colour map by name, matplotlib's or cmweather's; ValueError for one that is not there."""
    if isinstance(name, Colormap):
        return name
    if name not in matplotlib.colormaps:
        try:
            import cmweather  # noqa: F401 (registers its maps with matplotlib)
        except ImportError:
            raise ValueError(
                f"colours: got {name!r}, expected a colour map of matplotlib; cmweather, which may have it, is not "
                "installed. Fix: .venv/bin/python -m pip install cmweather, or colours='cividis'"
            ) from None
    if name not in matplotlib.colormaps:
        raise ValueError(
            f"colours: got {name!r}, expected a colour map of matplotlib or cmweather. "
            "Fix: colours='cividis', or 'ChaseSpectral' of cmweather"
        )
    return matplotlib.colormaps[name]


def reflectivity_colours(colours: str | Colormap | None = None) -> tuple[Colormap, BoundaryNorm]:
    """Steps of 5 dBZ, white below 5: the NWS table, or the map asked for."""
    if colours is None:
        steps = ListedColormap(NWS_REFLECTIVITY, "NWS reflectivity").with_extremes(under=NO_ECHO, over=BEYOND)
    else:
        table = colour_map(colours)
        shades = table(np.linspace(0, 1, len(REFLECTIVITY_LEVELS)))
        steps = ListedColormap(shades[:-1], table.name).with_extremes(under=NO_ECHO, over=shades[-1])
    return steps.with_extremes(bad=MASKED), BoundaryNorm(REFLECTIVITY_LEVELS, steps.N)


def field_colours(variable: str, fields: Sequence[np.ndarray], colours: str | Colormap | None = None):
    """(colour map, norm, extend) that all `fields` of one variable share. The limits do not depend on NaN.

    `variable` is any name that the variables table knows, or another; `colours` replaces the map. The limits are the
    0.2 % and 99.8 % quantiles, about zero for a wind component, from zero for CAPE and to zero for CIN.
    """
    entry = lookup(variable)
    if entry.name == "REFC":
        return *reflectivity_colours(colours), "max"
    values = np.concatenate([np.asarray(x)[np.isfinite(x)].ravel() for x in fields] + [np.empty(0)])
    low, high = np.quantile(values, (0.002, 0.998)) if values.size else (0.0, 1.0)
    wind = -1 in (entry.parity_x, entry.parity_y)
    if wind:  # white is calm
        high = max(abs(low), abs(high))
        low = -high
    low, high = (0.0 if entry.name == "CAPE" else low), (0.0 if entry.name == "CIN" else high)
    if not high > low:  # one value everywhere
        low, high = low - (entry.name != "CAPE"), high + (entry.name != "CIN")
    extend = {"CAPE": "max", "CIN": "min"}.get(entry.name, "both")
    default = "PuOr_r" if wind else MAPS.get(entry.name, "viridis")
    return colour_map(colours or default).with_extremes(bad=MASKED), Normalize(float(low), float(high)), extend


def error_colours(errors: Sequence[np.ndarray]):
    """(colour map, norm, extend) about zero for all `errors`."""
    values = np.concatenate([np.abs(x[np.isfinite(x)]) for x in errors] + [np.zeros(1)])
    widest = float(np.quantile(values, 0.995)) or 1.0
    return colour_map(ERROR).with_extremes(bad=MASKED), Normalize(-widest, widest), "both"

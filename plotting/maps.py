"""Maps: one function per figure, xarray in, matplotlib Figure out.

A field is what a store gives for one time: `forecast.REFC.sel(init_time=..., lead_time="3h")` of a forecast store,
`store.T2M.sel(time=...)` of a training store or of any NetCDF file; its coordinates say where and when.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from data.grid import read_grid
from data.times import show_duration
from data.variables import TABLE, lookup
from plotting.colours import REFLECTIVITY_LEVELS, error_colours, field_colours
from plotting.frame import draw_field, frame_of

KNOT = 1852 / 3600  # m s-1
HALO = [withStroke(linewidth=1.8, foreground="white")]  # around text and barbs
NONE = np.timedelta64(0, "ns")
WIDTH = 6.2  # inches of a single map: text of 12 points is still read on a telephone
Truth = xr.Dataset | Callable[[np.datetime64], np.ndarray | None]


def field_map(
    field: xr.DataArray, colours: str | Colormap | None = None, terrain: xr.DataArray | None = None, lines: bool = True
) -> Figure:
    """One field (y, x) with its unit, initial, lead and valid time.

    `colours` replaces the colour map of the field (plotting/colours.py), `terrain` is drawn as contours (m), `lines`
    are coastlines and borders. ValueError if the field is not two-dimensional.
    """
    figure, axes, frame = _map(field, describe(field), colours, lines)
    if terrain is not None:
        _contours(axes, frame, terrain.values, "0.35", 5)
    if lookup(str(field.name)).name == "REFC":
        _say_dry(axes, field.values)
    return figure


def wind_map(fields: xr.Dataset, background: str | None = None, colours: str | Colormap | None = None) -> Figure:
    """Wind barbs (a half feather is 5 kt, a feather 10, a flag 50) over `background`, or over the wind speed.

    `fields` holds both wind components of one time under any of their names, and the background. Components are
    drawn along the grid, as the map is. About 16 barbs stand along the longer side, mirrored south of the equator.
    """
    u, v = (pick(fields, name) for name in ("U10", "V10"))
    u, v = read_grid(fields, u.dims).turn_winds(u, v, "grid")
    speed = np.hypot(u, v).rename("10 m wind speed").assign_attrs(units=unit_of(u), long_name="10 m wind speed")
    under = speed if background is None else pick(fields, background)
    figure, axes, frame = _map(under, f"{describe(under)}, wind barbs in knots", colours)
    H, W = under.shape
    every = max(1, round(max(H, W) / 16))
    rows, columns = slice(every // 2, H, every), slice(every // 2, W, every)
    x, y = np.meshgrid(frame.x[columns], frame.y[rows])
    latitude = frame.grid.latitude
    axes.barbs(
        x, y, u.values[rows, columns] / KNOT, v.values[rows, columns] / KNOT, zorder=3, length=5.5, linewidth=0.7,
        flip_barb=False if latitude is None else latitude[rows, columns] < 0, path_effects=HALO,
    )  # fmt: skip
    return figure


def convection_map(fields: xr.Dataset, colours: str | Colormap | None = None) -> Figure:
    """CAPE in colours, CIN as contours at -25, -50, -100 and -200 J/kg. `fields` holds both, of one time."""
    cape, cin = (pick(fields, name) for name in ("CAPE", "CIN"))
    figure, axes, frame = _map(cape, f"CAPE in colours, CIN as contours (both {unit_of(cape)})", colours)
    _contours(axes, frame, cin.values, "#08306b", (-200, -100, -50, -25))
    return figure


def forecast_panels(
    forecast: xr.Dataset,
    truth: Truth,
    variable: str,
    leads: Sequence[np.timedelta64],
    init_time: np.datetime64 | None = None,
    extrapolation: Callable[[np.timedelta64], np.ndarray | None] | None = None,
    colours: str | Colormap | None = None,
    persistence: bool = True,
) -> Figure:
    """One row per lead time: truth, forecast, persistence, extrapolation if it is given, and the error.

    `forecast` is an opened forecast store. `truth` is an opened training store, or a function of the valid time that
    gives a (y, x) field or None; `extrapolation` is such a function of the lead time. `leads` are timedelta64.
    `init_time` is by default the one with the highest mean of the variable (`richest_case`). The persistence panel
    shows the analysis. All panels but the error share one scale and are raised to the floor of the scores (0 dBZ).
    North is up whatever the order of the rows.
    """
    init_time = richest_case(forecast, variable) if init_time is None else np.datetime64(init_time)
    case = forecast[variable].sel(init_time=init_time)
    frame = frame_of(forecast, case.dims[1:])
    frame.weight = 0.6
    analysis = case.sel(lead_time=NONE).values
    none, floor = np.full_like(analysis, np.nan), np.float32(lookup(variable).scored_floor)
    rows = []
    for lead in leads:
        shown = {
            "truth": truth_at(truth, variable, init_time + lead),
            "forecast": case.sel(lead_time=lead).values,
            **({"persistence": analysis} if persistence else {}),
            **({"extrapolation": extrapolation(lead)} if extrapolation else {}),
        }
        # raised to the floor of the scores: -10 dBZ and 0 are both no echo, and no error
        shown = {k: none if x is None else np.maximum(x, floor) for k, x in shown.items()}
        rows.append(shown | {"forecast - truth": shown["forecast"] - shown["truth"]})
    titles = list(rows[0])

    table, norm, extend = field_colours(variable, [row[k] for row in rows for k in titles[:-1]], colours)
    error_table, error_norm, error_extend = error_colours([row[titles[-1]] for row in rows])
    side = 2.15  # inches, width of a panel
    height = float(np.clip(side * frame.shape, 1.0, 3.4)) + 0.1
    figure = Figure(figsize=(side * len(titles) + 1.0, len(rows) * height + 1.5), layout="constrained")
    panels = figure.subplots(len(rows), len(titles), squeeze=False, sharex=True, sharey=True)
    for r, (row, lead) in enumerate(zip(rows, leads, strict=True)):
        for c, (title, x) in enumerate(row.items()):
            axes = panels[r, c]
            style = (table, norm) if c < len(titles) - 1 else (error_table, error_norm)
            image = draw_field(axes, x, frame, *style)
            axes.label_outer()
            if r == 0:
                axes.set_title(title, fontsize=12)
            if np.isnan(x).all():
                _write(axes, {"extrapolation": "no extrapolation"}.get(title, "no truth"))
            elif lookup(variable).name == "REFC" and c < len(titles) - 1:
                _say_dry(axes, x)
        day, clock = show_time(init_time + lead).split()
        panels[r, 0].set_ylabel(f"+{show_duration(lead)}, valid\n{day}\n{clock} UTC", fontsize=11)
    unit = unit_of(forecast[variable])
    colour_bar(figure, panels[0, 0].images[0], panels[:, :-1], extend, unit)
    colour_bar(figure, image, panels[:, -1], error_extend, f"error ({unit})", aspect=9)
    figure.suptitle(f"{describe(case)}, init {show_time(init_time)} UTC", fontsize=13)
    return figure


def richest_case(forecast: xr.Dataset, variable: str) -> np.datetime64:
    """The initial time whose analysis has the highest mean of a variable: for reflectivity, the most storms."""
    analyses = (forecast[variable].variable[i, 0].values for i in range(forecast.sizes["init_time"]))
    means = [x[np.isfinite(x)].mean() if np.isfinite(x).any() else -np.inf for x in analyses]
    return forecast["init_time"].values[int(np.argmax(means))]


def pick(fields: xr.Dataset, name: str) -> xr.DataArray:
    """The array of a dataset that has this name, or is the same variable under another; ValueError if none does."""
    if name in fields.data_vars:
        return fields[name]
    found = [n for n in fields.data_vars if lookup(str(n)).name == lookup(name).name]
    if not found:
        raise ValueError(
            f"variables: got {', '.join(map(str, fields.data_vars)) or 'none'}, expected {name} or another name of it "
            f"({', '.join(next((v.aliases for v in TABLE if v.name == name), ()))}). Fix: open a store that has it"
        )
    return fields[found[0]]


def when(field: xr.DataArray) -> str:
    """Initial, lead and valid time of a field, as far as its coordinates hold them."""
    at = {k: field[k].values for k in ("init_time", "lead_time", "valid_time", "time") if k in field.coords}
    at = {k: v for k, v in at.items() if np.ndim(v) == 0 and np.asarray(v).dtype.kind in "mM"}
    if "init_time" in at and "lead_time" in at:
        valid = at.get("valid_time", at["init_time"] + at["lead_time"])
        lead = f"+{show_duration(at['lead_time'])}" if at["lead_time"] > NONE else "analysis"
        return f"init {show_time(at['init_time'])}, {lead}, valid {show_time(valid)} UTC"
    valid = at.get("valid_time", at.get("time"))
    return "" if valid is None else f"valid {show_time(valid)} UTC"


def _map(field: xr.DataArray, title: str, colours=None, lines: bool = True):
    """Figure, axes and plane of a map of one field; ValueError unless the field is (y, x)."""
    if field.ndim != 2:
        extra = [str(d) for d in field.dims[:-2]]
        fix = ", ".join(f"{d}=0" for d in extra) if extra else "..."
        raise ValueError(
            f"{field.name}: got dimensions {tuple(map(str, field.dims))}, expected two, (y, x). Fix: .isel({fix})"
        )
    frame = frame_of(field, tuple(map(str, field.dims)), lines)
    height = float(np.clip((WIDTH - 0.7) * frame.shape, 2.5, 8.0)) + 1.65
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    table, norm, extend = field_colours(str(field.name), [field.values], colours)
    colour_bar(figure, draw_field(axes, field.values, frame, table, norm), axes, extend, unit_of(field))
    figure.suptitle(f"{title}\n{when(field)}", fontsize=13)
    return figure, axes, frame


def _contours(axes, frame, values: np.ndarray, colour: str, levels) -> None:
    """Labelled contours; none if the field does not cross a level."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    crossed = high > low if isinstance(levels, int) else any(low < level < high for level in levels)
    if min(values.shape) < 2 or not crossed:
        return
    drawn = axes.contour(
        frame.x, frame.y, values, levels=levels, colors=colour, linewidths=0.9, linestyles="solid", zorder=2.8
    )
    for text in axes.clabel(drawn, fontsize=9, inline=True):
        text.set_path_effects(HALO)


def colour_bar(figure, image, axes, extend: str, label: str, aspect: float = 28) -> None:
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", extend=extend, aspect=aspect, pad=0.02, shrink=0.9)
    bar.set_label(label, fontsize=12)
    bar.ax.tick_params(labelsize=10)
    if len(image.norm.boundaries if hasattr(image.norm, "boundaries") else ()) == len(REFLECTIVITY_LEVELS):
        bar.set_ticks(REFLECTIVITY_LEVELS[1::2])


def _say_dry(axes, values: np.ndarray) -> None:
    if np.isfinite(values).any() and np.nanmax(values) < REFLECTIVITY_LEVELS[0]:
        _write(axes, f"no echo of {REFLECTIVITY_LEVELS[0]} dBZ")


def _write(axes, text: str) -> None:
    axes.text(
        0.5, 0.5, text, fontsize=10, path_effects=HALO, zorder=4, ha="center", va="center", transform=axes.transAxes
    )


def unit_of(field: xr.DataArray) -> str:
    unit = str(field.attrs.get("units") or lookup(str(field.name)).units or "unit not given")
    return re.sub(r"(?<=[A-Za-z])(?:\*\*)?-([12])", lambda m: "⁻" + "¹²"[int(m[1]) - 1], unit)


def describe(field: xr.DataArray) -> str:
    """The variable's name and what it is, "T2M: 2 m temperature"."""
    name = str(field.name)
    long_name = field.attrs.get("long_name") or lookup(name).long_name
    return name if long_name == name else f"{name}: {long_name}"


def truth_at(truth: Truth, variable: str, time: np.datetime64) -> np.ndarray | None:
    if not isinstance(truth, xr.Dataset):
        return truth(time)
    return pick(truth, variable).sel(time=time).values if time in truth["time"].values else None


def show_time(time: np.datetime64) -> str:
    return str(np.datetime64(time, "m")).replace("T", " ")

"""Maps of a forecast beside the truth."""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data.grid import Grid, read_grid
from data.variables import lookup

# Reflectivity in steps of 5 dBZ from 5 to 75, in the order every radar display uses: blues for drizzle,
# greens, yellows, reds, then purple for hail.
REFLECTIVITY_LEVELS = np.arange(5, 80, 5)
REFLECTIVITY_COLOURS = (
    "#c6e6ec", "#7cc7e8", "#3a8fd9", "#2ccf3c", "#1fa12c", "#12701d", "#fdf03a",
    "#e6bc1e", "#fb9220", "#f2371f", "#c71c16", "#8f0f0f", "#f03ce0", "#9657cf",
)  # fmt: skip
MASKED = "0.85"  # grey, cells without a value
Truth = xr.Dataset | Callable[[np.datetime64], np.ndarray | None]


def forecast_panels(
    forecast: xr.Dataset,
    truth: Truth,
    variable: str,
    leads: Sequence[np.timedelta64],
    init_time: np.datetime64 | None = None,
    extrapolation: Callable[[np.timedelta64], np.ndarray | None] | None = None,
) -> Figure:
    """One row per lead time: truth, forecast, persistence, and extrapolation where it is given, else the error.

    `forecast` is an opened forecast store, `truth` an opened training store or a function of the valid
    time that gives a (y, x) field, or None where there is none; `extrapolation` a function of the lead time, likewise.
    `leads` are timedelta64; `init_time` is the first one where it is not given. The analysis is the persistence
    panel. North is up whatever the order of the rows.
    """
    init_time = forecast["init_time"].values[0] if init_time is None else np.datetime64(init_time)
    case = forecast[variable].sel(init_time=init_time)
    grid = read_grid(forecast, case.dims[1:])
    analysis = case.sel(lead_time=np.timedelta64(0, "ns")).values
    none = np.full_like(analysis, np.nan)
    rows = []
    for lead in leads:
        field, actual = case.sel(lead_time=lead).values, _truth_at(truth, variable, init_time + lead)
        actual = none if actual is None else actual
        last = field - actual if extrapolation is None else extrapolation(lead)
        rows.append((actual, field, analysis, none if last is None else last))
    titles = ("truth", "forecast", "persistence", "extrapolation" if extrapolation else "forecast - truth")
    alike = 4 if extrapolation else 3  # columns that share the scale of the field

    colours, norm = _scale(variable, [x for row in rows for x in row[:alike]])
    errors = np.concatenate([row[3][np.isfinite(row[3])] for row in rows] + [np.zeros(1)])
    widest = float(np.quantile(np.abs(errors), 0.995)) or 1.0
    panel_width = 3.0
    panel_height = float(np.clip(panel_width * _aspect(grid), 1.2, 4.0))
    size = (4 * panel_width + 1.6, len(rows) * (panel_height + 0.3) + 1.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), 4, squeeze=False, sharex=True, sharey=True)
    frame = _frame(grid)
    labels = frame[2]
    for r, (row, lead) in enumerate(zip(rows, leads, strict=True)):
        for c, x in enumerate(row):
            error = {"cmap": "RdBu_r", "vmin": -widest, "vmax": widest}
            image = _panel(panels[r, c], x, frame, {"cmap": colours, "norm": norm} if c < alike else error)
            if c == 0:
                field_image = image
            if r == 0:
                panels[r, c].set_title(titles[c], fontsize=11)
            if r == len(rows) - 1:
                panels[r, c].set_xlabel(labels[0])
            if np.isnan(x).all():
                missing = "no extrapolation" if c == 3 and extrapolation else "no truth"
                panels[r, c].text(0.5, 0.5, missing, ha="center", va="center", transform=panels[r, c].transAxes)
        when = f"+{_hours(lead)}, valid {_time(init_time + lead)}"
        panels[r, 0].set_ylabel(f"{when}\n{labels[1]}", fontsize=9)
    unit = forecast[variable].attrs.get("units") or lookup(variable).units
    bar = {"orientation": "horizontal", "aspect": 50, "pad": 0.02}
    beyond = "max" if isinstance(norm, BoundaryNorm) else "both"
    figure.colorbar(field_image, ax=panels[:, :alike], shrink=0.7, extend=beyond, label=unit, **bar)
    if alike == 3:
        bar["aspect"] = 18
        figure.colorbar(image, ax=panels[:, 3], shrink=0.95, extend="both", label=f"error, {unit}", **bar)
    figure.suptitle(f"{variable}: {lookup(variable).long_name}, initial time {_time(init_time)} UTC", fontsize=12)
    return figure


def _panel(axes, field: np.ndarray, frame, style: dict):
    """Draw one (y, x) field; masked cells are grey."""
    extent, origin, labels = frame
    axes.set_facecolor(MASKED)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return axes.imshow(field, extent=extent, origin=origin, interpolation="nearest", aspect=labels[2], **style)


def _scale(variable: str, fields: list[np.ndarray]):
    """Colour map and norm that truth, forecast and persistence share."""
    if lookup(variable).name == "REFC":
        colours = ListedColormap(REFLECTIVITY_COLOURS).with_extremes(under="white", over="#3d0a66")
        return colours, BoundaryNorm(REFLECTIVITY_LEVELS, colours.N)
    values = np.concatenate([x[np.isfinite(x)] for x in fields] + [np.empty(0)])
    low, high = np.quantile(values, (0.002, 0.998)) if values.size else (0.0, 1.0)
    if -1 in (lookup(variable).parity_x, lookup(variable).parity_y):  # a wind component: white is calm
        widest = max(abs(low), abs(high))
        return "PuOr_r", Normalize(-widest, widest)
    return "turbo" if lookup(variable).units == "K" else "viridis", Normalize(low, high)


def _frame(grid: Grid) -> tuple[tuple[float, float, float, float], str, tuple[str, str, str]]:
    """Extent, the row at the bottom, and (x label, y label, aspect), so that north is up and east is right."""
    H, W = grid.shape
    latitude, longitude = grid.latitude, grid.longitude
    if latitude is not None:
        upward = latitude[-1].mean() >= latitude[0].mean()
    else:
        upward = grid.y is None or H < 2 or grid.y[-1] >= grid.y[0]
    origin = "lower" if upward else "upper"
    if grid.y is not None and grid.x is not None:
        x, y, labels = grid.x / 1000, grid.y / 1000, ("x (km)", "y (km)", "equal")
    elif latitude is not None and np.ptp(latitude, axis=1).max() < 1e-6:  # a regular grid
        x, y, labels = longitude[0], latitude[:, 0], ("longitude", "latitude", "auto")
    elif grid.spacing is not None:
        dy, dx = grid.spacing
        x, y, labels = np.arange(W) * dx / 1000, np.arange(H) * dy / 1000, ("x (km)", "y (km)", "equal")
    else:
        x, y, labels = np.arange(W), np.arange(H), ("column", "row", "equal")
    (left, right), (low, high) = (sorted((v[0], v[-1])) for v in (x, y))
    half_x, half_y = (right - left) / max(W - 1, 1) / 2, (high - low) / max(H - 1, 1) / 2
    return (left - half_x, right + half_x, low - half_y, high + half_y), origin, labels


def _aspect(grid: Grid) -> float:
    """Height over width of the domain."""
    dy, dx = grid.spacing or (1.0, 1.0)
    return grid.shape[0] * dy / (grid.shape[1] * dx)


def _truth_at(truth: Truth, variable: str, time: np.datetime64) -> np.ndarray | None:
    if not isinstance(truth, xr.Dataset):
        return truth(time)
    return truth[variable].sel(time=time).values if time in truth["time"].values else None


def _time(time: np.datetime64) -> str:
    return str(time.astype("datetime64[m]")).replace("T", " ")


def _hours(lead: np.timedelta64) -> str:
    hours = lead / np.timedelta64(1, "h")
    return f"{hours:g} h" if hours >= 1 else f"{60 * hours:g} min"

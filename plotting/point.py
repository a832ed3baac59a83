"""A forecast at one place, hour by hour."""

import numpy as np
import xarray as xr
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from data.grid import EARTH_RADIUS, Grid, read_grid
from data.variables import lookup
from plotting.colours import line_styles
from plotting.maps import KNOT, pick, show_time, unit_of

GROUPS = (("T2M", "D2M"), ("U10", "V10"), ("REFC",), ("CAPE",), ("CIN",))  # one panel each


def nearest_cell(grid: Grid, latitude: float, longitude: float) -> tuple[int, int, float]:
    """Row, column and distance in km of the cell whose middle is nearest to a place (degrees).

    ValueError if the grid has no latitudes, or if the place is more than one cell outside of it.
    """
    if grid.latitude is None:
        raise ValueError(
            "latitude/longitude: got a store without them, expected both. Fix: name the cell, cell=(row, column)"
        )
    phi, phi_0 = np.radians(grid.latitude), np.radians(latitude)
    delta = np.radians(grid.longitude - longitude)
    # haversine: exact also for the shortest distances
    half = np.sin((phi - phi_0) / 2) ** 2 + np.cos(phi) * np.cos(phi_0) * np.sin(delta / 2) ** 2
    row, column = np.unravel_index(int(np.argmin(half)), grid.shape)
    km = 2 * EARTH_RADIUS / 1000 * float(np.arcsin(np.sqrt(half[row, column])))
    if km > 1.5 * max(grid.spacing) / 1000:
        raise ValueError(
            f"latitude, longitude: got {latitude:g}, {longitude:g}, {km:.0f} km from the nearest cell, expected a "
            f"place within {grid.latitude.min():.2f} to {grid.latitude.max():.2f} north, {grid.longitude.min():.2f} to "
            f"{grid.longitude.max():.2f} east. Fix: choose one of these"
        )
    return int(row), int(column), km


def meteogram(
    forecast: xr.Dataset,
    latitude: float | None = None,
    longitude: float | None = None,
    init_time: np.datetime64 | None = None,
    truth: xr.Dataset | None = None,
    cell: tuple[int, int] | None = None,
) -> Figure:
    """All variables at the cell nearest to a place (degrees), or at `cell` (row, column), against valid time.

    `forecast` is an opened forecast store, `init_time` by default its first one. `truth` is an opened training store;
    its hours are dots. Wind is shown as speed, with barbs (knots) at the top.
    """
    init_time = forecast["init_time"].values[0] if init_time is None else np.datetime64(init_time)
    case = forecast.sel(init_time=init_time)
    names = [str(n) for n, v in case.data_vars.items() if v.ndim == 3]
    grid = read_grid(forecast, case[names[0]].dims[1:])
    if cell is None:
        if latitude is None or longitude is None:
            raise ValueError(
                "meteogram: got no place, expected latitude and longitude. Fix: meteogram(forecast, 35.2, -97.4)"
            )
        row, column, km = nearest_cell(grid, latitude, longitude)
        where = f"{_degrees(latitude, 'NS')}, {_degrees(longitude, 'EW')} (cell {row}, {column}, {km:.1f} km away)"
    else:
        row, column = cell
        where = f"cell {row}, {column}"
    valid = init_time + case["lead_time"].values
    actual = truth.isel(time=np.flatnonzero(np.isin(truth["time"].values, valid))) if truth is not None else None
    known = {lookup(str(n)).name for n in actual.data_vars} if actual is not None and actual.sizes["time"] else set()
    groups, styles = _groups(names), line_styles(names)
    figure = Figure(figsize=(7, 1.9 * len(groups) + 1.1), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        lines = {n: case[n][:, row, column].values for n in group}
        dots = {n: pick(actual, n)[:, row, column].values for n in group if lookup(n).name in known}
        dots = {n: np.maximum(x, lookup(n).scored_floor) for n, x in dots.items()}  # -10 dBZ is no echo, as 0 is
        unit = unit_of(case[group[0]])
        if len(group) == 2 and lookup(group[0]).name == "U10":
            _barbs(axes, valid, *grid.turn_winds(*lines.values(), "earth", (row, column)))
            lines = {"wind speed": np.hypot(*lines.values())}
            dots = {"wind speed": np.hypot(*dots.values())} if len(dots) == 2 else {}
        for name, values in lines.items():
            colour = styles[name]["color"] if name in styles else "black"
            axes.plot(valid, values, color=colour, linewidth=1.8, marker="." if len(valid) < 3 else None, label=name)
            if name in dots:
                style = {"color": colour, "markersize": 4, "mfc": "white", "label": f"{name}, truth"}
                axes.plot(actual["time"].values, dots[name], "o", **style)
        if np.isnan(np.concatenate(list(lines.values()))).all():
            axes.text(0.5, 0.5, "masked cell", transform=axes.transAxes, ha="center", va="center", fontsize=11)
        axes.set_ylabel(unit, fontsize=11)
        axes.tick_params(labelsize=10)
        axes.grid(alpha=0.3)
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1}
        axes.legend(fontsize=9, ncols=2 * len(lines), frameon=False, **place)
    locator = AutoDateLocator(minticks=3, maxticks=8)
    panels[-1].xaxis.set_major_locator(locator)
    panels[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    panels[-1].set_xlabel("valid time, UTC", fontsize=11)
    figure.suptitle(f"{where}\ninit {show_time(init_time)} UTC", fontsize=12)
    return figure


def _groups(names: list[str]) -> list[list[str]]:
    """The variables of each panel: those that belong together, then every other one alone."""
    by_table = {lookup(n).name: n for n in reversed(names)}
    out = [[by_table[n] for n in group if n in by_table] for group in GROUPS]
    used = {n for group in out for n in group}
    return [g for g in out if g] + [[n] for n in names if n not in used]


def _barbs(axes, valid: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
    """About 12 barbs along the upper edge, above the line of the speed."""
    every = max(1, round(len(valid) / 12))
    speed = np.hypot(u, v)
    top = float(np.nanmax(speed)) if np.isfinite(speed).any() else 1.0
    axes.set_ylim(0, 1.5 * max(top, 1.0))
    height = np.full(len(valid[::every]), 1.3 * max(top, 1.0))
    axes.barbs(valid[::every], height, u[::every] / KNOT, v[::every] / KNOT, length=5.5, linewidth=0.8)


def _degrees(value: float, names: str) -> str:
    return f"{abs(value):.2f}°{names[0 if value >= 0 else 1]}"

"""The plane of a map: places of the cells, labels of the edges, coastlines and borders."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from matplotlib.ticker import MaxNLocator

from data.grid import Grid, read_grid
from plotting.borders import borders, draw_borders, lines_within
from plotting.colours import MASKED

GRATICULE = {"colors": "0.45", "linewidths": 0.5, "linestyles": ":"}
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)  # degrees between lines of equal latitude or longitude


@dataclass
class Frame:
    """The plane of a grid: its own projection (Lambert for HRRR) if x and y are known, degrees for a regular grid, else
    cells. Cells are drawn without interpolation."""

    grid: Grid
    x: np.ndarray  # (W,) km, degrees or columns
    y: np.ndarray  # (H,)
    units: str  # "km", "degrees" or "cells"
    lines: bool = True  # draw coastlines and borders
    weight: float = 1.0  # of these lines; less on small panels

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top edge of the cells."""
        out = []
        for v in (self.x, self.y):
            low, high = sorted((float(v[0]), float(v[-1])))
            half = (high - low) / max(len(v) - 1, 1) / 2 or 0.5
            out += [low - half, high + half]
        return tuple(out)

    @property
    def origin(self) -> str:
        """Which row imshow has to put at the bottom for north to be up."""
        return "lower" if self.y[-1] >= self.y[0] else "upper"

    @property
    def aspect(self) -> float:
        """Length of a unit of y over that of a unit of x, on the map."""
        return 1 / np.cos(np.radians(min(abs(float(np.mean(self.y))), 80))) if self.units == "degrees" else 1.0

    @property
    def shape(self) -> float:
        """Height of the map over its width."""
        left, right, low, high = self.extent
        return float((high - low) * self.aspect / (right - left))

    @cached_property
    def east(self) -> np.ndarray:
        """Longitude (H, W) without a jump at 180 degrees."""
        middle = self.grid.longitude[self.grid.shape[0] // 2, self.grid.shape[1] // 2]
        return middle + (self.grid.longitude - middle + 180.0) % 360.0 - 180.0

    @cached_property
    def border_lines(self) -> dict[int, list[np.ndarray]]:
        """Coastlines and borders in this plane; none without latitudes."""
        if not self.lines or self.grid.latitude is None:
            return {}
        if self.units != "degrees":
            return lines_within(self.x, self.y, self.grid.latitude, self.grid.longitude)
        found: dict[int, list[np.ndarray]] = {}
        left, right, low, high = self.extent
        for kind, line in borders():
            for turn in (-360.0, 0.0, 360.0):
                x, y = line[:, 0] + turn, line[:, 1]
                if x.max() > left and x.min() < right and y.max() > low and y.min() < high:
                    found.setdefault(kind, []).append(np.stack([x, y], axis=1))
        return found


def frame_of(dataset: xr.Dataset | xr.DataArray, dims: tuple[str, str], lines: bool = True) -> Frame:
    """The plane of the trailing dimensions `dims` of an opened store, or of one of its fields."""
    if isinstance(dataset, xr.DataArray):
        dataset = dataset.to_dataset(name="field", promote_attrs=False)
    grid = read_grid(dataset, dims)
    H, W = grid.shape
    regular = grid.latitude is not None and np.ptp(grid.latitude, axis=1).max() < 1e-6
    if grid.y is not None and grid.x is not None:
        return Frame(grid, grid.x / 1000, grid.y / 1000, "km", lines)
    if regular and np.ptp(grid.longitude, axis=0).max() < 1e-6:
        return Frame(grid, np.unwrap(grid.longitude[0], period=360), grid.latitude[:, 0], "degrees", lines)
    dy, dx = (s / 1000 for s in grid.spacing or (1000.0, 1000.0))
    x, y = dx * np.arange(W), dy * np.arange(H)
    if grid.latitude is not None and grid.latitude[-1].mean() < grid.latitude[0].mean():
        y = y[::-1]
    return Frame(grid, x, y, "km" if grid.spacing else "cells", lines)


def draw_field(axes, values: np.ndarray, frame: Frame, colours, norm):
    """Draw one (y, x) field with borders, lines of equal latitude and longitude, and labels; masked cells are grey."""
    axes.set_facecolor(MASKED)
    masked = np.ma.masked_invalid(values)
    image = axes.imshow(masked, extent=frame.extent, origin=frame.origin, aspect=frame.aspect, cmap=colours, norm=norm)
    draw_borders(axes, frame.border_lines, frame.weight)
    label_edges(axes, frame)
    return image


def label_edges(axes, frame: Frame) -> None:
    """Latitude and longitude along the left and lower edge with lines across; x and y if there are none."""
    left, right, low, high = frame.extent
    axes.set(xlim=(left, right), ylim=(low, high))
    axes.tick_params(labelsize=10, length=3)
    if frame.grid.latitude is None or min(frame.grid.shape) < 2:
        unit = {"km": " (km)", "cells": " (cell)", "degrees": ""}[frame.units]
        axes.set(xlabel=f"x{unit}", ylabel=f"y{unit}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
        return
    south = 0 if frame.y[0] <= frame.y[-1] else -1
    west = 0 if frame.x[0] <= frame.x[-1] else -1
    for values, edge, along, names, axis in (
        (frame.east, frame.east[south], frame.x, "EW", axes.xaxis),
        (frame.grid.latitude, frame.grid.latitude[:, west], frame.y, "NS", axes.yaxis),
    ):
        levels, step = _levels(edge)
        places = np.interp(levels, *(v[np.argsort(edge)] for v in (edge, along)))
        axis.set_ticks(places, labels=[_degrees(v, step, names) for v in levels])
        everywhere = np.arange(np.ceil(values.min() / step), np.floor(values.max() / step) + 1) * step
        skip = max(1, max(frame.grid.shape) // 200)
        if frame.units != "degrees" and len(everywhere):
            thin = values[::skip, ::skip]
            axes.contour(frame.x[::skip], frame.y[::skip], thin, levels=everywhere, zorder=2.2, **GRATICULE)
        elif len(everywhere):
            axis.grid(True, color="0.45", linewidth=0.5, linestyle=":", zorder=2.2)


def _levels(edge: np.ndarray, wanted: int = 4) -> tuple[np.ndarray, float]:
    """Round degrees along an edge, at most `wanted` or so, and their distance."""
    low, high = float(edge.min()), float(edge.max())
    step = next((s for s in STEPS if (high - low) / s <= wanted), STEPS[-1])
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step, step


def _degrees(value: float, step: float, names: str) -> str:
    value = (value + 180.0) % 360.0 - 180.0 if names == "EW" else value
    number = f"{abs(value):.{1 if step < 1 else 0}f}°"
    return number if abs(value) < 1e-9 else number + names[0 if value > 0 else 1]

"""A host model's store: its fields at its own times, and where points lie on its grid.

The store holds analyses, as data/store.py reads them, or forecasts: arrays (init_time, lead_time, y, x), or with the
names of WeatherBench 2 (time, prediction_timedelta) or cfgrib (time, step). One run may have a scalar initial time.
"""

from pathlib import Path

import numpy as np
import xarray as xr

from data.command import fault
from data.dataset import Hours
from data.grid import Grid, horizontal, read_grid
from data.normalise import Statistics
from data.opening import find_times, open_zarr
from data.store import Store
from data.times import hours_of, show
from data.variables import known, lookup

LONGEST = np.timedelta64(6, "h")  # between two times that are interpolated
ROUNDING = 0.02  # cells of the host by which a point may lie outside its outermost cells: coordinates are rounded
POLAR = 80.0  # degrees north or south; from there on meridians are too close to search along them


class Host:
    """A host store opened for reading.

    Attributes: path; dataset; names of its fields; grid; runs (datetime64[ns], sorted), None for analyses; axis: its
    leads, or for analyses its times, sorted. ValueError for a store without fields.
    """

    def __init__(self, path: str | Path):
        self.path, dataset = str(path), open_zarr(path)
        _, run, lead = find_times(self.path, dataset)
        if lead is None or lead.dims != (lead.name,):
            self.store, self.runs = Store(path), None
            self.dataset, self.names, self.grid = self.store.dataset, self.store.names, self.store.grid
            self.axis = np.sort(self.store.times)
        else:
            self._open_forecasts(dataset, run, lead)

    def _open_forecasts(self, dataset: xr.Dataset, run: xr.DataArray | None, lead: xr.DataArray) -> None:
        if run is None:
            raise fault(f"boundary: {self.path}", f"leads {lead.name} without an initial time", "both with CF units",
                        "add init_time")  # fmt: skip
        start, lead = run.name, lead.astype("timedelta64[s]").astype("timedelta64[ns]")
        dataset = dataset.assign_coords({start: run, lead.name: lead})
        dataset, lead = dataset if start in dataset.dims else dataset.expand_dims(start), lead.name
        self.dataset = dataset = dataset.sortby([start, lead])
        self.runs, self.axis = (dataset[n].values.astype(f"{k}[ns]") for n, k in ((start, "M8"), (lead, "m8")))
        self.dims = {}  # name -> (start, lead, y, x)
        others = {}
        for name, array in dataset.data_vars.items():
            rest = [d for d in array.dims if d not in (start, lead) and array.sizes[d] > 1]
            if lead in array.dims and array.dtype.kind in "fiu":
                if len(rest) == 2:
                    self.dims[str(name)] = (start, lead, *(horizontal(dataset, rest) or rest))
                others[str(name)] = rest
        self.names = list(self.dims)
        if not self.names:
            held = "; ".join(f"{n} over {', '.join(map(str, d))}" for n, d in others.items()) or "no array"
            raise fault(f"boundary: {self.path}", f"{held}", f"arrays ({start}, {lead}, y, x)", "choose one member "
                        "and one level of it with xarray, and name that store")  # fmt: skip
        self.grid = read_grid(dataset.transpose(..., *self.dims[self.names[0]][2:]), self.dims[self.names[0]][2:])

    def name_of(self, name: str) -> str | None:
        """The host's name of a variable: the same, or one that the variables table knows for it."""
        same = [n for n in self.names if known(n) and lookup(n).name == lookup(name).name]
        return name if name in self.names else (same or [None])[0]

    def choose(self, names: list[str], statistics: Statistics) -> None:
        """Choose the fields that `read` gives."""
        self.chosen = names
        if self.runs is None:
            self.hours = Hours(self.store, names, statistics, None)

    def read(self, key: tuple) -> np.ndarray:
        """The chosen fields (C, y, x), float32, of a (run, lead) or (None, time): indices along `runs` and `axis`."""
        run, k = key
        if run is None:
            return self.hours.read(self.axis[k])
        try:
            fields = [self.dataset[n].isel(dict(zip(self.dims[n][:2], key, strict=True))) for n in self.chosen]
            shaped = [f.transpose(..., *self.dims[n][2:]) for f, n in zip(fields, self.chosen, strict=True)]
            return np.stack([f.values.reshape(self.grid.shape) for f in shaped]).astype(np.float32)
        except (OSError, RuntimeError, ValueError) as error:
            raise fault(f"boundary: {self.path}", f"a run of {show(self.runs[run])} that cannot be read ({error})",
                        "fields", "write it again") from error  # fmt: skip

    def around(self, run: int | None, time: np.datetime64) -> list[tuple[tuple, float]]:
        """The keys of the fields just before and after a valid time, each with its weight; one if the host has the
        very time, none if it has no times around it, or none near enough."""
        at = time if run is None else time - self.runs[run]
        k = int(np.searchsorted(self.axis, at))
        if k < len(self.axis) and self.axis[k] == at:
            return [((run, k), 1.0)]
        if k in (0, len(self.axis)) or (gap := self.axis[k] - self.axis[k - 1]) > LONGEST:
            return []
        share = float((at - self.axis[k - 1]) / gap)
        return [((run, k - 1), 1 - share), ((run, k), share)]

    def run_of(self, init_time: np.datetime64, times: np.ndarray) -> int | None:
        """The newest run that starts at or before init_time and has all the valid times; None for analyses.
        ValueError if there is none."""
        if self.runs is None:
            return None
        for run in range(int(np.searchsorted(self.runs, init_time, "right")) - 1, -1, -1):
            if all(self.around(run, t) for t in times):
                return run
        runs, leads = (show(t) for t in self.runs[[0, -1]]), (f"{hours_of(k):g}" for k in self.axis[[0, -1]])
        raise fault(f"boundary: {self.path}", f"runs from {' to '.join(runs)} with leads of {' to '.join(leads)} h",
                    f"one that starts at or before {show(init_time)} and reaches {show(times[-1])}",
                    "fewer hours, or other initial times")  # fmt: skip


# --- where points lie on a grid ---


def bilinear(grid: Grid, latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices (4, S) of the cells around each point (S,) and their weights (4, S), NaN for a point outside.

    Linear in latitude and longitude between the rows and columns of a regular grid, and along the indices of any other.
    Rows and columns may run either way, longitudes may be counted from anywhere."""
    if min(grid.shape) < 2:
        return np.zeros((4, len(latitude)), int), np.full((4, len(latitude)), np.nan)
    rows, columns = grid.latitude[:, :1], grid.longitude[:1]
    if np.abs(grid.latitude - rows).max() < 1e-9 and np.abs(grid.longitude - columns).max() < 1e-9:
        below, above, y = along_axis(rows[:, 0], latitude)
        left, right, x = along_axis(np.unwrap(columns[0], period=360), longitude, period=360)
    else:
        (below, y), (left, x) = along_indices(grid, latitude, longitude)
        above, right = below + 1, left + 1
    inside = (np.abs(y - 0.5) < 0.5 + ROUNDING) & (np.abs(x - 0.5) < 0.5 + ROUNDING)  # NaN is not
    y, x = (np.where(inside, v.clip(0, 1), np.nan) for v in (y, x))
    weights = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x])
    corners = (below, left), (below, right), (above, left), (above, right)
    return np.stack([r * grid.shape[1] + c for r, c in corners]), weights


def along_axis(axis: np.ndarray, points: np.ndarray, period: float = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each point the indices of the values below and above it on an axis, and its place between them (0-1)."""
    order = np.argsort(axis)
    axis, step = axis[order], np.diff(axis[order]).max()
    if period:
        around = axis[0] + period - axis[-1] < 1.5 * step  # the axis goes around the Earth
        low = axis[0] - (0 if around else ROUNDING * step)
        points = low + (points - low) % period
        axis, order = (np.append(axis, axis[0] + period), np.append(order, order[0])) if around else (axis, order)
    k = np.clip(np.searchsorted(axis, points, "right") - 1, 0, len(axis) - 2)
    return order[k], order[k + 1], (points - axis[k]) / (axis[k + 1] - axis[k])


def along_indices(grid: Grid, latitude: np.ndarray, longitude: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each point and both indices of a curvilinear grid: the index below it, and its place beyond it (0-1, less or
    more outside the grid, NaN if it is not found). Newton steps from the nearest of some cells."""
    cells, points = plane(grid, grid.latitude, grid.longitude), plane(grid, latitude, longitude)
    coarse = [np.linspace(0, n - 1, min(n, 24)).round().astype(int) for n in grid.shape]
    starts = np.stack(np.meshgrid(*coarse, indexing="ij")).reshape(2, -1)
    parts = np.array_split(points, max(1, points.shape[1] // 4096), axis=1)
    distance = lambda p: np.square(p[:, :, None] - cells[:, *starts][:, None]).sum(0)  # noqa: E731
    at = starts[:, np.concatenate([distance(p).argmin(1) for p in parts])].astype(float)
    last = np.array(grid.shape)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(30):
            (k, m), (y, x) = split(at, last)
            c00, c01, c10, c11 = (cells[:, k + a, m + b] for a in (0, 1) for b in (0, 1))
            missed = points - ((1 - y) * ((1 - x) * c00 + x * c01) + y * ((1 - x) * c10 + x * c11))
            down, along = (1 - x) * (c10 - c00) + x * (c11 - c01), (1 - y) * (c01 - c00) + y * (c11 - c10)
            cross = lambda a, b: a[0] * b[1] - a[1] * b[0]  # noqa: E731
            move = np.stack([cross(missed, along), cross(down, missed)]) / cross(down, along)
            at = np.where(np.isfinite(move), at + move, at).clip(-1, last)  # a cell without area gives no direction
            if np.abs(move).max() < 1e-9:
                break
    below, place = split(at, last)
    place[:, ~(np.abs(move).max(0) < 1e-3)] = np.nan
    return list(zip(below, place, strict=True))


def split(at: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (2, S) as whole ones of cells that have a next one, and the rest."""
    whole = np.clip(np.floor(at), 0, last - 2).astype(int)
    return whole, at - whole


def plane(grid: Grid, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Points (2, ...) on a plane: latitude and longitude without a jump on this grid, stereographic near a pole."""
    middle = tuple(n // 2 for n in grid.shape)
    if np.abs(grid.latitude).max() > POLAR:
        side = np.sign(grid.latitude[middle])
        radius, angle = np.tan(np.radians(90 - (side * latitude).clip(-80)) / 2), np.radians(longitude)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)])
    return np.stack([latitude, (longitude - grid.longitude[middle] + 180) % 360])

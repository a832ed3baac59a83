"""The hours of any store or file that xarray reads: zarr v2 or v3, NetCDF, a folder of NetCDF files.

What differs between sources is made equal: names and units as in data/variables.py, rows from south to north,
longitudes -180..180, times sorted and unique. Nothing is filled in.

An archive made for time series has chunks of a thousand hours. It is read by blocks: the hours of one chunk if they fit
in the memory given, else equal parts of them, so that each chunk is decoded as seldom as memory allows.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from data.command import fault, nearest
from data.grid import Grid, read_grid, same_grid
from data.metadata import CONVERSIONS, conversion
from data.sources import KINDS, Source, counted, outside, refuse_missing_path
from data.store import open_zarr, with_exact_times
from data.times import show
from data.variables import known, lookup

MB = 1e6  # bytes
STATIC_NAMES = {"orog": "orography", "lsm": "land_sea_mask"}
TIMES = ("time", "valid_time")
EAST = ("x", "lon", "longitude")  # a first dimension of such a name means that the array is stored transposed


@dataclass
class Part:
    """One opened file or store: its dataset, the name of its time dimension and its times in the file's order."""

    path: str
    dataset: xr.Dataset
    time: str
    times: np.ndarray  # datetime64[ns]

    def names(self) -> list[str]:
        """The arrays over time and two further dimensions, not counting dimensions of length one."""
        sizes = {str(n): [d for d in v.dims if d != self.time and v.sizes[d] > 1] for n, v in self.dataset.items()}
        return [n for n, long in sizes.items() if len(long) == 2 and self.time in self.dataset[n].dims
                and self.dataset[n].dtype.kind in "fiu"]  # fmt: skip

    def field(self, name: str) -> xr.DataArray:
        """An array, still lazy, as (time, y, x)."""
        array = self.dataset[name]
        array = array.squeeze([d for d in array.dims if d != self.time and array.sizes[d] == 1], drop=True)
        y, x = (d for d in array.dims if d != self.time)
        return array.transpose(self.time, *((x, y) if str(y).lower() in EAST else (y, x)))


class ZarrHours(Source):
    """The hours that a store, a file or a folder of files holds; `load` gives one. Fields are read by blocks of hours
    that follow the source's chunks, `cfg.cache` MB of them at a time.

    ValueError for what cannot be opened or decoded, a unit that is not known, two different fields for one hour and
    variable, or more than one grid.
    """

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        self.notes: list[str] = []
        self.path = cfg.path
        self.parts = open_parts(cfg.path)
        self.arrays: dict[str, dict[int, str]] = {}  # stored name -> {part: the array's name there}
        self._find_arrays(cfg.variables)
        fields, twice = self._index(cfg.forecast_hour, first, last)
        self.choose(fields, cfg)  # hours: {time: {name: (part, index)}}
        self.arrays = {n: self.arrays[n] for n in self.names}
        self.grid = self._grid()
        self.scales = {(n, p): self._scale(n, p) for n in self.names for p in self.arrays[n]}
        self._plan_blocks(cfg.cache * MB, twice)
        self.refuse_contradictions(twice, lambda n, place: self._field(n, *place), lambda at: self.parts[at[0]].path)
        about = self.parts[0].dataset.attrs
        self.source = next((str(about[k]) for k in ("source", "name", "title") if about.get(k)), Path(cfg.path).name)
        self.source = self.source.removesuffix(f", {KINDS[self.forecast_hour]}")  # a store of ours says that already

    def __getstate__(self) -> dict:
        return {**vars(self), "held": {}}

    def _find_arrays(self, wanted: list[str]) -> None:
        """Fill `arrays`: the wanted variables, or those of the table, or if there is none of these, all."""
        found = {p: part.names() for p, part in enumerate(self.parts)}
        everything = sorted({n for names in found.values() for n in names})
        if not everything:
            held = ", ".join(map(str, self.parts[0].dataset.variables)) or "nothing"
            got = f"no (time, y, x) array in {self.path} (found {held})"
            raise fault("path", got, "at least one", "--path to a store with fields over time")
        for name in wanted:
            if name not in everything and lookup(name).name not in {lookup(n).name for n in everything}:
                expected = f"one of {' '.join(everything)}. Nearest: {nearest(name, everything)}"
                raise fault("variables", repr(name), expected, f"--variables {everything[0]}")
        chosen = wanted or [n for n in everything if known(n)] or everything
        for p, names in found.items():
            for name in names:
                if name in chosen or any(lookup(c).name == lookup(name).name and c not in names for c in chosen):
                    other = self.arrays.setdefault(lookup(name).name, {}).setdefault(p, name)
                    if other != name:
                        got = f"{lookup(name).name} twice, as {other} and {name}"
                        raise fault(self.parts[p].path, got, "one", f"name one with --variables {name}")
        used = {n for by_part in self.arrays.values() for n in by_part.values()}
        if left := [n for n in everything if n not in used]:
            self.notes.append(f"left out: {' '.join(left)}; name them with --variables to store them")
        if renamed := [f"{n} is {new}" for new, by in self.arrays.items() for n in set(by.values()) if n != new]:
            self.notes.append(f"names of the table: {', '.join(renamed)}")
        for name, by_part in self.arrays.items():
            if not known(name):
                p, array = next(iter(by_part.items()))
                about = self.parts[p].dataset[array].attrs
                keep = {k: str(about[k]) for k in ("units", "long_name", "standard_name") if k in about}
                self.described = self.described | {name: keep}

    def _index(self, choice: str, first: np.datetime64 | None, last: np.datetime64 | None) -> tuple[dict, list]:
        """Places (part, index) by kind, time and variable; (time, variable, the place that is used, another) for those
        that occur twice. Notes what is left out."""
        fields: dict[int, dict[np.datetime64, dict[str, tuple[int, int]]]] = {0: {}, 1: {}}
        beyond, twice, unsaid, given = [], [], False, int(choice == "1")
        for p, part in enumerate(self.parts):
            names = [n for n, by_part in self.arrays.items() if p in by_part]
            kinds = part.dataset.get("forecast_hour")
            said = kinds is not None and kinds.dims == (part.time,)
            unsaid |= not said and choice == "auto"
            for i, time in enumerate(part.times):
                if outside(time, first, last):
                    beyond.append(time)
                    continue
                held = fields[int(kinds.values[i]) if said else given].setdefault(time, {})
                for name in names:
                    if (kept := held.setdefault(name, (p, i))) != (p, i):
                        twice.append((time, name, kept, (p, i)))
        if unsaid:
            self.notes.append("the source does not say what its hours are; recorded as analyses. "
                              "For 1-hour forecasts: --forecast_hour 1")  # fmt: skip
        if not any(fields.values()):
            held = f"{show(min(beyond))} to {show(max(beyond))}" if beyond else "none"
            got, fix = f"no hour of {self.path} between them", "--start and --end that the source has"
            raise fault("start/end", got, f"some of {held}", fix)
        if unsorted := [p.path for p in self.parts if (np.diff(p.times) <= np.timedelta64(0)).any()]:
            self.notes.append(f"times are not in order in {counted(unsorted)}; sorted")
        return fields, twice

    def _grid(self) -> Grid:
        """The one grid of all parts, south to north and west to east, with its static fields."""
        grid = None
        for p, part in enumerate(self.parts):
            arrays = [part.field(by[p]) for by in self.arrays.values() if p in by]
            if not arrays:
                continue
            here = part.dataset.rename({k: v for k, v in STATIC_NAMES.items() if k in part.dataset.variables})
            found = read_grid(here, arrays[0].dims[1:])
            mapping = str(arrays[0].attrs.get("grid_mapping", arrays[0].encoding.get("grid_mapping", "")))
            if not found.projection and mapping in here.variables:
                found.projection = dict(here[mapping].attrs)
            grid = grid or found
            if not same_grid(grid, found) or any(a.shape[1:] != grid.shape for a in arrays):
                where, fix = f"{self.parts[0].path} and {part.path}", "a folder for each, or --variables of one grid"
                raise fault(where, "different grids", "one", fix)
            grid.static |= found.static
        self._find_orientation(grid)
        if self.north_first or self.east_first:
            grid.projection.pop("GeoTransform", None)  # it names the old first corner
        regular = str(grid.dims[0]).lower() in ("latitude", "lat") and grid.y is None and grid.latitude is not None
        grid.dims = ("latitude", "longitude") if regular else ("y", "x")
        if grid.latitude is not None:
            grid.latitude, grid.longitude = self._turn(grid.latitude), self._turn(grid.longitude)
        if grid.y is not None and self.north_first:
            grid.y = grid.y[::-1]
        if grid.x is not None and self.east_first:
            grid.x = grid.x[::-1]
        grid.static = {name: self._turn(values) for name, values in grid.static.items()}
        return grid

    def _find_orientation(self, grid: Grid) -> None:
        """Whether rows or columns have to be turned, and how far a global grid has to be rolled eastwards."""
        self.north_first = self.east_first = False
        self.roll = 0
        if grid.latitude is not None:
            self.north_first = bool(grid.latitude[0].mean() > grid.latitude[-1].mean())
            step = np.median((np.diff(grid.longitude[grid.shape[0] // 2]) + 180) % 360 - 180)
            self.east_first = bool(step < 0)
            # A global grid may begin at any longitude: rotate it to begin at the westernmost column.
            if abs(step) * grid.shape[1] > 359.9 and np.ptp(grid.longitude, axis=0).max() == 0:
                self.roll = -int(np.argmin(grid.longitude[0][:: -1 if self.east_first else 1]))
        elif grid.y is not None:
            self.north_first = bool(grid.y[0] > grid.y[-1])
            self.east_first = bool(grid.x is not None and grid.x[0] > grid.x[-1])
        else:
            self.notes.append("no coordinate tells where north is; the rows are kept in the source's order")
        if self.north_first:
            self.notes.append("rows ran from north to south; turned")

    def _turn(self, values: np.ndarray) -> np.ndarray:
        """A (..., y, x) array from the source's orientation to ours."""
        values = values[..., :: -1 if self.north_first else 1, :: -1 if self.east_first else 1]
        return np.roll(values, self.roll, axis=-1) if self.roll else values

    def _scale(self, name: str, p: int) -> tuple[float, float]:
        """Factor and offset from the source's unit to the table's; ValueError for a unit that is not known."""
        variable, array = lookup(name), self.arrays[name][p]
        if not known(name):
            return 1.0, 0.0
        found = str(self.parts[p].dataset[array].attrs.get("units", ""))
        if not found:
            self.notes.append(f"{array} has no units attribute; taken as {variable.units}")
            return 1.0, 0.0
        scale = conversion(found, variable.units)
        if scale is None:
            expected = f"one of {', '.join(CONVERSIONS[variable.units])}"
            fix = "correct its units attribute, or leave it out with --variables"
            raise fault(self.parts[p].path, f"the unit {found!r} of {array}", expected, fix)
        if scale != (1, 0):
            self.notes.append(f"{array}: {found} turned into {variable.units}")
        return scale

    def _plan_blocks(self, memory: float, twice: list) -> None:
        """How the chunks of the source lie, and how many hours are decoded together."""
        self.held: dict[tuple[str, int], tuple[int, np.ndarray]] = {}  # first index, decoded hours, one block for each
        self.chunks: dict[tuple[str, int], tuple[int, int, int, int]] = {}  # hours, cells, first index and end
        for name, p in self.scales:
            part, raw = self.parts[p], self.parts[p].dataset[self.arrays[name][p]]
            shape = raw.encoding.get("chunks") or raw.encoding.get("chunksizes")
            shape = shape or [1 if d == part.time else n for d, n in raw.sizes.items()]
            places = [*(held[name] for held in self.hours.values()), *(b for _, n, _, b in twice if n == name)]
            if used := [i for q, i in places if q == p]:
                hours = min(int(shape[raw.dims.index(part.time)]), len(part.times))
                self.chunks[name, p] = hours, int(np.prod(shape)), min(used), max(used) + 1
        self.cache_bytes = memory
        self.share(1)
        longest = max(hours for hours, *_ in self.chunks.values())
        self.together = min(self.fit, longest)
        if longest > self.fit:
            self.notes.append(f"the source's chunks hold up to {longest} hours, of which {self.fit} fit in "
                              f"{memory / 1e6:.0f} MB: each is read about {-(-longest // self.fit)} times. "
                              "Faster: a larger --cache")  # fmt: skip

    def share(self, processes: int) -> None:
        self.memory = self.cache_bytes / processes
        self.fit = max(1, int(self.memory / (4 * np.prod(self.grid.shape) * len(self.names))))  # hours

    def _decoded(self, name: str, p: int, index: int) -> np.ndarray:
        """One field (y, x) float32, from the block that is in memory or from a new one."""
        start, block = self.held.get((name, p), (0, np.empty(0)))
        if not start <= index < start + len(block):
            block = None
            self.held.pop((name, p), None)  # so that two blocks are never in memory together
            hours, cells, first, end = self.chunks[name, p]
            chunk, length = index // hours * hours, min(self.fit, hours)
            start = chunk + (index - chunk) // length * length
            stop = min(start + length, chunk + hours, end)
            start = max(start, first)
            with zarr.config.set({"async.concurrency": int(min(10, max(1, self.memory // (4 * cells))))}):
                block = decode(self.parts[p].field(self.arrays[name][p])[start:stop])
            self.held[name, p] = start, block
        return block[index - start]

    def _field(self, name: str, p: int, index: int) -> np.ndarray:
        """One field in table units and our orientation."""
        factor, offset = self.scales[name, p]
        part, variable = self.parts[p], lookup(name)
        try:
            field = self._turn(self._decoded(name, p, index))
        except (OSError, RuntimeError, ValueError) as error:  # what a broken chunk raises, by codec
            where, fix = f"{part.path}: {name} cannot be read", "fetch or write the source again"
            raise fault(where, str(error), "whole chunks", fix) from error
        if (factor, offset) != (1, 0):  # in double precision, so that 20 C is 293.15 K to the last digit
            field = (field.astype(np.float64) * factor + offset).astype(np.float32)
        mean = float(np.nanmean(field)) if variable.units == "K" and np.isfinite(field).any() else np.nan
        if mean < variable.lower or mean > variable.upper:
            got = f"the mean {mean:.1f} of {name} at {show(part.times[index])}"
            raise fault(part.path, got, "kelvin", "correct its units attribute (degC, say)")
        return field

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        return {name: self._field(name, *self.hours[time][name]) for name in self.names}


# --- opening ---


def open_parts(path: str) -> list[Part]:
    """The store, the file or every NetCDF file of the folder; ValueError if there is none that opens."""
    refuse_missing_path(path, "a zarr store, a NetCDF file or a folder of NetCDF files")
    place = Path(path)
    if "://" in path or any((place / n).exists() for n in ("zarr.json", ".zgroup", ".zmetadata")):
        return [as_part(path, open_zarr(path))]
    files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.suffix in (".nc", ".nc4", ".cdf"))
    if not files:
        got = f"{path} without zarr.json, .zgroup or a NetCDF file (.nc) in it"
        raise fault("path", got, "a zarr store, a NetCDF file or a folder of them", "--path")
    return [as_part(str(file), open_netcdf(file)) for file in files]


def open_netcdf(file: Path) -> xr.Dataset:
    try:
        return with_exact_times(xr.open_dataset(file, decode_timedelta=False))
    except Exception as error:  # each engine of xarray raises its own kinds
        got = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        fix = "check the file, and that netCDF4 is installed (.venv/bin/python -m pip install netCDF4)"
        raise fault(f"{file}: cannot be opened", got, "a NetCDF file with decodable time", fix) from error


def as_part(path: str, dataset: xr.Dataset) -> Part:
    """The dataset with its time dimension; ValueError if time is missing or was not decoded."""
    found = [n for n in TIMES if n in dataset.variables and dataset[n].ndim == 1]
    if not found:
        got = f"no time coordinate (found {', '.join(map(str, dataset.variables))})"
        raise fault(path, got, "`time` or `valid_time` along a dimension", "add one with CF units")
    time = dataset[found[0]]
    if time.dtype.kind != "M" or np.isnat(time.values).any():
        got, fix = f"{time.dtype} with units {time.attrs.get('units', 'missing')!r}", "set its units attribute"
        raise fault(f"{path}: {found[0]} cannot be decoded", got, "CF time in the standard calendar", fix)
    return Part(path, dataset, str(time.dims[0]), time.values.astype("datetime64[ns]"))


def decode(array: xr.DataArray) -> np.ndarray:
    return array.values.astype(np.float32, copy=False)

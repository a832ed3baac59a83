"""The hours of any store or file that xarray reads, for data/build_hrrr.py: zarr v2 or v3, NetCDF, a folder of NetCDF.

What differs between sources is made equal: names and units as in data/variables.py, rows from south to north,
longitudes -180..180, times sorted and unique. Nothing is filled in.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import xarray as xr

from data.blocks import Blocks
from data.command import nearest
from data.grid import Grid, read_grid, same_grid
from data.parts import UNREADABLE, as_field, fields_of, open_parts, read, unreadable
from data.source_grib import KINDS, counted, listed
from data.times import show
from data.units import CONVERSIONS, conversion
from data.variables import TABLE, known, lookup

MB = 1e6  # bytes
STATIC_NAMES = {"orog": "orography", "lsm": "land_sea_mask"}


class ZarrHours:
    """The hours that a store, a file or a folder of files holds; `load` gives one. Attributes as SOURCES asks.

    Fields are read by blocks of hours that follow the source's chunks, `cfg.cache` MB of them at a time.
    Raises ValueError for what cannot be opened or decoded, a unit that is not known, two different fields for one
    hour and variable, or more than one grid.
    """

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        self.notes: list[str] = []
        self.path = cfg.path
        self.parts = open_parts(cfg.path)
        self.arrays: dict[str, dict[int, str]] = {}  # stored name -> {part: the array's name there}
        self._find_arrays(cfg.variables)
        self.names = self._order()
        self.forecast_hour, kinds = self._kind(cfg.forecast_hour)
        self.where: dict[str, dict[np.datetime64, tuple[int, int]]] = {n: {} for n in self.names}  # (part, index)
        self.twice: list[tuple[str, np.datetime64, tuple[int, int]]] = []
        self._index(first, last, kinds)
        self.grid = self._grid()
        self.scales = {(n, p): self._scale(n, p) for n in self.names for p in self.arrays[n]}
        self.cache_bytes = cfg.cache * MB
        self.blocks = self._blocks()
        self.together = self.blocks.together
        if self.blocks.note:
            self.notes.append(self.blocks.note)
        self._refuse_contradictions()
        about = self.parts[0].dataset.attrs
        self.source = next((str(about[k]) for k in ("source", "name", "title") if about.get(k)), Path(cfg.path).name)
        self.source = self.source.removesuffix(f", {KINDS[self.forecast_hour]}")  # a store of ours says that already

    def _find_arrays(self, wanted: list[str]) -> None:
        """Fill `arrays`: the wanted variables, or those of the table, or where there is none of these, all."""
        found: dict[int, list[str]] = {p: fields_of(part) for p, part in enumerate(self.parts)}
        everything = sorted({n for names in found.values() for n in names})
        if not everything:
            held = ", ".join(map(str, self.parts[0].dataset.variables)) or "nothing"
            raise ValueError(f"path: got no (time, y, x) array in {self.path} (found {held}), expected at least one. "
                             "Fix: --path to a store with fields over time")  # fmt: skip
        for name in wanted:
            if name not in everything and not (known(name) and any(same_name(name, n) for n in everything)):
                raise ValueError(f"variables: got {name!r}, expected one of {' '.join(everything)}. "
                                 f"Nearest: {nearest(name, everything)}. Fix: --variables {everything[0]}")  # fmt: skip
        chosen = wanted or [n for n in everything if known(n)] or everything
        for p, names in found.items():
            for name in names:
                if name in chosen or any(known(c) and same_name(c, name) and c not in names for c in chosen):
                    other = self.arrays.setdefault(lookup(name).name, {}).setdefault(p, name)
                    if other != name:
                        raise ValueError(f"{self.parts[p].path}: got {lookup(name).name} twice, as {other} and {name}, "
                                         f"expected one. Fix: name one with --variables {name}")  # fmt: skip
        used = {n for by_part in self.arrays.values() for n in by_part.values()}
        left = [n for n in everything if n not in used]
        if left:
            self.notes.append(f"left out: {' '.join(left)}; name them with --variables to store them")
        if renamed := [f"{n} is {new}" for new, by in self.arrays.items() for n in set(by.values()) if n != new]:
            self.notes.append(f"names of the table: {', '.join(renamed)}")

    def _order(self) -> list[str]:
        """The names to store: the table's in its order, then the others."""
        table = [v.name for v in TABLE if v.name in self.arrays]
        return table + sorted(set(self.arrays) - set(table))

    @property
    def described(self) -> dict[str, dict]:
        """Units and long names of the variables that the table does not know."""
        out = {}
        for name in self.names:
            if not known(name):
                p, array = next(iter(self.arrays[name].items()))
                about = self.parts[p].dataset[array].attrs
                out[name] = {k: str(about[k]) for k in ("units", "long_name", "standard_name") if k in about}
        return out

    def _kind(self, choice: str) -> tuple[int, list[np.ndarray | None]]:
        """0 or 1, and the kind of every time of each part (None where the source does not say)."""
        kinds = [p.dataset["forecast_hour"].values if "forecast_hour" in p.dataset.variables
                 and p.dataset["forecast_hour"].dims == (p.time,) else None for p in self.parts]  # fmt: skip
        count = Counter(int(k) for part in kinds if part is not None for k in part)
        if choice != "auto":
            return int(choice), kinds
        if not count:
            self.notes.append("the source does not say what its hours are; recorded as analyses. "
                              "For 1-hour forecasts: --forecast_hour 1")  # fmt: skip
        return int(count[1] > count[0]), kinds

    def _index(self, first: np.datetime64 | None, last: np.datetime64 | None, kinds: list) -> None:
        """Fill `where`, `twice` and `times`; note what is left out."""
        other, outside = 0, []
        for p, part in enumerate(self.parts):
            names = [n for n in self.names if p in self.arrays[n]]
            for i, time in enumerate(part.times):
                if kinds[p] is not None and int(kinds[p][i]) != self.forecast_hour:
                    other += 1
                elif (first is not None and time < first) or (last is not None and time > last):
                    outside.append(time)
                else:
                    self.twice += [(n, time, (p, i)) for n in names if time in self.where[n]]
                    for name in names:
                        self.where[name].setdefault(time, (p, i))
        if other:
            self.notes.append(f"left out: {other} hours that are not {KINDS[self.forecast_hour]}")
        every = sorted({t for where in self.where.values() for t in where})
        if not every:
            held = f"{show(min(outside))} to {show(max(outside))}" if outside else "hours of the other kind"
            raise ValueError(f"start/end: got no hour of {self.path} between them, expected some of {held}. "
                             "Fix: --start, --end and --forecast_hour that the source has")  # fmt: skip
        lacking = {t: [n for n in self.names if t not in self.where[n]] for t in every}
        self.times = [t for t in every if not lacking[t]]
        self.notes += listed([f"left out: {show(t)} lacks {' '.join(n)}" for t, n in lacking.items() if n])
        if not self.times:
            raise ValueError(f"variables: got no hour that has {' '.join(self.names)} together, expected one. "
                             "Fix: fewer --variables")  # fmt: skip
        zero = np.timedelta64(0, "ns")
        unsorted = [p.path for p in self.parts if len(p.times) > 1 and (np.diff(p.times) <= zero).any()]
        if unsorted:
            self.notes.append(f"times are not in order in {counted(unsorted)}; sorted")

    def _grid(self) -> Grid:
        """The one grid of all parts, south to north and west to east, with its static fields."""
        grids, static = [], {}
        for p in sorted({p for n in self.names for p in self.arrays[n]}):
            array = next(self.arrays[n][p] for n in self.names if p in self.arrays[n])
            field = self._array(p, array)
            dataset = self.parts[p].dataset.rename({k: v for k, v in STATIC_NAMES.items()
                                                    if k in self.parts[p].dataset.variables})  # fmt: skip
            grids.append(read_grid(dataset, field.dims[1:]))
            static |= grids[-1].static
            mapping = str(field.attrs.get("grid_mapping", field.encoding.get("grid_mapping", "")))
            if not grids[-1].projection and mapping in dataset.variables:
                grids[-1].projection = dict(dataset[mapping].attrs)
            if not same_grid(grids[0], grids[-1]):
                raise ValueError(f"{self.parts[0].path} and {self.parts[p].path}: got different grids, expected one. "
                                 "Fix: a folder for each")  # fmt: skip
            for name, arrays in self.arrays.items():
                if p in arrays and self._array(p, arrays[p]).shape[1:] != grids[0].shape:
                    raise ValueError(f"{self.parts[p].path}: {name} has the grid {self._array(p, arrays[p]).shape[1:]},"
                                     f" expected {grids[0].shape}. Fix: --variables of one grid")  # fmt: skip
        grid = grids[0]
        grid.static = static
        self._find_orientation(grid)
        if self.north_first or self.east_first:
            grid.projection.pop("GeoTransform", None)  # it names the old first corner
        if grid.latitude is not None:
            one_dimensional = str(grid.dims[0]).lower() in ("latitude", "lat")
            grid.latitude, grid.longitude = self._turn(grid.latitude), self._turn(grid.longitude)
            grid.dims = ("latitude", "longitude") if one_dimensional and grid.y is None else ("y", "x")
        else:
            grid.dims = ("y", "x")
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
            steps = (np.diff(grid.longitude[grid.shape[0] // 2]) + 180) % 360 - 180
            self.east_first = bool(len(steps) and np.median(steps) < 0)
            row = grid.longitude[0][::-1] if self.east_first else grid.longitude[0]
            # Only a grid around the whole Earth has no first column of its own.
            if (
                len(steps)
                and abs(np.median(steps)) * grid.shape[1] > 359.9
                and np.ptp(grid.longitude, axis=0).max() == 0
            ):
                self.roll = -int(np.argmin(row))
        elif grid.y is not None and grid.shape[0] > 1:
            self.north_first = bool(grid.y[0] > grid.y[-1])
            self.east_first = bool(grid.x is not None and grid.shape[1] > 1 and grid.x[0] > grid.x[-1])
        else:
            self.notes.append("no coordinate tells where north is; the rows are kept in the source's order")
        if self.north_first:
            self.notes.append("rows ran from north to south; turned")

    def _turn(self, values: np.ndarray) -> np.ndarray:
        """A (..., y, x) array from the source's orientation to ours."""
        values = values[..., ::-1, :] if self.north_first else values
        values = values[..., ::-1] if self.east_first else values
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
            accepted = ", ".join(CONVERSIONS[variable.units])
            raise ValueError(f"{self.parts[p].path}: {array} has the unit {found!r}, expected one of {accepted}. "
                             "Fix: correct its units attribute, or leave it out with --variables")  # fmt: skip
        if scale != (1, 0):
            self.notes.append(f"{array}: {found} turned into {variable.units}")
        return scale

    def _array(self, p: int, array: str) -> xr.DataArray:
        """A lazy (time, y, x) array of one part."""
        return as_field(self.parts[p].dataset[array], self.parts[p].time)

    def share(self, n: int) -> None:
        """n processes will read: each gets its part of the cache."""
        self.blocks = self._blocks(n)

    def _blocks(self, n: int = 1) -> Blocks:
        cells = self.grid.shape[0] * self.grid.shape[1]
        used = {(name, p): [i for q, i in self.where[name].values() if q == p] for name, p in self.scales}
        arrays, chunks = {}, {}
        for name, p in self.scales:
            raw, time = self.parts[p].dataset[self.arrays[name][p]], self.parts[p].time
            shape = raw.encoding.get("chunks") or raw.encoding.get("chunksizes")
            arrays[name, p] = as_field(raw, time)
            chunks[name, p] = (int(shape[raw.dims.index(time)]), int(np.prod(shape))) if shape else (1, cells)
        return Blocks(arrays, used, chunks, int(self.cache_bytes / n), 4 * cells * len(self.names))

    def _field(self, name: str, p: int, index: int) -> np.ndarray:
        """One field in table units and our orientation."""
        factor, offset = self.scales[name, p]
        try:
            field = self._turn(self.blocks.field((name, p), index))
        except UNREADABLE as error:
            raise unreadable(self.parts[p].path, name, error) from error
        if (factor, offset) != (1, 0):  # in double precision, so that 20 C is 293.15 K to the last digit
            field = (field.astype(np.float64) * factor + offset).astype(np.float32)
        mean = float(np.nanmean(field)) if np.isfinite(field).any() else np.nan
        if lookup(name).units == "K" and not lookup(name).lower <= mean <= lookup(name).upper and np.isfinite(mean):
            raise ValueError(f"{self.parts[p].path}: {name} has the mean {mean:.1f} at "
                             f"{show(self.parts[p].times[index])}, expected kelvin. "
                             "Fix: correct its units attribute (degC, say)")  # fmt: skip
        return field

    def _refuse_contradictions(self) -> None:
        """Two fields for one hour and variable must be equal: else there is no telling which one is right."""
        for name, time, place in self.twice:
            kept = self.where[name][time]
            a, b = (read(self._array(p, self.arrays[name][p])[i : i + 1], self.path, name) * self.scales[name, p][0]
                    for p, i in (kept, place))  # fmt: skip
            if not np.array_equal(a, b, equal_nan=True) or self.scales[name, kept[0]] != self.scales[name, place[0]]:
                raise ValueError(f"{self.parts[kept[0]].path} and {self.parts[place[0]].path}: got different {name} "
                                 f"for {show(time)}, expected each hour once or equal values. "
                                 "Fix: remove one")  # fmt: skip
        if self.twice:
            self.notes.append(f"{len(self.twice)} fields occur twice with equal values; the first is used")

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        """One hour: {name: (y, x) in table units}, NaN where the source has NaN."""
        return {name: self._field(name, *self.where[name][time]) for name in self.names}


def same_name(a: str, b: str) -> bool:
    """Whether the table calls both the same."""
    return lookup(a).name == lookup(b).name

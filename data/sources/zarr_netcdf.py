"""The hours of any store or file that xarray reads: zarr v2 or v3, NetCDF, a folder of NetCDF files.

What differs between sources is made equal: names and units as in data/variables.py, rows from south to north,
longitudes -180..180, times sorted and unique (data/opening.py says what they mean). Nothing is filled in.

An archive made for time series has chunks of a thousand hours. It is read by blocks: the hours of one chunk if they fit
in the memory given, else equal parts of them, so that each chunk is decoded as seldom as memory allows.
"""

from pathlib import Path

import numpy as np
import zarr

from data.command import fault, nearest
from data.grid import Grid, letters, read_grid, same_grid, wind_reference
from data.metadata import CONVERSIONS, conversion
from data.opening import Part, describe_odd, open_parts, parts_of, refuse_leads, refuse_odd
from data.sources import HOUR, KINDS, HourUnavailable, Source, counted, outside, refuse_missing_path
from data.store import Written
from data.times import show
from data.variables import RAIN_TOTALS, coordinate_level, falls, identify, known, lookup, plain, refuse_undeclared

MB = 1e6  # bytes


class ZarrHours(Source):
    """The hours that a store, a file or a folder of files holds; `load` gives one. Fields are read by blocks of hours
    that follow the source's chunks, `cfg.cache` MB of them at a time.

    ValueError for what cannot be opened or decoded, a unit that is not known, two different fields for one hour and
    variable, or more than one grid.
    """

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        refuse_missing_path(cfg.path, "a zarr store, a NetCDF file or a folder of NetCDF files")
        self.path = cfg.path
        opened, self.notes = open_parts(cfg.path)
        self.parts = [part for path, dataset in opened for part in parts_of(path, dataset)]
        refuse_leads(self.parts)
        self.notes += dict.fromkeys(note for part in self.parts for note in part.notes)
        self.arrays: dict[str, dict[int, str]] = {}  # stored name -> {part: the array's name there}
        self.totals: set[str] = set()  # variables that are sums since the start of a run
        self.rain: dict[tuple[str, str], tuple[str, str]] = {}  # array and unit -> RAIN, or why it is not
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
        return {**vars(self), "held": {}, "written": {}}

    def _find_arrays(self, wanted: list[str]) -> None:
        """Fill `arrays`: the wanted variables, or those of the table, or if there is none of these, all."""
        found: list[dict[str, str]] = []  # of each part: array -> the table's name, or its own
        odd: list[str] = []
        for part in self.parts:
            named = {n: self._named(part, n) for n in part.dims}
            found.append({n: name or n for n, (name, _) in named.items()})
            odd += [why for _, why in named.values() if why]
        everything = sorted({n for names in found for n in names})
        if not everything:
            refuse_odd(next((p for p in self.parts if p.odd), self.parts[0]))
        table = {new for names in found for new in names.values()}
        for name in wanted:
            if name not in everything and lookup(name).name not in table:
                expected = f"one of {' '.join(everything)}. Nearest: {nearest(name, everything)}"
                raise fault("variables", repr(name), expected, f"--variables {everything[0]}")
        chosen = {lookup(n).name if n not in everything else next(f[n] for f in found if n in f) for n in wanted}
        chosen = chosen or {new for new in table if known(new)} or table
        for p, names in enumerate(found):
            exact = {new: n for n, new in names.items() if n in wanted}
            for name, new in names.items():
                if new in chosen and exact.get(new, name) == name:
                    other = self.arrays.setdefault(new, {}).setdefault(p, name)
                    if other != name:
                        got = f"{new} twice, as {other} and {name}"
                        raise fault(self.parts[p].path, got, "one", f"name one with --variables {name}")
        used = {n for by_part in self.arrays.values() for n in by_part.values()}
        if left := [n for n in everything if n not in used]:
            self.notes.append(f"left out: {' '.join(left)}; name them with --variables to store them")
        self.notes += [f"left out: {part} (not two horizontal dimensions beside time)"
                       for part in dict.fromkeys(describe_odd(part) for part in self.parts if part.odd)]  # fmt: skip
        self.notes += [f"not taken for a variable of the table: {why}" for why in dict.fromkeys(odd)]
        if renamed := [f"{n} is {new}" for new, by in self.arrays.items() for n in set(by.values()) if n != new]:
            self.notes.append(f"names of the table: {', '.join(renamed)}")
        self.notes += [f"{n} is not in the variables table: no bounds, no transform, even mirror parity"
                       for n in self.arrays if not known(n)]  # fmt: skip
        for name, by_part in self.arrays.items():
            if not known(name):
                p, array = next(iter(by_part.items()))
                about = self.parts[p].dataset[array].attrs
                keep = {k: str(about[k]) for k in ("units", "long_name", "standard_name") if k in about}
                self.described = self.described | {name: self.described.get(name, {}) | keep}

    def _named(self, part: Part, array: str) -> tuple[str, str]:
        """The table's name of an array, or "", and why it is not the variable that its name says, or ""."""
        field = part.dataset[array]
        listed = field.encoding.get("coordinates")  # CF: a scalar coordinate counts for the arrays that name it
        levels = [coordinate_level(str(n), float(c.values.item()), c.attrs) for n, c in field.coords.items()
                  if c.size == 1 and c.dtype.kind in "fiu"
                  and (c.dims[0] in field.dims if c.ndim else listed is None or n in listed.split())]  # fmt: skip
        name, why = identify(array, field.attrs, next((x for x in levels if x), None))
        if not why and name in ("", "RAIN") and plain(array) in RAIN_TOTALS:
            name, why = self._rain(part, array)
        # under the name of a variable that it is not, it would pass for that one later
        return (name or (f"{array}_other_level" if why and known(array) else ""), why)

    def _rain(self, part: Part, array: str) -> tuple[str, str]:
        """RAIN if an amount of rain is that of the hour, as most hours have less somewhere than the hour before, or if
        it is the sum since the start of a run, which falls where another run begins at most; else why not."""
        units = str(part.dataset[array].attrs.get("units", ""))
        if conversion(units, "mm") not in ((1, 0), (1000, 0)):
            return "", f"{array} is an amount of rain in {units or 'no unit'}, expected mm, kg m-2 or m"
        if part.first_hour:
            return "RAIN", ""  # both are the same
        if (array, units) in self.rain:  # of a file before
            return self.rain[array, units]
        places = self._places({p: array for p, one in enumerate(self.parts) if array in one.dims})
        hours = np.random.default_rng(0).permutation([t for t in places if t - HOUR in places])  # not in step with runs
        factor, read = conversion(units, "mm")[0], lambda p, i: self.parts[p].read(array, i, i + 1)[0]
        pairs = ([read(*places[time]) * factor for time in (t - HOUR, t)] for t in np.sort(hours[:24]))
        share = np.mean([falls(a, b) for a, b in pairs if np.nanmax(np.abs(b - a), initial=0) > 0] or [0.5])
        why = f"{array}: its hours do not tell whether it counts from the start of a run or of the hour"
        self.rain[array, units] = ("", why) if 0.4 < share < 0.6 else ("RAIN", "")
        if share <= 0.4:
            self.notes.append(f"converted: {array} counts from the start of the run; RAIN is its difference by hours")
            self.totals.add("RAIN")
        return self.rain[array, units]

    def _places(self, arrays: dict[int, str]) -> dict[np.datetime64, tuple[int, int]]:
        """Where the sum of rain of each time is, as (part, index)."""
        parts = [(p, self.parts[p]) for p in arrays if not self.parts[p].first_hour]
        return {time: (p, i) for p, part in parts[::-1] for i, time in enumerate(part.times)}

    def _index(self, choice: str, first: np.datetime64 | None, last: np.datetime64 | None) -> tuple[dict, list]:
        """Places (part, index) by kind, time and variable; (time, variable, the place that is used, another) for those
        that occur twice. Notes what is left out."""
        fields: dict[int, dict[np.datetime64, dict[str, tuple[int, int]]]] = {0: {}, 1: {}}
        beyond, twice, unsaid, given = [], [], False, int(choice == "1")
        self.sums = self._places(self.arrays["RAIN"]) if self.totals else {}
        for p, part in enumerate(self.parts):
            names = [n for n, by_part in self.arrays.items() if p in by_part]
            unsaid |= part.kinds is None and choice == "auto"
            for i, time in enumerate(part.times):
                kind = given if part.kinds is None else int(part.kinds[i])
                if outside(time, first, last) or kind < 0:
                    beyond.append(time)
                    continue
                held = fields[kind].setdefault(time, {})
                for name in names:
                    none = kind == 0 if part.first_hour else self.totals and time - HOUR not in self.sums
                    if name == "RAIN" and plain(self.arrays[name][p]) in RAIN_TOTALS and none:
                        continue
                    if (kept := held.setdefault(name, (p, i))) != (p, i):
                        twice.append((time, name, kept, (p, i)))
        if unsaid:
            self.notes.append("the source does not say what its hours are; recorded as analyses. "
                              "For 1-hour forecasts: --forecast_hour 1")  # fmt: skip
        if not any(fields.values()):
            if not beyond:
                raise fault(self.path, "no hour at all", "one or more", "fetch or write it again")
            got, fix = f"no hour of {self.path} between them", "--start and --end that the source has"
            raise fault("start/end", got, f"some of {show(min(beyond))} to {show(max(beyond))}", fix)
        if unsorted := [p.path for p in self.parts if (np.diff(p.times) <= np.timedelta64(0)).any()]:
            self.notes.append(f"times are not in order in {counted(unsorted)}; sorted")
        return fields, twice

    def _grid(self) -> Grid:
        """The one grid of all parts, south to north and west to east, with its static fields."""
        grid = None
        for p, part in enumerate(self.parts):
            arrays = [by[p] for by in self.arrays.values() if p in by]
            if not arrays:
                continue
            about = part.dataset[arrays[0]]
            found = read_grid(part.dataset, part.dims[arrays[0]], {**about.encoding, **about.attrs})
            if found.latitude is not None and (most := float(np.abs(found.latitude).max())) > 90.01:
                fix = "correct latitude, or exchange it with longitude"
                raise fault(part.path, f"a latitude of {most:g} degrees", "at most 90", fix)
            grid = grid or found
            if not same_grid(grid, found) or any(part.field(a).shape[-2:] != grid.shape for a in arrays):
                where, fix = f"{self.parts[0].path} and {part.path}", "a folder for each, or --variables of one grid"
                raise fault(where, "different grids", "one", fix)
            grid.static |= found.static
            if [d for d in about.dims if d in grid.dims] == list(grid.dims)[::-1]:
                self.notes.append("turned: the fields are stored columns first; transposed")
        self._find_orientation(grid)
        if self.north_first or self.east_first:
            grid.projection.pop("GeoTransform", None)  # it names the old first corner
        named = letters(grid.dims[0]) in ("latitude", "lat")
        grid.dims = ("latitude", "longitude") if named and grid.regular and grid.y is None else ("y", "x")
        if grid.latitude is not None:
            grid.latitude, grid.longitude = self._turn(grid.latitude), self._turn(grid.longitude)
        if grid.y is not None and self.north_first:
            grid.y = grid.y[::-1]
        if grid.x is not None and self.east_first:
            grid.x = grid.x[::-1]
        grid.static = {name: self._turn(values) for name, values in grid.static.items()}
        if winds := [n for n in ("U10", "V10") if n in self.arrays]:
            p, array = next(iter(self.arrays[winds[0]].items()))
            grid.winds = wind_reference(self.parts[p].dataset, array, grid) or "unknown"
            if grid.winds == "unknown":
                self.notes.append("the source does not say whether winds follow the grid or east and north")
        self.notes = list(dict.fromkeys(self.notes))
        return grid

    def _find_orientation(self, grid: Grid) -> None:
        """Whether rows or columns have to be turned, and how far a global grid has to be rolled eastwards."""
        self.north_first, self.east_first, self.roll = bool(grid.north_first), False, 0
        if grid.latitude is not None:
            step = np.median((np.diff(grid.longitude[grid.shape[0] // 2]) + 180) % 360 - 180)
            self.east_first = bool(step < 0)
            # A global grid may begin at any longitude: rotate it to begin at the westernmost column.
            if abs(step) * grid.shape[1] > 359.9 and np.ptp(grid.longitude, axis=0).max() == 0:
                self.roll = -int(np.argmin(grid.longitude[0][:: -1 if self.east_first else 1]))
        elif grid.y is not None:
            self.east_first = bool(grid.x is not None and grid.x[0] > grid.x[-1])
        else:
            self.notes.append("without coordinates the rows keep the source's order, and north is unknown")
        if self.north_first:
            self.notes.append("turned: rows ran from north to south")

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
            expected = f"{variable.units}, or one of {', '.join(CONVERSIONS[variable.units])}"
            fix = "convert it and correct its units attribute, or leave it out with --variables"
            raise fault(self.parts[p].path, f"the unit {found!r} of {array}", expected, fix)
        if scale != (1, 0):
            self.notes.append(f"converted: {array}: {found} turned into {variable.units}")
        return scale

    def _plan_blocks(self, memory: float, twice: list) -> None:
        """How the chunks of the source lie, and how many hours are decoded together."""
        self.written: dict = {}  # which chunks exist, of zarr arrays whose fill value is a number
        self.held: dict[str, tuple[int, int, np.ndarray]] = {}  # part, first index, decoded hours: a block for each
        self.chunks: dict[tuple[str, int], tuple[int, int, int, int]] = {}  # hours, cells, first index and end
        for name, p in self.scales:
            part, raw = self.parts[p], self.parts[p].dataset[self.arrays[name][p]]
            shape = raw.encoding.get("chunks") or raw.encoding.get("chunksizes") or ()
            if len(shape) != raw.ndim:  # contiguous, or a dimension was selected
                shape = [1 if d == part.time else n for d, n in raw.sizes.items()]
            places = [*(held[name] for held in self.hours.values()), *(b for _, n, _, b in twice if n == name)]
            if name in self.totals:  # the hours before too, from which they are counted
                places += [self.sums[t - HOUR] for t in self.hours if t - HOUR in self.sums]
            if used := [i for q, i in places if q == p]:
                hours = min(int(shape[raw.dims.index(part.time)]), len(part.times)) if part.time else 1
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
        held, start, block = self.held.get(name, (p, 0, np.empty(0)))
        if held != p or not start <= index < start + len(block):
            block = None
            self.held.pop(name, None)  # so that two blocks are never in memory together
            hours, cells, first, end = self.chunks[name, p]
            chunk, length = index // hours * hours, min(self.fit, hours)
            start = chunk + (index - chunk) // length * length
            stop = min(start + length, chunk + hours, end)
            start = max(start, first)
            with zarr.config.set({"async.concurrency": int(min(10, max(1, self.memory // (4 * cells))))}):
                block = self._without_lost(name, p, start, self.parts[p].read(self.arrays[name][p], start, stop))
            self.held[name] = p, start, block
        return block[index - start]

    def _without_lost(self, name: str, p: int, start: int, block: np.ndarray) -> np.ndarray:
        """The block with NaN in the chunks that do not exist, for which zarr returns a number: nobody's weather."""
        part, array = self.parts[p], self.arrays[name][p]
        if "://" in part.path or not Path(part.path).is_dir():
            return block
        if (name, p) not in self.written:
            group, order = zarr.open_group(part.path, mode="r"), (part.time, *part.dims[array])
            written, fill = Written(group, [array]), group[array].fill_value
            as_numbers = (fill is None or not np.isnan(fill)) and not written.complete(array)
            if as_numbers and (group[array].ndim != 3 or part.dataset[array].dims != order):
                raise ValueError("chunks that were never written, which read as numbers")
            self.written[name, p] = written if as_numbers else None
        if (written := self.written[name, p]) is not None:
            block = block.copy() if not block.flags.writeable else block
            for i in range(len(block)):
                written.blank(array, start + i, block[i])
        return block

    def _field(self, name: str, p: int, index: int) -> np.ndarray:
        """One field in table units and our orientation."""
        factor, offset = self.scales[name, p]
        part, variable = self.parts[p], lookup(name)
        try:
            field = self._turn(self._decoded(name, p, index))
        except (OSError, RuntimeError, ValueError) as error:  # what a broken chunk raises, by codec
            where, fix = f"{part.path}: {name} cannot be read", "fetch or write the source again"
            raise fault(where, str(error), "whole chunks", fix) from error
        time, array = show(part.times[index]), self.arrays[name][p]
        packing = tuple(part.dataset[array].encoding.get(k, d) for k, d in (("scale_factor", 1), ("add_offset", 0)))
        refuse_undeclared(part.path, name, field, time, array, (factor, offset), packing)
        if (factor, offset) != (1, 0):  # in double precision, so that 20 C is 293.15 K to the last digit
            field = (field.astype(np.float64) * factor + offset).astype(np.float32)
        mean = float(np.nanmean(field)) if variable.units == "K" and np.isfinite(field).any() else np.nan
        if mean < variable.lower or mean > variable.upper:
            got, fix = f"the mean {mean:.1f} of {name} at {time}", "correct its units attribute (degC, say)"
            raise fault(part.path, got, "kelvin", fix)
        return field

    def _hour(self, name: str, time: np.datetime64) -> np.ndarray:
        """The field of an hour; of a sum since the start of a run, what was added in the hour."""
        p, index = self.hours[time][name]
        if name not in self.totals or self.parts[p].first_hour:
            return self._field(name, p, index)
        before = self._field(name, *self.sums[time - HOUR]).copy()
        rain = self._field(name, p, index) - before
        if np.isnan(rain).all() or falls(before, before + rain):
            raise HourUnavailable(f"{name} is a sum since the start of the run, and the hour before is of another run")
        return np.maximum(rain, 0)

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        return {name: self._hour(name, time) for name in self.names}

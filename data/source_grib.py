"""The hours that a folder of GRIB2 files holds, for data/build_hrrr.py.

Valid times and lead times come from the messages, never from file names.
"""

from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.command import nearest
from data.grib import Field, decode, is_grib, locate, scan
from data.grid import Grid, same_grid
from data.times import hours_of, show
from data.variables import STATIC, TABLE, known, lookup

KINDS = {0: "f00 (analyses)", 1: "f01 (1-hour forecasts)"}
LISTED = 20  # lines of a list that are printed before "and N more"


class GribHours:
    """The hours that a folder of GRIB2 files holds; `load` decodes one.

    Attributes: times (sorted, ns), names, forecast_hour (0 or 1), grid, source, notes (lines to print).
    Raises ValueError for a folder without usable hours, a damaged file, two different fields for one hour and
    variable, or more than one grid.
    """

    source = "HRRR GRIB2 files"

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        refuse_missing_path(cfg.path, "a folder of GRIB2 files")
        refuse_unknown(cfg.variables)
        self.notes: list[str] = []
        self.fields: dict[int, dict[np.datetime64, dict[str, Field]]] = {0: {}, 1: {}}
        self.static: dict[str, Field] = {}
        self.twice: list[tuple[str, Field, Field]] = []  # variable, the field that is used, another
        self._index(cfg.path, first, last)
        wanted = [lookup(n).name for n in cfg.variables]
        self.forecast_hour = self._kind(cfg.forecast_hour, wanted)
        self.hours = self.fields[self.forecast_hour]
        self.names = self._names(wanted)
        self._leave_out_incomplete()
        self.times = sorted(self.hours)
        self._refuse_contradictions()
        self.grid = self._grid()

    def _index(self, path: str, first: np.datetime64 | None, last: np.datetime64 | None) -> None:
        """Fill `fields`, `static` and `twice` from the headers of every file; note what is left out."""
        everything = [Path(path)] if Path(path).is_file() else sorted(p for p in Path(path).rglob("*") if p.is_file())
        files = [p for p in everything if is_grib(p)]
        leads: dict[float, set[Path]] = {}
        between, outside, unmatched = Counter(), set(), 0
        for file in tqdm(files, desc="headers", unit="file", disable=None):
            matched = [(v, f) for f in scan(file) for v in (*TABLE, *STATIC) if f.matches(v)]
            unmatched += not matched
            for variable, found in matched:
                lead, time = hours_of(found.lead_time), found.valid_time
                if variable in STATIC:
                    self.static.setdefault(variable.name, found)
                elif lead % 1 or time != time.astype("datetime64[h]"):
                    between[file] += 1
                elif lead not in self.fields:
                    leads.setdefault(lead, set()).add(file)
                elif (first is not None and time < first) or (last is not None and time > last):
                    outside.add(time)
                elif (kept := self.fields[lead].setdefault(time, {}).setdefault(variable.name, found)) is not found:
                    self.twice.append((variable.name, kept, found))
        for lead, paths in sorted(leads.items()):
            self.notes.append(f"left out: lead time f{lead:02.0f} in {counted(paths)}; a store holds f00 or f01")
        if between:
            self.notes.append(f"left out: fields between the hours (sub-hourly output), {between.total()} in "
                              f"{counted(between)}; those on the hour count like any other")  # fmt: skip
        if unmatched:
            self.notes.append(f"left out: {unmatched} GRIB files without any of the table's variables")
        if len(everything) > len(files):
            self.notes.append(f"left out: {len(everything) - len(files)} files that are not GRIB")
        if outside and not any(self.fields.values()):
            raise ValueError(f"start/end: got no hour of {path} between them, expected some of {show(min(outside))} to "
                             f"{show(max(outside))}. Fix: --start and --end in that range")  # fmt: skip
        if not any(self.fields.values()):
            raise ValueError(f"path: got no usable hour from {len(files)} GRIB files in {path} "
                             f"({'; '.join(self.notes) or 'it is empty'}), expected f00 or f01 fields of "
                             f"{' '.join(v.name for v in TABLE)}. Fix: --path FOLDER of such files")  # fmt: skip

    def _kind(self, choice: str, wanted: list[str]) -> int:
        """0 or 1: the user's choice, or the kind with more hours that hold the wanted variables."""
        hours = {k: sum(all(w in fields for w in wanted) for fields in f.values()) for k, f in self.fields.items()}
        if choice == "auto":
            kind = 1 if hours[1] > hours[0] else 0
            if hours[1 - kind]:
                self.notes.append(f"{KINDS[kind]} chosen, {hours[kind]} hours; left out: {hours[1 - kind]} hours of "
                                  f"{KINDS[1 - kind]}. The other: --forecast_hour {1 - kind}")  # fmt: skip
            return kind if hours[kind] else int(len(self.fields[1]) > len(self.fields[0]))
        kind = int(choice)
        if not self.fields[kind]:
            raise ValueError(f"forecast_hour: got {kind}, of which there is no hour, expected {1 - kind} "
                             f"({len(self.fields[1 - kind])} hours). Fix: --forecast_hour {1 - kind}")  # fmt: skip
        return kind

    def _names(self, wanted: list[str]) -> list[str]:
        """The variables to store, in the table's order; ValueError for a wanted one that no file has."""
        count = Counter(name for fields in self.hours.values() for name in fields)
        for name in wanted:
            if name not in count:
                raise ValueError(f"variables: got {name}, which no file of {KINDS[self.forecast_hour]} has, expected "
                                 f"some of {' '.join(count)}. Nearest: {nearest(name, count)}. "
                                 "Fix: name others with --variables")  # fmt: skip
        names = [v.name for v in TABLE if (v.name in wanted if wanted else count[v.name] * 2 > len(self.hours))]
        absent = [f"{v.name} ({count[v.name]} of {len(self.hours)} hours)" for v in TABLE if v.name not in names]
        if absent and not wanted:
            self.notes.append(f"not in most hours, so not stored: {', '.join(absent)}")
        return names

    def _leave_out_incomplete(self) -> None:
        lines = []
        for time in sorted(self.hours):
            if lacking := [n for n in self.names if n not in self.hours[time]]:
                files = sorted({str(f.path) for f in self.hours.pop(time).values()})
                lines.append(f"left out: {show(time)} lacks {' '.join(lacking)} ({', '.join(files)})")
        self.notes += listed(lines)
        if not self.hours:
            raise ValueError(f"variables: got no hour that has {' '.join(self.names)} together, expected one. "
                             f"First: {lines[0]}. Fix: fewer --variables")  # fmt: skip

    def _refuse_contradictions(self) -> None:
        """Two fields for one hour and variable must be equal: else there is no telling which one is right."""
        twice = [(n, a, b) for n, a, b in self.twice if self.hours.get(a.valid_time, {}).get(n) is a]
        for name, a, b in twice:
            if not np.array_equal(decode(a), decode(b), equal_nan=True):
                raise ValueError(f"{a.path} and {b.path}: got different {name} for {show(a.valid_time)}, expected one "
                                 "file per hour or equal values. Fix: move one away")  # fmt: skip
        if twice:
            self.notes.append(f"{len(twice)} fields occur twice with equal values, the first is used; left out: "
                              f"{counted({b.path for _, _, b in twice})}")  # fmt: skip

    def _grid(self) -> Grid:
        """The one grid of all fields that are used, with its static fields; ValueError naming two that differ."""
        one = self.hours[self.times[0]][self.names[0]]
        grid, seen = locate(one), {one.grid_section}
        fields = [self.hours[t][n] for t in self.times for n in self.names]
        for other in [*fields, *self.static.values()]:
            if other.grid_section not in seen:
                if not same_grid(grid, locate(other)) or one.winds_follow_grid != other.winds_follow_grid:
                    raise ValueError(f"{one.path} and {other.path}: got different grids, expected one grid. "
                                     "Fix: a folder for each")  # fmt: skip
                seen.add(other.grid_section)
        if {"U10", "V10"} & set(self.names) and not one.winds_follow_grid:
            self.notes.append("winds point east and north, not along the grid's x and y as in HRRR")
        for name, found in self.static.items():
            values = decode(found)
            if np.isnan(values).any():
                self.notes.append(f"{name} is not stored: it has missing values in {found.path}")
            else:
                grid.static[name] = values
        return grid

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        """One hour: {name: (y, x) in table units}, NaN where the file has no value."""
        return {name: decode(self.hours[time][name]) for name in self.names}


def counted(paths) -> str:
    """ "3 files (the first)" for a message."""
    return f"{len(paths)} file{'s' * (len(paths) > 1)} ({min(paths)}{' ...' * (len(paths) > 1)})"


def listed(lines: list[str]) -> list[str]:
    """The first lines of a list, and how many more there are."""
    more = len(lines) - LISTED
    return lines if more <= 0 else [*lines[:LISTED], f"and {more} more like these"]


def refuse_missing_path(path: str, expected: str) -> None:
    """ValueError for a local path that does not exist."""
    if "://" not in path and not Path(path).exists():
        raise ValueError(f"path: got {path}, which does not exist, expected {expected}. Fix: --path")


def refuse_unknown(variables: list[str]) -> None:
    """ValueError for a wanted variable that the table does not know."""
    for name in variables:
        if not known(name):
            names = [v.name for v in TABLE]
            raise ValueError(f"variables: got {name!r}, expected names of data/variables.py. "
                             f"Nearest: {nearest(name, names)}. Fix: --variables {' '.join(names)}")  # fmt: skip

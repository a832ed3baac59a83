"""The hours that a folder of GRIB files holds."""

from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.command import fault
from data.grid import same_grid
from data.opening import what_is
from data.sources import HOUR, Source, counted, outside, refuse_missing_path, refuse_unknown
from data.sources.messages import Field, decode, import_eccodes, locate, read_order, scan
from data.times import hours_of, show
from data.variables import STATIC, TABLE, lookup

SUFFIXES = (".grib2", ".grb2", ".grib", ".grb", ".grib1")  # a file of these names that is not GRIB inside is refused
HEADER = 256  # bytes that may stand before the first message: a bulletin header


class OneGrid(Source):
    """A source of fields that lie on one grid, with winds of one kind."""

    def __init__(self):
        self.grid, self.first, self.described = None, None, {}
        self.seen: set[str] = set()  # hashes of sections that describe this grid

    def accept(self, field: Field) -> None:
        """Take note of the grid and the winds of a field; ValueError naming two files that differ."""
        self.first, self.grid = self.first or field, self.grid or locate(field)
        where = f"{self.first.path} and {field.path}"
        if field.grid not in self.seen and not same_grid(self.grid, locate(field)):
            raise fault(where, "different grids", "one grid", "a folder for each")
        self.seen.add(field.grid)
        if -1 not in (lookup(field.name).parity_x, lookup(field.name).parity_y):
            return  # no component of a vector
        if any(about.get("wind_reference", field.wind) != field.wind for about in self.described.values()):
            raise fault(where, "winds along the grid and winds to the east and north", "one kind", "a folder for each")
        self.described[field.name] = self.described.get(field.name, {}) | {"wind_reference": field.wind}


class GribHours(OneGrid):
    """The hours that a folder of GRIB files holds; `load` decodes one. ValueError for a folder without usable hours, a
    damaged file, two different fields for one hour and variable, or more than one grid."""

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        super().__init__()
        refuse_missing_path(cfg.path, "a folder of GRIB files")
        refuse_unknown(cfg.variables)
        import_eccodes()
        self.source, self.notes = "GRIB files", []
        fields, static, twice = self._index(cfg, first, last)
        self.choose(fields, cfg)
        self.refuse_contradictions(twice, lambda name, field: decode(field), lambda field: field.path)
        self._locate(static)

    def _index(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None) -> tuple[dict, dict, list]:
        """Fields by kind, time and variable from the headers of every file; static fields; (time, variable, the field
        that is used, another) for those that occur twice. Notes what is left out."""
        path, kinds = cfg.path, {0, 1} if cfg.forecast_hour == "auto" else {0, 1, int(cfg.forecast_hour)}
        everything = [Path(path)] if Path(path).is_file() else sorted(p for p in Path(path).rglob("*") if p.is_file())
        files = [p for p in everything if is_grib(p)]
        fields: dict[int, dict[np.datetime64, dict[str, Field]]] = {k: {} for k in kinds}
        static, twice, beyond, left = {}, [], set(), {}  # left: reason -> files
        for file in tqdm(files, desc="headers", unit="file", disable=None):
            passed: Counter = Counter()
            for one in (found := scan(file, passed)):
                lead, time = hours_of(one.lead_time), one.valid_time
                if one.name in [v.name for v in STATIC]:
                    static.setdefault(one.name, one)
                elif np.isnat(one.lead_time) or one.lead_time % HOUR or time != time.astype("datetime64[h]"):
                    left.setdefault("fields between the hours (sub-hourly output)", []).append(file)
                elif lead not in fields:
                    left.setdefault(f"lead time f{lead:02.0f}; a store holds f00 or f01", []).append(file)
                elif outside(time, first, last):
                    beyond.add(time)
                elif (kept := fields[lead].setdefault(time, {}).setdefault(one.name, one)) is not one:
                    twice.append((time, one.name, kept, one))
            for reason in passed if not found else [r for r in passed if r.startswith("ensemble")]:
                left.setdefault(reason, []).append(file)
        self.notes += [f"left out: {reason}, in {counted(set(paths))}" for reason, paths in sorted(left.items())]
        if others := len(everything) - len(files):
            self.notes.append(f"left out: {others} files that are not GRIB")
        if beyond and not any(fields.values()):
            raise fault("start/end", f"no hour of {path} between them", f"some of {show(min(beyond))} to "
                        f"{show(max(beyond))}", "--start and --end in that range")  # fmt: skip
        if not any(fields.values()):
            got = f"no usable hour from {len(files)} GRIB files in {path} ({'; '.join(self.notes) or 'it is empty'})"
            expected = f"f00 or f01 fields of {' '.join(v.name for v in TABLE)}"
            fix = what_is(everything[0])[1] if everything and not files else ""
            raise fault("path", got, expected, fix or "--path FOLDER of such files")
        return fields, static, twice

    def _locate(self, static: dict[str, Field]) -> None:
        """The one grid of all fields that are used, with its static fields, and what the winds follow; ValueError
        naming two fields that differ."""
        used = [self.hours[t][n] for t in self.times for n in self.names]
        for field in [*used, *static.values()]:
            self.accept(field)
        self.notes += read_order(used[0])
        for name, found in static.items():
            self.grid.static[name] = decode(found)
            if np.isnan(self.grid.static[name]).any():
                self.notes.append(f"left out: {name}, which has missing values in {found.path}")
                del self.grid.static[name]

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        return {name: decode(self.hours[time][name]) for name in self.names}


def is_grib(path: Path) -> bool:
    """Whether the file begins with GRIB or with a bulletin header before it; ValueError for one that is called GRIB but
    is something else."""
    if path.name.startswith("._"):  # what macOS leaves beside a file
        return False
    with open(path, "rb") as file:
        head = file.read(HEADER)
    start = head.find(b"GRIB")
    found = start >= 0 and head[start + 7 : start + 8] in (b"\1", b"\2")  # the edition: no text that speaks of GRIB
    if not found and path.suffix.lower() in SUFFIXES:
        what, fix = what_is(path)
        raise fault(f"{path}: no GRIB file", what, "a message that begins with b'GRIB'", fix)
    return found

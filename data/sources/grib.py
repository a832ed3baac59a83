"""The hours that a folder of GRIB2 files holds, and read-only access to such files.

A field is identified by the octets of its message (parameter, level, reference time, lead time), never by its
position in the file or by the file's name. The headers are read here, so that the first pass over a folder touches a
few hundred bytes a message; gribberish unpacks the values and locates the cells (`_ask` is the only place that knows
it). Source: WMO Manual on Codes I.2, FM 92 GRIB edition 2 (sections 0-8, templates 3.n, 4.0, 5.n).
"""

import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.command import fault
from data.grid import Grid, same_grid
from data.sources import Source, counted, outside, refuse_missing_path, refuse_unknown
from data.times import hours_of, show
from data.variables import STATIC, TABLE, Variable

SUFFIXES = (".grib2", ".grb2", ".grib", ".grb")  # a file of these names that is not GRIB inside is refused

# NOAA's abbreviation -> (discipline, category, number); names of levels -> types of the first fixed surface.
PARAMETERS = {
    "REFC": (0, 16, 196), "TMP": (0, 0, 0), "DPT": (0, 0, 6), "UGRD": (0, 2, 2), "VGRD": (0, 2, 3),
    "CAPE": (0, 7, 6), "CIN": (0, 7, 7), "APCP": (0, 1, 8), "HGT": (0, 3, 5), "LAND": (2, 0, 0),
}  # fmt: skip
LEVELS = {"ground or water surface": (1,), "height above ground": (103,), "entire atmosphere": (10, 200)}
SECONDS = {0: 60, 1: 3600, 2: 86400, 10: 3 * 3600, 11: 6 * 3600, 12: 12 * 3600, 13: 1}  # per unit of lead time
FLAGS = {0: (54, 71), 10: (46, 59), 20: (46, 64), 30: (46, 64)}  # grid template -> bytes of wind and scanning flags


class GribHours(Source):
    """The hours that a folder of GRIB2 files holds; `load` decodes one. ValueError for a folder without usable hours, a
    damaged file, two different fields for one hour and variable, or more than one grid."""

    source = "HRRR GRIB2 files"

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        refuse_missing_path(cfg.path, "a folder of GRIB2 files")
        refuse_unknown(cfg.variables)
        self.notes: list[str] = []
        fields, static, twice = self._index(cfg.path, first, last)
        self.choose(fields, cfg)
        self.refuse_contradictions(twice, lambda name, field: decode(field), lambda field: field.path)
        self.grid = self._grid(static)

    def _index(self, path: str, first: np.datetime64 | None, last: np.datetime64 | None) -> tuple[dict, dict, list]:
        """Fields by kind, time and variable from the headers of every file; static fields; (time, variable, the field
        that is used, another) for those that occur twice. Notes what is left out."""
        everything = [Path(path)] if Path(path).is_file() else sorted(p for p in Path(path).rglob("*") if p.is_file())
        files = [p for p in everything if is_grib(p)]
        fields: dict[int, dict[np.datetime64, dict[str, Field]]] = {0: {}, 1: {}}
        static, twice, leads, between, beyond, unmatched = {}, [], {}, Counter(), set(), 0
        for file in tqdm(files, desc="headers", unit="file", disable=None):
            matched = [(v, f) for f in scan(file) for v in (*TABLE, *STATIC) if f.matches(v)]
            unmatched += not matched
            for variable, found in matched:
                lead, time = hours_of(found.lead_time), found.valid_time
                if variable in STATIC:
                    static.setdefault(variable.name, found)
                elif lead % 1 or time != time.astype("datetime64[h]"):
                    between[file] += 1
                elif lead not in fields:
                    leads.setdefault(lead, set()).add(file)
                elif outside(time, first, last):
                    beyond.add(time)
                elif (kept := fields[lead].setdefault(time, {}).setdefault(variable.name, found)) is not found:
                    twice.append((time, variable.name, kept, found))
        self.notes += [f"left out: lead time f{lead:02.0f} in {counted(paths)}; a store holds f00 or f01"
                       for lead, paths in sorted(leads.items())]  # fmt: skip
        if between:
            self.notes.append(f"left out: fields between the hours (sub-hourly output), {between.total()} in "
                              f"{counted(between)}; those on the hour count like any other")  # fmt: skip
        if unmatched:
            self.notes.append(f"left out: {unmatched} GRIB files without any of the table's variables")
        if len(everything) > len(files):
            self.notes.append(f"left out: {len(everything) - len(files)} files that are not GRIB")
        if beyond and not any(fields.values()):
            raise fault("start/end", f"no hour of {path} between them", f"some of {show(min(beyond))} to "
                        f"{show(max(beyond))}", "--start and --end in that range")  # fmt: skip
        if not any(fields.values()):
            got = f"no usable hour from {len(files)} GRIB files in {path} ({'; '.join(self.notes) or 'it is empty'})"
            expected = f"f00 or f01 fields of {' '.join(v.name for v in TABLE)}"
            raise fault("path", got, expected, "--path FOLDER of such files")
        return fields, static, twice

    def _grid(self, static: dict[str, "Field"]) -> Grid:
        """The one grid of all fields that are used, with its static fields; ValueError naming two that differ."""
        one = self.hours[self.times[0]][self.names[0]]
        grid, seen = locate(one), {one.grid_section}
        for other in [*(self.hours[t][n] for t in self.times for n in self.names), *static.values()]:
            if other.grid_section not in seen and not other.on_grid_of(one, grid):
                raise fault(f"{one.path} and {other.path}", "different grids", "one grid", "a folder for each")
            seen.add(other.grid_section)
        self.notes += note_winds(one, self.names)
        for name, found in static.items():
            grid.static[name] = decode(found)
            if np.isnan(grid.static[name]).any():
                self.notes.append(f"{name} is not stored: it has missing values in {found.path}")
                del grid.static[name]
        return grid

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        return {name: decode(self.hours[time][name]) for name in self.names}


def note_winds(field: "Field", names: list[str]) -> list[str]:
    """A note if winds do not follow the grid."""
    turned = {"U10", "V10"} & set(names) and not field.winds_follow_grid
    return ["winds point east and north, not along the grid's x and y as in HRRR"] if turned else []


# --- single fields ---


@dataclass(frozen=True, slots=True)
class Field:
    """One instantaneous field on one level, and where it lies."""

    path: Path
    offset: int  # bytes from the start of the file to its message
    part: int  # 0, or its place in a message that holds several fields
    parameter: tuple[int, int, int]  # discipline, category, number
    surface: int  # type of the level
    level: float  # its value: m above ground; 0 where the level has none
    reference_time: np.datetime64  # the run, ns
    lead_time: np.timedelta64  # ns
    grid_section: bytes  # Section 3: equal bytes are equal grids

    @property
    def valid_time(self) -> np.datetime64:
        return self.reference_time + self.lead_time

    @property
    def winds_follow_grid(self) -> bool:
        """Whether vectors point along the grid's x and y; else they point east and north (flag table 3.3)."""
        return bool(self._flags(0) & 0x08)

    def matches(self, variable: Variable) -> bool:
        """Whether this is that variable of data/variables.py."""
        if variable.grib is None:
            return False
        abbreviation, level_type, level = variable.grib
        on_level = self.surface in LEVELS[level_type] and self.level == level
        return self.parameter == PARAMETERS[abbreviation] and on_level

    def on_grid_of(self, other: "Field", grid: Grid) -> bool:
        """Whether this field lies on `grid`, that of another field, with winds along the same axes."""
        return same_grid(grid, locate(self)) and self.winds_follow_grid == other.winds_follow_grid

    def orient(self, values: np.ndarray) -> np.ndarray:
        """A flat array in the message's order as (y, x), rows south to north, columns west to east."""
        scanning = self._flags(1)  # flag table 3.4
        columns, rows = struct.unpack(">II", self.grid_section[30:38])
        if values.size != rows * columns or scanning & 0x30:
            got = f"{values.size} values in scanning mode {scanning}"
            raise damaged(self.path, self.offset, got, f"{rows} x {columns} values, every row in the same direction")
        out = values.reshape(rows, columns)
        return out[:: 1 if scanning & 0x40 else -1, :: -1 if scanning & 0x80 else 1]

    def _flags(self, which: int) -> int:
        template = int.from_bytes(self.grid_section[12:14])
        if template not in FLAGS or len(self.grid_section) <= FLAGS[template][which]:
            raise damaged(self.path, self.offset, f"grid template 3.{template}", "Lambert, polar, Mercator or lat/lon")
        return self.grid_section[FLAGS[template][which]]


def is_grib(path: Path) -> bool:
    """Whether the file begins as GRIB; ValueError for one that is called GRIB but is something else."""
    with open(path, "rb") as file:
        head = file.read(4)
    if head != b"GRIB" and path.suffix.lower() in SUFFIXES:
        raise damaged(path, 0, str(head) if head else "an empty file", "b'GRIB'")
    return head == b"GRIB"


def scan(path: Path) -> list[Field]:
    """Every instantaneous field on a single level, in the order of the file; no values are read.

    Averages, accumulations, extremes and layers such as 180-0 mb above ground are passed over.
    Raises ValueError, naming file and offset, for a file that is cut short or damaged.
    """
    fields = []
    with _mapped(path) as data:
        offset = 0
        while offset < len(data):
            end = _end(data, path, offset)
            for part, sections in enumerate(_parts(data, path, offset, end)):
                product = data[slice(*sections[4])]
                if len(product) < 34 or product[7:9] != b"\0\0":  # template 4.0: one level at one instant
                    continue
                category, number, unit, lead = struct.unpack(">9xBB6xBI", product[:22])
                surface, scale, level, second = struct.unpack(">BBIB", product[22:29])
                if second != 255 or unit not in SECONDS:
                    continue
                power = -(scale & 0x7F) if scale & 0x80 else scale
                fields.append(Field(
                    path, offset, part, (data[offset + 6], category, number), surface,
                    0.0 if scale == 255 or level == 0xFFFFFFFF else level / 10.0**power,
                    _reference_time(data, path, offset, sections[1]),
                    np.timedelta64(lead * SECONDS[unit], "s").astype("timedelta64[ns]"), data[slice(*sections[3])],
                ))  # fmt: skip
            offset = end
    return fields


def decode(field: Field) -> np.ndarray:
    """The values (y, x) float64 in GRIB's units, south to north, NaN where the bitmap says missing."""
    values = _ask("parse_grib_array", field)
    if np.isinf(values).any():
        raise damaged(field.path, field.offset, "infinite values", "finite ones")
    return field.orient(values)


def locate(field: Field) -> Grid:
    """The grid of a field: latitude and longitude, and x, y (m) and projection where it is Lambert conformal."""
    about = _ask("parse_grib_message_metadata", field)
    latitude, longitude = (np.asarray(v) for v in about.latlng())
    columns, rows = struct.unpack(">II", field.grid_section[30:38])
    if (latitude.size, longitude.size) == (rows, columns):  # a regular grid: one latitude per row
        latitude, longitude = (v.ravel() for v in np.meshgrid(latitude, longitude, indexing="ij"))
    latitude, longitude = field.orient(latitude), field.orient(longitude)
    grid = Grid(latitude.shape, latitude=latitude, longitude=(longitude + 180.0) % 360.0 - 180.0)
    terms = dict(term.lstrip("+").split("=") for term in about.proj.split() if "=" in term)
    if terms.get("proj") == "lcc":
        x, y = about.xy()
        grid.x, grid.y = np.sort(x), np.sort(y)  # as `orient` turns the fields
        parallels = sorted({float(terms["lat_1"]), float(terms["lat_2"])})
        sphere = terms["a"] == terms["b"]
        axes = {"earth_radius": "a"} if sphere else {"semi_major_axis": "a", "semi_minor_axis": "b"}
        grid.projection = {
            "grid_mapping_name": "lambert_conformal_conic",
            "standard_parallel": parallels[0] if len(parallels) == 1 else parallels,
            "latitude_of_projection_origin": float(terms["lat_0"]),
            "longitude_of_central_meridian": float(terms["lon_0"]),
            **{name: float(terms[axis]) for name, axis in axes.items()},
        }
    return grid


# --- framing ---


def _end(data: mmap.mmap, path: Path, offset: int) -> int:
    """Where the message at `offset` ends, from Section 0; ValueError unless it is whole."""
    head = data[offset : offset + 16]
    if head[:4] != b"GRIB":
        raise damaged(path, offset, str(head[:4]), "the next message, b'GRIB'")
    if len(head) == 16 and head[7] != 2:
        raise damaged(path, offset, f"GRIB edition {head[7]}", "edition 2")
    length = struct.unpack(">Q", head[8:])[0] if len(head) == 16 else 16
    if offset + length > len(data):
        raise damaged(path, offset, f"{len(data) - offset} bytes", f"{length}: the file is cut short")
    if length < 20 or data[offset + length - 4 : offset + length] != b"7777":
        raise damaged(path, offset, "no b'7777' at the end of the message", "it")
    return offset + length


def _parts(data: mmap.mmap, path: Path, offset: int, end: int) -> Iterator[dict[int, tuple[int, int]]]:
    """Each field of a message as {section number: (start, end)}; a section that repeats replaces the earlier one."""
    sections: dict[int, tuple[int, int]] = {}
    start, number = offset + 16, 0
    while start < end - 4:
        length, number, bitmap = struct.unpack(">IBB", data[start : start + 6])
        if length < 5 or start + length > end - 4 or not 1 <= number <= 7:
            raise damaged(path, offset, f"Section {number} of {length} bytes", "Sections 1 to 7 inside the message")
        if number != 6 or bitmap in (0, 255):
            sections[number] = (start, start + length)
        elif bitmap != 254 or 6 not in sections:  # 254: the bitmap before holds again
            raise damaged(path, offset, f"bitmap indicator {bitmap}", "a bitmap in the message, or none")
        start += length
        if number == 7:
            if not {1, 3, 4, 5, 6} <= sections.keys():
                raise damaged(path, offset, f"only Sections {sorted(sections)}", "1, 3, 4, 5, 6 and 7")
            yield dict(sections)
    if number != 7:
        raise damaged(path, offset, f"Section {number} as the last", "Section 7")


def _reference_time(data: mmap.mmap, path: Path, offset: int, section: tuple[int, int]) -> np.datetime64:
    parts = struct.unpack(">H5B", data[section[0] + 12 : section[0] + 19])  # year, month, day, hour, minute, second
    try:
        return np.datetime64(datetime(*parts), "ns")
    except ValueError:
        raise damaged(path, offset, f"the reference time {parts}", "a date") from None


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def damaged(path: Path, offset: int, got: str, expected: str) -> ValueError:
    return fault(f"{path}: at byte {offset}", got, expected, "download the file again, or move it out of the folder")


# --- gribberish ---


def import_gribberish():
    """The package; ValueError if it is not installed."""
    try:
        import gribberish
    except ImportError:
        fix = ".venv/bin/python -m pip install 'gribberish>=0.30'"
        raise fault("GRIB", "no package gribberish", "it", fix) from None
    return gribberish


def _ask(function: str, field: Field):
    """The result of a gribberish function for one field, called with the bytes of its message."""
    gribberish = import_gribberish()
    with _mapped(field.path) as data:
        end = _end(data, field.path, field.offset)
        sections = list(_parts(data, field.path, field.offset, end))[field.part]
        body = b"".join(data[slice(*sections[number])] for number in sorted(sections))
        message = data[field.offset : field.offset + 8] + struct.pack(">Q", len(body) + 20) + body + b"7777"
        packing = data[slice(*sections[5])]
    where = f"{field.path}: the message at byte {field.offset}"
    repack = "download it again, or repack it with `wgrib2 FILE -set_grib_type simple -grib_out NEW`"
    if packing[9:11] in (b"\0\2", b"\0\3") and packing[22:23] != b"\0":  # gribberish takes them for numbers
        raise fault(where, "missing values among its packed values", "a bitmap", repack)
    try:
        with _silence():
            return getattr(gribberish, function)(message, 0)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of gribberish's Rust code is no Exception
        raise fault(f"{where} cannot be decoded", str(error), "a field", repack) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on stderr meanwhile: a Rust panic prints there before it becomes an exception."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)

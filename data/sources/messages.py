"""Fields of GRIB files, editions 1 and 2, found and decoded by eccodes.

A field is identified by its message (parameter, level, times), never by its position in the file or by the file's name.
What stands between messages (bulletin headers, padding) is passed over. Source: WMO Manual on Codes I.2, FM 92 GRIB;
eccodes' keys (ECMWF).
"""

import ctypes
import os
import signal
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import numpy as np

from data.command import fault
from data.grid import Grid, lambert_xy
from data.sources import HourUnavailable, need
from data.variables import LAND_SEA_MASK, OROGRAPHY, TABLE, undeclared

# A message is known by eccodes' shortName, one of the table's aliases, and by its level; a shortName implies a unit.
KNOWN = {name: v for v in TABLE if v.grib for name in (v.name.lower(), *v.aliases)} | {
    "orog": OROGRAPHY,
    "lsm": LAND_SEA_MASK,
}
LEVELS = {"ground or water surface": ("surface",), "height above ground": ("heightAboveGround",),
          "entire atmosphere": ("atmosphere", "atmosphereSingleLayer")}  # fmt: skip
SPHERES = ("regular_ll", "rotated_ll", "regular_gg", "rotated_gg")  # grids of latitudes and longitudes
PLANES = ("lambert", "polar_stereographic", "mercator", "lambert_azimuthal_equal_area", "albers")
DEADLY = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE)
HANDLER, LIBC = ctypes.CFUNCTYPE(None, ctypes.c_int), ctypes.CDLL(None)
LIBC.signal.restype, LIBC.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
SECONDS = {0: 60, 1: 3600, 2: 86400, 10: 3 * 3600, 11: 6 * 3600, 12: 12 * 3600, 13: 1}  # per unit of lead time
LARGEST = 10**8  # cells of a field: more are a damaged header
LOCK = threading.RLock()  # eccodes and stderr are the process's own: one thread at a time
MISSING = -1e34  # what eccodes puts where a field has no value
I_NEGATIVE, J_POSITIVE, COLUMNS_FIRST, IN_TURN, OFFSET = 0x80, 0x40, 0x20, 0x10, 0x0F  # scanning mode, flag table 3.4
WINDS_ON_GRID = 0x08  # resolution and component flags, flag table 3.3


@dataclass(frozen=True, slots=True)
class Field:
    """One instantaneous field of a variable of the table, on its level, and where it lies."""

    path: Path
    offset: int  # bytes from the start of the file to its message
    part: int  # 0, or its place in a message that holds several fields
    name: str  # in the variables table
    reference_time: np.datetime64  # the run, ns
    valid_time: np.datetime64  # ns
    grid: str  # hash of the section that describes the grid
    wind: str  # what the components of vectors follow: "grid" (its x and y) or "earth" (east and north)

    @property
    def lead_time(self) -> np.timedelta64:
        return self.valid_time - self.reference_time


def scan(path: Path, passed: Counter | None = None) -> list[Field]:
    """Every instantaneous field of a variable of the table on its level, in the order of the file; no values are read.

    Averages, accumulations, extremes and layers such as 180-0 mb above ground are passed over; `passed` counts them in
    words. Raises ValueError, naming file and offset, for a file that is cut short or damaged.
    """
    about = path.stat()
    fields, others = read_headers(path, about.st_mtime_ns, about.st_size)
    if passed is not None:
        passed.update(others)
    return fields


@cache
def read_headers(path: Path, _changed: int, _size: int) -> tuple[list[Field], Counter]:
    """What `scan` gives, once for each file: a build of forecasts asks for every lead time."""
    fields, passed = [], Counter()
    with readable(path, 0) as where:
        for offset, part, message in messages(path):
            where.append(offset)
            words = [get(message, key, "unknown") for key in ("shortName", "typeOfLevel", "edition")]
            if not (name := match(message, *words)):
                passed["{} on {} (GRIB edition {}), not in the table".format(*words)] += 1
            elif get(message, "totalNumber", 0) or get(message, "number", 0):
                passed["ensemble members; a store holds one deterministic forecast"] += 1
            elif get(message, "stepType") != "instant" or get(message, "productDefinitionTemplateNumber", 0):
                passed[f"{name} that is no instantaneous value"] += 1
            else:
                run = read_time(path, offset, get(message, "dataDate"), get(message, "dataTime"))
                lead = read_lead(message, words[2])
                follows = get(message, "resolutionAndComponentFlags", 0) & WINDS_ON_GRID
                fields.append(Field(path, offset, part, name, run, run + lead, get(message, "md5GridSection"),
                                    "grid" if follows else "earth"))  # fmt: skip
    return fields, passed


def match(message: int, name: str, kind: str, edition: int) -> str:
    """The table's name of a message, or "" if it is not in the table or on another level."""
    if not (variable := KNOWN.get(name)):
        return ""
    _, level_type, level = variable.grib
    height = codes().codes_get_double(message, "level") == level
    at_surface = edition == 1 and kind == "surface" and name[0].isdigit()  # 2t says itself where it is
    return variable.name if (kind in LEVELS[level_type] and height) or at_surface else ""


def decode(field: Field) -> np.ndarray:
    """The values (y, x) float32 in the table's unit, rows south to north, columns west to east, NaN where there is
    none."""
    with opened(field) as message:
        rows, columns, mode = read_shape(field, message)
        codes().codes_set_double(message, "missingValue", MISSING)
        values = codes().codes_get_double_array(message, "values")
        if np.isinf(values).any():
            raise damaged(field.path, field.offset, "infinite values", "finite ones")
        values = np.where(values == MISSING, np.nan, values).astype(np.float32)
        if found := undeclared(field.name, values):
            got = f"{found[0]:g} in {found[1]} cells of {field.name}, which no bitmap declares as missing"
            fix = f"`wgrib2 FILE -undefine_val {found[0]:g} -set_grib_type same -grib_out NEW`"
            raise HourUnavailable(f"{field.path}: got {got}, expected weather. Fix: {fix}")
        out = values.reshape((columns, rows) if mode & COLUMNS_FIRST else (rows, columns))
        if mode & IN_TURN:
            out[1::2] = out[1::2, ::-1].copy()
        out = out.T if mode & COLUMNS_FIRST else out
        out = out[:: 1 if mode & J_POSITIVE else -1, :: -1 if mode & I_NEGATIVE else 1]
        return np.roll(out, -first_column(message, columns, mode), axis=1)


# --- grids ---


def read_shape(field: Field, message: int) -> tuple[int, int, int]:
    """Rows, columns and scanning mode; ValueError for a grid without rows of one length."""
    kind, mode = get(message, "gridType", "none"), get(message, "scanningMode", 0)
    rows, columns = (get(message, key, 0) for key in ("Nj", "Ni"))
    size = codes().codes_get_size(message, "values") if rows * columns < LARGEST else 0
    if kind not in (*SPHERES, *PLANES) or mode & OFFSET or rows * columns != size:
        got = f"the grid type {kind} with {size} values in scanning mode {mode}"
        expected = f"rows of one length on one of {', '.join((*SPHERES, *PLANES))}"
        fix = "interpolate it first, with `wgrib2 FILE -new_grid_winds earth -new_grid latlon LON:NX:DX LAT:NY:DY NEW`"
        raise fault(f"{field.path}: the message at byte {field.offset}", got, expected, fix)
    return rows, columns, mode


def read_order(field: Field) -> list[str]:
    """A note about rows and columns that are turned."""
    words = {J_POSITIVE: "rows ran from north to south", I_NEGATIVE: "columns ran from east to west",
             COLUMNS_FIRST: "columns came one after the other", IN_TURN: "every second row ran backwards"}  # fmt: skip
    with opened(field) as message:
        found = [text for bit, text in words.items() if (read_shape(field, message)[2] ^ J_POSITIVE) & bit]
    return [f"turned: {', '.join(found)}"] * bool(found)


def first_column(message: int, columns: int, mode: int) -> int:
    """The westernmost column, counted from 180 W, if rows go around the whole Earth; else 0."""
    if get(message, "gridType") not in ("regular_ll", "regular_gg"):
        return 0
    ends = [get(message, f"longitudeOf{which}GridPointInDegrees") for which in ("First", "Last")]
    west, east = ends[::-1] if mode & I_NEGATIVE else ends
    step = (east - west) % 360 / max(columns - 1, 1)
    around = abs(step * columns - 360) < step / 2
    return int(np.argmin((west + step * np.arange(columns) + 180) % 360)) if around else 0


def locate(field: Field) -> Grid:
    """The grid of a field: latitude and longitude, and x, y (m) and projection if it lies in a plane."""
    with opened(field) as message:
        rows, columns, mode = read_shape(field, message)
        grid, first, north = Grid((rows, columns)), 0, mode & J_POSITIVE
        if get(message, "gridType") in PLANES:
            project(message, mode, grid)
        else:
            first = first_column(message, columns, mode)
            ends = [f"longitudeOf{which}GridPoint" for which in ("First", "Last")]
            turned = [get(message, key) for key in ends[:: -1 if mode & I_NEGATIVE else 1]]
            for key, value in [*zip(ends, turned, strict=True), ("iScansNegatively", 0)]:
                codes().codes_set_long(message, key, value)
        if grid.latitude is None:
            for bit, key in ((COLUMNS_FIRST, "jPointsAreConsecutive"), (IN_TURN, "alternativeRowScanning")):
                if mode & bit:  # eccodes' coordinates do not follow these
                    codes().codes_set_long(message, key, 0)
            found = (codes().codes_get_double_array(message, key) for key in ("latitudes", "longitudes"))
            found = (v.reshape(rows, columns)[:: 1 if north else -1] for v in found)
            grid.latitude, grid.longitude = (np.roll(v, -first, axis=1) for v in found)
    grid.longitude = (grid.longitude + 180.0) % 360.0 - 180.0
    return grid


def project(message: int, mode: int, grid: Grid) -> None:
    """Fill x, y (m) and projection, and latitude and longitude unless eccodes gives them. Lambert on a sphere, counted
    from its southwest corner, needs no further package."""
    rows, columns = grid.shape
    text = get(message, "projString")
    terms = {k: v for k, _, v in (term.lstrip("+").partition("=") for term in text.split())}
    corner = [get(message, f"{n}itudeOfFirstGridPointInDegrees") for n in ("lat", "long")]
    sphere = terms["proj"] == "lcc" and "R" in terms
    southwest = mode & (I_NEGATIVE | J_POSITIVE) == J_POSITIVE
    pyproj = None if sphere and southwest else need("pyproj")
    if sphere:
        numbers = {k: float(terms[k]) for k in ("lat_0", "lat_1", "lat_2", "lon_0", "R")}
        x, y = lambert_xy(*corner, **numbers)
        parallels = sorted({numbers["lat_1"], numbers["lat_2"]})
        grid.projection = {
            "grid_mapping_name": "lambert_conformal_conic",
            "standard_parallel": parallels[0] if len(parallels) == 1 else parallels,
            "latitude_of_projection_origin": numbers["lat_0"],
            "longitude_of_central_meridian": numbers["lon_0"],
            "earth_radius": numbers["R"],
        }
    else:
        x, y = pyproj.Proj(text)(*corner[::-1])
        grid.projection = {k: v for k, v in pyproj.CRS(text).to_cf().items() if k != "crs_wkt" and v != "unknown"}
    dx, dy = (get(message, f"D{a}InMetres") or get(message, f"D{b}InMetres") for a, b in ("xi", "yj"))
    grid.x = x + dx * (np.arange(columns) - (columns - 1) * bool(mode & I_NEGATIVE))
    grid.y = y + dy * (np.arange(rows) - (rows - 1) * (not mode & J_POSITIVE))
    if not southwest:  # eccodes counts every plane from the southwest
        grid.longitude, grid.latitude = pyproj.Proj(text)(*np.meshgrid(grid.x, grid.y), inverse=True)


# --- eccodes ---


@cache
def import_eccodes():
    """The package; ValueError if it is not installed."""
    with suppress(ValueError):  # first: in the other order the interpreter crashes at its end, as both bring PROJ
        need("pyproj")
    eccodes = need("eccodes")
    return eccodes


codes = import_eccodes


def get(message: int, key: str, default=None):
    """A key of a message in its own type, `default` if the message does not have it."""
    try:
        return codes().codes_get(message, key)
    except codes().KeyValueNotFoundError:
        return default


def messages(path: Path, offset: int = 0) -> Iterator[tuple[int, int, int]]:
    """(offset of the message, place in it, handle) of each field of a file from an offset on; a handle is valid until
    the next. ValueError for a message whose sections do not fill it."""
    codes().codes_grib_multi_support_off()  # others in this process may have switched it on
    with open(path, "rb") as file:
        file.seek(offset)
        while (message := codes().codes_grib_new_from_file(file)) is not None:
            try:
                start = int(codes().codes_get_double(message, "offset"))
                parts = split(codes().codes_get_message(message)) if get(message, "edition") == 2 else [b""]
                if not parts:
                    raise damaged(path, start, "sections that do not fill their message", "whole messages")
                if len(parts) == 1:
                    yield start, 0, message
                for n, part in enumerate(parts if len(parts) > 1 else ()):
                    field = codes().codes_new_from_message(part)
                    try:
                        yield start, n, field
                    finally:
                        codes().codes_release(field)
            finally:
                codes().codes_release(message)


def split(message: bytes) -> list[bytes]:
    """A message of edition 2 as messages of one field each; none if its sections do not fill it. (eccodes can do this
    too, but corrupts memory if such a message is damaged.)"""
    held: dict[int, bytes] = {}
    parts, start, number = [], 16, 0
    while start + 5 < len(message):
        length, number = struct.unpack(">IB", message[start : start + 5])
        if length < 5 or not 1 <= number <= 7 or start + length > len(message) - 4:
            return []
        if number != 6 or message[start + 5] != 254 or 6 not in held:  # 254: the bitmap before holds again
            held[number] = message[start : start + length]
        start += length
        if number == 7:
            body = b"".join(held[n] for n in sorted(held))
            parts.append(message[:8] + struct.pack(">Q", len(body) + 20) + body + b"7777")
    return parts if number == 7 and start + 4 == len(message) else []


@contextmanager
def opened(field: Field) -> Iterator[int]:
    """The handle of one field; ValueError for one that eccodes cannot read."""
    found = messages(field.path, field.offset)
    with readable(field.path, field.offset):
        try:
            yield next(message for _, part, message in found if part == field.part)
        finally:
            found.close()


@contextmanager
def readable(path: Path, offset: int) -> Iterator[list[int]]:
    """ValueError that names the file and the last of the yielded offsets if eccodes fails meanwhile; its own lines on
    stderr are not shown. Some damaged messages make it abort: the process then ends with that line and exit code 2."""
    LOCK.acquire()
    where, kept, null = [offset], os.dup(2), os.open(os.devnull, os.O_WRONLY)

    def end(_: int) -> None:
        os.write(kept, f"error: {damaged(path, where[-1], 'one that eccodes cannot read', 'a whole one')}\n".encode())
        os._exit(2)

    handler = HANDLER(end)
    before = [(number, LIBC.signal(number, ctypes.cast(handler, ctypes.c_void_p))) for number in DEADLY]
    os.dup2(null, 2)
    try:
        yield where
    except codes().CodesInternalError as error:
        raise damaged(path, where[-1], f"{error} ({type(error).__name__})", "whole messages") from None
    finally:
        os.dup2(kept, 2)
        for number, other in before:
            LIBC.signal(number, other)
        os.close(kept)
        os.close(null)
        LOCK.release()


def read_lead(message: int, edition: int) -> np.timedelta64:
    """The lead time, ns; NaT in a unit such as months. (eccodes' validityTime may take for ever on a damaged one.)"""
    keys = ("forecastTime",) if edition == 2 else ("P1", "P2") if get(message, "timeRangeIndicator") == 10 else ("P1",)
    count = sum(get(message, key) * 256**n for n, key in enumerate(keys[::-1]))  # in edition 1 of one or two octets
    seconds = SECONDS.get(get(message, "indicatorOfUnitOfTimeRange"))
    return np.timedelta64("NaT" if seconds is None else count * seconds, "s").astype("timedelta64[ns]")


def read_time(path: Path, offset: int, date: int, clock: int) -> np.datetime64:
    """YYYYMMDD and HHMM as a time, ns."""
    try:
        return np.datetime64(datetime.strptime(f"{date:08d}{clock:04d}", "%Y%m%d%H%M"), "ns")
    except ValueError:
        raise damaged(path, offset, f"the date {date}", "a date") from None


def damaged(path: Path, offset: int, got: str, expected: str) -> ValueError:
    where = f"{path}: GRIB message at or after byte {offset}"
    return fault(where, got, expected, "get this file again from its source, or move it out of the folder")

"""The training store: a zarr directory of hourly fields. This docstring is the format.

    <STORE>.zarr                   zarr v2 or v3, read through xarray; local path or fsspec URL
      time           (time,)       datetime64, UTC, sorted, unique, gaps allowed; its CF units decide
      REFC ... CIN   (time, y, x)  float32 in the units of data/variables.py, one chunk per hour and variable,
                                   with a checksum in new stores; attributes units, long_name, standard_name,
                                   grid_mapping
      latitude, longitude (y, x)   degrees north, degrees east (-180..180); or the 1-D coordinates of a regular grid
      y, x           (y,), (x,)    m in the projection plane
      spatial_ref    ()            CF grid mapping attributes
      orography, land_sea_mask (y, x)   m, 0-1
      forecast_hour  (time,)       0 where the hour is an analysis (f00), 1 where it is a 1-hour forecast (f01)
      attributes     source, history, Conventions; a synthetic store names its generator's version

Required: `time` and at least one (time, y, x) array; the dimensions may carry any names
(time, latitude, longitude say). Everything else is used where present and noted where absent.
NaN means: in every hour, a mask (outside radar coverage); in some hours, a fault that is refused.
Rows may run south to north (ours) or north to south; a forecast keeps the order of its store.
"""

import contextlib
import hashlib
import itertools
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from threading import local

import google_crc32c
import numpy as np
import xarray as xr
import zarr
from numcodecs.blosc import Blosc
from zarr.core.sync import sync

from data.command import fault, nearest
from data.grid import read_grid
from data.metadata import KIND, replace
from data.times import show
from data.variables import TABLE, known, lookup


class Store:
    """A training store opened for reading; `load` gives one hour as a float32 array.

    Attributes: path, dataset (xarray, lazy), names (every (time, y, x) array), times (datetime64[ns],
    without the hours that the store check found faulty), grid, notes (lines to print).
    Raises ValueError for a path that is missing, is not zarr, or has no decodable time.
    """

    def __init__(self, path: str | Path):
        self.path, self.dataset = str(path), open_zarr(path)
        self.notes: list[str] = []
        self._plain: dict[str, Plain | None] = {}
        if self.dataset.attrs.get(KIND) == "forecast":
            raise fault(path, "a forecast store", "a training store", "name the one that it was started from")
        times = read_times(self.path, self.dataset)
        self.names = field_names(self.dataset)
        if not self.names:
            held = ", ".join(map(str, self.dataset.variables))
            raise fault(path, f"no (time, y, x) array in {held}", "at least one", "build it with data.build_hrrr")
        # Hours that the store check listed count as absent, for training, forecasts and scores alike.
        faulty, note = read_sidecar(self.path)
        sound = ~np.isin(times, faulty)
        self.times = times[sound]
        self._index = dict(zip(self.times.astype("int64").tolist(), np.flatnonzero(sound).tolist(), strict=True))
        self.notes += [note] if note else []
        if len(self.times) == 0:
            raise fault(path, f"a fault in every hour ({note})", "sound ones", "build it again")
        self.grid = read_grid(self.dataset, self.dataset[self.names[0]].dims[1:])
        if self.grid.latitude is None:
            self.notes.append("no latitude/longitude: trained without the sun's height and the Coriolis parameter")
        if absent := [n for n in ("orography", "land_sea_mask") if n not in self.grid.static]:
            self.notes.append(f"no static field {', '.join(absent)}: trained without")

    def choose(self, variables: list[str], fix: str = "name a store that has it") -> list[str]:
        """The store's names of the wanted variables: exact names or aliases; all known ones when the list is empty.

        Raises ValueError, with the nearest names and `fix`, for one that the store does not have.
        """
        by_table: dict[str, str] = {}  # the table's name -> the store's
        for name in self.names:
            if known(name) and (lookup(name).name not in by_table or name == lookup(name).name):
                by_table[lookup(name).name] = name
        chosen = [name if name in self.names else by_table.get(lookup(name).name) for name in variables]
        if None in chosen:
            name = variables[chosen.index(None)]
            expected = f"one of its arrays. Nearest: {nearest(name, self.names)}"
            raise fault(self.path, f"no variable {name!r}", expected, fix)
        if len(set(chosen)) != len(chosen):
            raise fault("variables", f"one array twice in {' '.join(variables)}", "each once", "remove the repetition")
        chosen = chosen or [by_table[v.name] for v in TABLE if v.name in by_table] or list(self.names)
        for name in chosen:
            if self.dataset[name].shape[1:] != self.grid.shape:
                raise fault(self.path, f"the grid {self.dataset[name].shape[1:]} for {name}", f"{self.grid.shape} "
                            "as for the first variable", "choose variables on one grid with --variables")  # fmt: skip
            if not known(name):
                self.notes.append(f"{name} is not in the variables table: no bounds, no transform, even mirror parity")
        return chosen

    def has(self, time: np.datetime64) -> bool:
        """Whether the store holds this time."""
        return self.position(time) is not None

    def position(self, time: np.datetime64) -> int | None:
        """The index of this time in the arrays, None where the store does not hold it."""
        return self._index.get(int(time.astype("datetime64[ns]").astype("int64")))

    def load(self, time: np.datetime64, names: list[str]) -> np.ndarray:
        """The fields of one time: (C, y, x) float32 in the store's units, NaN where the store has NaN.

        Raises ValueError for a time that the store does not hold or a chunk that cannot be read.
        """
        index = self.position(time)
        if index is None:
            near = self.nearest_times(time)
            raise fault(self.path, f"no hour {show(time)}", f"one of {near}", "choose a time that the store holds")
        out = np.empty((len(names), *self.grid.shape), np.float32)
        for c, name in enumerate(names):
            if (plain := self.plain(name)) and plain.read(index, out[c]):
                continue
            try:
                out[c] = self.dataset.variables[name][index].values  # without the coordinates, which cost as much again
            except (OSError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{self.path}: {name} at {show(time)} cannot be read ({error}), expected a field. "
                    "Fix: write this hour again"
                ) from error
        return out

    def plain(self, name: str) -> "Plain | None":
        """What decodes the chunks of an array without zarr, if they are plain: a tenth of the time for small hours."""
        if name not in self._plain:
            self._plain[name] = plain_array(self.path, name, self.dataset[name])
        return self._plain[name]

    def nearest_times(self, time: np.datetime64, count: int = 3) -> str:
        """The times nearest to `time`, as text for an error message."""
        distance = np.abs((self.times - time.astype("datetime64[ns]")).astype("int64"))
        return ", ".join(show(t) for t in np.sort(self.times[np.argsort(distance)[:count]]))


def field_names(dataset: xr.Dataset) -> list[str]:
    """The numeric (time, y, x) arrays."""
    fields = {str(n): v for n, v in dataset.data_vars.items() if v.ndim == 3 and v.dtype.kind in "fiu"}
    return [n for n, v in fields.items() if v.dims[0] == "time"]


def read_times(path: str, dataset: xr.Dataset) -> np.ndarray:
    """The times, datetime64[ns]; ValueError if they are absent, undecodable, missing or not unique."""
    fix = 'set the units attribute of time, e.g. "hours since 2024-01-01"'
    if "time" not in dataset.variables:
        held = ", ".join(map(str, dataset.variables)) or "nothing"
        raise fault(path, f"no time coordinate (found {held})", "`time` with CF units", fix)
    time = dataset["time"]
    if time.dtype.kind != "M":
        units = time.attrs.get("units", "no units attribute")
        raise fault(f"{path}: time cannot be decoded", f"{time.dtype} with {units!r}", "CF time", fix)
    times = time.values.astype("datetime64[ns]")
    if times.ndim != 1 or np.isnat(times).any():
        raise fault(path, "missing times, or more than one dimension", "one valid time per hour", "rebuild it")
    if len(times) == 0:
        raise fault(path, "a store without a single hour", "some", "build it again; it was not completed")
    values, counts = np.unique(times, return_counts=True)
    if counts.max() > 1:
        twice = f"time {show(values[counts > 1][0])} {counts.max()} times"
        raise fault(path, twice, "each time once", "remove the duplicates")
    return times


def open_zarr(path: str | Path) -> xr.Dataset:
    """Open a zarr store lazily; ValueError in one line if that fails."""
    text = str(path)
    if "://" not in text and not Path(text).exists():
        raise ValueError(f"{path}: no such store, expected a zarr directory. Fix: check the path, or build one with "
                         "`.venv/bin/python -m data.build_hrrr` (real hours) or "
                         "`.venv/bin/python -m data.synthetic_storms` (a demo)")  # fmt: skip
    if "://" not in text and not any((Path(text) / n).exists() for n in ("zarr.json", ".zgroup", ".zmetadata")):
        found, fix = what_instead(Path(text))
        raise ValueError(f"{path}: not a zarr store{found}, expected a directory with zarr.json or .zgroup. Fix: {fix}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about consolidated metadata: a store that still grows has none
        try:
            return with_exact_times(with_zeros(text, xr.open_zarr(text, chunks=None, decode_timedelta=False)))
        except Exception as error:  # zarr, xarray and fsspec each raise their own kinds here
            where, got = f"{path}: cannot be opened as zarr", f"{type(error).__name__}: {error}"
            expected, fix = "a complete store", "check the path and that the store is complete"
            with contextlib.suppress(Exception):
                units = xr.open_zarr(text, chunks=None, decode_times=False)["time"].attrs.get("units", "no units")
                where, got, expected = f"{path}: time cannot be decoded", repr(units), "CF time"
                fix = 'set the units attribute of time, e.g. "hours since 2024-01-01"'
            raise fault(where, got, expected, fix) from error


def what_instead(path: Path) -> tuple[str, str]:
    """What a path that is no zarr store holds, where that is known, and what to do with it."""
    if path.suffix == ".pt":
        return " but a checkpoint", "name the store, a folder such as data/hrrr.zarr"
    if stores := sorted(map(str, path.glob("*.zarr"))):
        return f" but a folder that holds {len(stores)}", f"name one: {', '.join(stores[:3])}"
    places = itertools.chain([path], path.glob("*"), path.glob("*/*"))  # downloads often have a folder a day
    if any(p.suffix in (".grib2", ".grb2") for p in places):
        return " but GRIB files", f"`python -m data.build_hrrr --source grib --path {path} --out STORE.zarr`"
    return "", "NetCDF becomes zarr with xarray.open_dataset(FILE).to_zarr(STORE)"


def with_exact_times(dataset: xr.Dataset) -> xr.Dataset:
    """Times that are written as fractions ("days since 1900": 45431.0034722) to the second that they mean: float64
    leaves them up to a microsecond beside it, and pairs are found by equal times."""
    time = dataset.variables.get("time")
    if time is None or time.dtype.kind != "M" or np.dtype(time.encoding.get("dtype", "i8")).kind != "f":
        return dataset
    times = time.values.astype("datetime64[ns]")
    seconds = (times + np.timedelta64(500, "ms")).astype("datetime64[s]").astype("datetime64[ns]")
    beside = np.abs(times - seconds) < np.timedelta64(1, "ms")  # NaT is not beside anything and stays
    exact = xr.Variable(time.dims, np.where(beside, seconds, times), time.attrs, time.encoding)
    return dataset.assign_coords(time=exact)


def with_zeros(path: str, dataset: xr.Dataset) -> xr.Dataset:
    """Zeros read as zeros: xarray takes the fill value of a zarr v2 array, 0 where nobody chose one, for missing,
    and with it the first of "hours since ..." and every cell without CAPE. Chunks that were never written would
    read as 0 too, so a field keeps NaN for zero unless all its chunks are there."""
    packed = {"scale_factor", "add_offset", "missing_value"}
    zeros = {n for n, v in dataset.variables.items() if np.all(v.encoding.get("_FillValue", 1) == 0)}
    zeros -= {n for n in zeros if packed & set(dataset[n].encoding)}
    if not zeros:
        return dataset
    group = zarr.open_group(path, mode="r")
    zeros -= {n for n in zeros if dataset[n].ndim == 3 and group[n].nchunks_initialized < group[n].nchunks}
    plain = xr.open_zarr(path, chunks=None, decode_timedelta=False, mask_and_scale=False)
    return plain.assign({n: v.variable for n, v in dataset.data_vars.items() if n not in zeros})


# --- the sidecar: hours that check_store found faulty, so that training leaves them out ---
#
#     STORE.zarr.check.json    {"fingerprint": "...", "bad_hours": ["2018-07-22T05:00", ...]}
#
# The fingerprint covers the name, size and time of change of every file of a local store: once the store has been
# written to, the list no longer counts.


def fingerprint(store: str) -> str:
    """A hash over the files of a local store: their names, sizes and times of change."""
    rows = []
    for folder, _, files in os.walk(store):
        for name in files:
            status = os.stat(os.path.join(folder, name))
            rows.append(f"{os.path.relpath(folder, store)}/{name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def write_sidecar(store: str, bad_hours: set[np.datetime64]) -> Path | None:
    """List faulty hours beside a local store, or remove an older list if there are none. Returns the path of what was
    written."""
    if "://" in store:
        return None
    path = Path(store.rstrip("/") + ".check.json")
    if not bad_hours:
        path.unlink(missing_ok=True)
        return None
    hours = [show(t) for t in sorted(bad_hours)]
    replace(path, json.dumps({"fingerprint": fingerprint(store), "bad_hours": hours}, indent=1))
    return path


def read_sidecar(store: str | Path) -> tuple[np.ndarray, str]:
    """The faulty hours as datetime64[ns], and a line to print ("" if there is no sidecar)."""
    path, none = Path(str(store).rstrip("/") + ".check.json"), np.array([], "datetime64[ns]")
    if "://" in str(store) or not path.exists():
        return none, ""
    again = f"`.venv/bin/python -m data.check_store {store}` again"
    try:
        content = json.loads(path.read_text())
        hours = np.array([np.datetime64(t, "ns") for t in content["bad_hours"]], "datetime64[ns]")
        current = content["fingerprint"] == fingerprint(store)
    except (ValueError, KeyError, TypeError):
        return none, f"{path} cannot be read and is ignored; run {again}"
    if not current:
        return none, f"{path} is older than the store and is ignored; run {again}"
    return hours, f"{len(hours)} faulty hours listed in {path} are left out"


# --- chunks: which of them exist, and those of a local store decoded into memory that is already there ---
#
# zarr hands out every chunk in new memory, and on a full domain the system takes half as long to provide it as the
# chunk takes to decode (benchmarks/loader.py). Arrays that `Plain` does not cover are left to zarr: chunks of several
# hours, filters, packed integers, fill values, remote stores, codecs other than Blosc.

_thread = local()  # a buffer for the files of each thread
CODECS = ([], ["blosc"], ["blosc", "crc32c"])
HEADER = 16  # bytes of a Blosc frame before its data; the lengths of both sides stand in it


class Written:
    """Which chunks of a store exist. zarr returns its fill value for one that was never written, without a word."""

    def __init__(self, group: zarr.Group, names: list[str]):
        self.arrays = {n: group[n] for n in names}
        self.keys = {n: set(sync(self._list(a))) for n, a in self.arrays.items()}

    async def _list(self, array: zarr.Array) -> list[str]:
        place = array.store_path
        prefix = place.path + "/" if place.path else ""
        return [key.removeprefix(prefix) async for key in place.store.list_prefix(prefix)]

    def complete(self, name: str) -> bool:
        """Whether an array has as many chunks as it should: quicker than asking for every time."""
        expected = np.prod([len(places) for places in chunk_places(self.arrays[name])])
        return sum(key[-1:].isdigit() for key in self.keys[name]) == expected

    def missing(self, name: str, index: int) -> int:
        """Chunks of one time that do not exist."""
        return sum(key not in self.keys[name] for key in chunk_keys(self.arrays[name], index))


def chunk_keys(array: zarr.Array, index: int) -> list[str]:
    """The names of the chunks (or shards) of one time of a (time, y, x) array."""
    first = index // (array.shards or array.chunks)[0]
    return [array.metadata.encode_chunk_key((first, *place)) for place in itertools.product(*chunk_places(array)[1:])]


def chunk_places(array: zarr.Array) -> list[range]:
    """The places of an array's files along each dimension."""
    return [range(-(-s // c)) for s, c in zip(array.shape, array.shards or array.chunks, strict=True)]


@dataclass(frozen=True)
class Plain:
    """A float32 array with one chunk per hour: bytes or a Blosc frame, and perhaps a checksum."""

    folder: Path
    metadata: object  # zarr's, which knows the names of chunks
    codecs: list[str]  # one of CODECS

    def read(self, index: int, out: np.ndarray) -> bool:
        """Decode hour `index` into `out` (y, x) float32; False if the chunk is not as expected: then zarr says why.
        Leaves Python's lock while it decodes."""
        try:
            raw = _contents(f"{self.folder}/{self.metadata.encode_chunk_key((index, 0, 0))}")
            if "crc32c" in self.codecs:
                raw, checksum = raw[:-4], raw[-4:]
                if google_crc32c.value(np.frombuffer(raw, "u1")) != _length(checksum, 0):
                    return False
            if "blosc" not in self.codecs:
                out[...] = np.frombuffer(raw, "<f4").reshape(out.shape)
                return True
            # Blosc believes its header: a frame that was cut off would be read beyond its end.
            if len(raw) < HEADER or _length(raw, 4) != out.nbytes or _length(raw, 12) != len(raw):
                return False
            Blosc().decode(raw, out=out)
        except (OSError, RuntimeError, ValueError):
            return False
        return True


def plain_array(path: str, name: str, variable: xr.DataArray) -> Plain | None:
    """What reads the chunks of one array of a store, None if only zarr and xarray can."""
    if "://" in path:
        return None
    array = zarr.open_group(path, mode="r")[name]
    fill = variable.encoding.get("_FillValue", np.nan)
    packed = {"scale_factor", "add_offset", "missing_value", "_Unsigned"} & {*variable.encoding, *variable.attrs}
    whole = array.shards is None and array.chunks == (1, *array.shape[1:]) and array.shape == variable.shape
    float32 = array.dtype == np.dtype("<f4") and variable.dtype == np.dtype("<f4")
    if array.metadata.zarr_format == 3:
        as_bytes = array.serializer.to_dict() == {"name": "bytes", "configuration": {"endian": "little"}}
    else:
        as_bytes = array.order == "C"
    codecs = [c.to_dict() if hasattr(c, "to_dict") else c.get_config() for c in array.compressors]
    names = [c.get("name") or c.get("id") for c in codecs]
    if packed or array.filters or not (whole and float32 and as_bytes and names in CODECS and np.all(np.isnan(fill))):
        return None
    return Plain(Path(path) / array.path, array.metadata, names)


def _contents(path: str) -> memoryview:
    """The bytes of a file, in memory that the thread's next call writes again."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if len(getattr(_thread, "buffer", b"")) < size:
            _thread.buffer = bytearray(size + size // 4)
        view, at = memoryview(_thread.buffer)[:size], 0
        while at < size and (count := file.readinto(view[at:])):
            at += count
        return view[:at]


def _length(raw: memoryview, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "little")

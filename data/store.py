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

import itertools
import os
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
from data.metadata import KIND, TIME_UNITS, conversion, read_sidecar
from data.opening import open_zarr, parts_of, refuse_leads, refuse_odd
from data.times import show
from data.variables import TABLE, identify, known, lookup


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
        self.dataset, self.names = standard(self.path, self.dataset)
        units = str(self.dataset["time"].encoding.get("units", ""))
        near = len(units) == len(TIME_UNITS) and sum(map(str.__ne__, units, TIME_UNITS)) == 1
        if self.dataset.attrs.get(KIND) and near:  # it would move the hours by years
            fix = "build it again"
            raise fault(f"{path}: time", f"the units {units!r}, a flipped bit away from ours", repr(TIME_UNITS), fix)
        times = read_times(self.path, self.dataset)
        # Hours that the store check listed count as absent, for training, forecasts and scores alike.
        faulty, note = read_sidecar(self.path)
        sound = ~np.isin(times, faulty)
        self.times = times[sound]
        self._index = dict(zip(self.times.astype("int64").tolist(), np.flatnonzero(sound).tolist(), strict=True))
        self.notes += [note] if note else []
        if len(self.times) == 0:
            raise fault(path, f"a fault in every hour ({note})", "sound ones", "build it again")
        first = self.dataset[self.names[0]]
        self.grid = read_grid(self.dataset, first.dims[1:], {**first.encoding, **first.attrs})
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
            self._refuse_unlike(name)
            if not known(name):
                self.notes.append(f"{name} is not in the variables table: no bounds, no transform, even mirror parity")
        return chosen

    def _refuse_unlike(self, name: str) -> None:
        """ValueError for an array that is not the table's variable in the table's unit, as its attributes say. Whoever
        trains, forecasts, scores or takes boundary data comes through here."""
        if not known(name):
            return
        about = self.dataset[name].attrs
        if why := identify(name, about)[1]:
            raise fault(f"{self.path}: {name}", f"another level ({why})", lookup(name).long_name, "leave it out")
        found, wanted = str(about.get("units", "")), lookup(name).units
        if found and conversion(found, wanted) != (1, 0):
            convert = conversion(found, wanted) is not None
            fix = f"{rebuild(self.path)}: it converts it" if convert else "correct its units attribute, or leave it out"
            raise fault(f"{self.path}: {name}", f"units {found!r}", repr(wanted), fix)

    def facts(self) -> dict:
        """What a model and the store of its forecasts must have in common: the order of the rows, the spacing (m) and
        what winds follow; plain types, for checkpoints."""
        spacing = self.grid.spacing
        return {"north_first": self.grid.north_first, "winds": self.grid.winds,
                "spacing": None if spacing is None else list(spacing)}  # fmt: skip

    def refuse_other(self, facts: dict, whose: str) -> None:
        """ValueError if the store differs from the facts of another one, as far as both know them."""
        here = self.facts()
        words = {True: "rows from north to south", False: "rows from south to north",
                 "grid": "winds along the grid", "earth": "winds to east and north"}  # fmt: skip
        fixes = {"north_first": rebuild(self.path), "winds": "turn the winds, or name another store"}
        for key, fix in fixes.items():
            if facts.get(key) in words and here[key] in words and facts[key] != here[key]:
                raise fault(self.path, words[here[key]], f"{words[facts[key]]}, as {whose}", fix)
        for a, b in zip(facts.get("spacing") or (), here["spacing"] or (), strict=False):
            if not 0.8 < b / a < 1.25:
                fix = "name a store with cells of that size"
                raise fault(self.path, f"cells of {b / 1000:.2f} km", f"{a / 1000:.2f} km, as {whose}", fix)

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


def rebuild(path: str) -> str:
    return f"`python -m data.build_hrrr --source zarr --path {path} --out NEW.zarr`, then use NEW.zarr"


def standard(path: str, dataset: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """The dataset with its valid times as `time`, and the names of its (time, y, x) arrays; ValueError for a layout
    that only the builder reads: several leads, one hour without a dimension, columns before rows."""
    refuse_leads(parts := parts_of(path, dataset))
    part = parts[0]
    if part.time is None or (part.kinds is not None and (part.kinds < 0).any()) or part.dataset is not dataset:
        got = "; ".join(part.notes) or "fields without a dimension of time"
        raise fault(path, got, "one hour after the other", rebuild(path))
    names = [n for n in part.dims if dataset[n].ndim == 3 and dataset[n].dims[0] == part.time]
    turned = [n for n in names if dataset[n].dims[1:] != part.dims[n]]
    if turned or (part.dims and not names):
        odd = (turned or [*part.dims])[0]
        got = f"{odd} with the order of dimensions {', '.join(map(str, dataset[odd].dims))}"
        raise fault(path, got, "(time, y, x), rows before columns", f"{rebuild(path)}: it transposes them")
    if not names:
        refuse_odd(part)
    if part.time != "time" or dataset["time"].dtype.kind != "M" or not np.array_equal(dataset["time"], part.times):
        dataset = dataset.drop_vars("time", errors="ignore").rename({part.time: "time"} if part.time != "time" else {})
        dataset = dataset.assign_coords(time=("time", part.times))
    if part.kinds is not None:
        dataset = dataset.assign(forecast_hour=("time", part.kinds.astype(np.int8)))
    return dataset, names


def field_names(dataset: xr.Dataset) -> list[str]:
    """The numeric (time, y, x) arrays of a store of ours."""
    return standard("the store", dataset)[1]


def read_times(path: str, dataset: xr.Dataset) -> np.ndarray:
    """The times, datetime64[ns]; ValueError if there are none or if one occurs twice."""
    times = dataset["time"].values.astype("datetime64[ns]")
    if len(times) == 0:
        raise fault(path, "a store without a single hour", "some", "build it again; it was not completed")
    values, counts = np.unique(times, return_counts=True)
    if counts.max() > 1:
        twice = f"time {show(values[counts > 1][0])} {counts.max()} times"
        raise fault(path, twice, "each time once", "remove the duplicates")
    return times


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

    def blank(self, name: str, index: int, field: np.ndarray) -> None:
        """Set NaN in the chunks of a field (y, x) of a (time, y, x) array that do not exist."""
        array = self.arrays[name]
        _, height, width = array.shards or array.chunks
        places = itertools.product(*chunk_places(array)[1:])
        for (row, column), key in zip(places, chunk_keys(array, index), strict=True):
            if key not in self.keys[name]:
                field[row * height : (row + 1) * height, column * width : (column + 1) * width] = np.nan


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

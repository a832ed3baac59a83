"""The chunks of a store: which of them exist, and those of a local store decoded into memory that is already there.

zarr hands out every chunk in new memory, and on a full domain the system takes half as long to provide it as the
chunk takes to decode (benchmarks/loader.py). Arrays that `Plain` does not cover are left to zarr: chunks of several
hours, filters, packed integers, fill values, remote stores, codecs other than Blosc.
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

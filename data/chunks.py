"""Decode the chunks of a local store straight into memory that is already there.

zarr hands out every chunk in new memory, and on a full domain the system takes half as long to provide it as the
chunk takes to decode (benchmarks/loader.py). Arrays that this does not cover are left to zarr: chunks of several hours,
filters, packed integers, fill values, remote stores, codecs other than Blosc.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from threading import local

import google_crc32c
import numpy as np
import xarray as xr
import zarr
from numcodecs.blosc import Blosc

from data.store import Store

_thread = local()  # a buffer for the files of each thread
KNOWN = ([], ["blosc"], ["blosc", "crc32c"])  # codecs
HEADER = 16  # bytes of a Blosc frame before its data; the lengths of both sides stand in it


@dataclass(frozen=True)
class Plain:
    """A float32 array with one chunk per hour: bytes or a Blosc frame, and perhaps a checksum. Can be pickled."""

    folder: Path
    metadata: object  # zarr's, which knows the names of chunks
    codecs: list[str]  # none, "blosc", or both "blosc" and "crc32c"

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


def plain_arrays(store: Store, names: list[str]) -> list[Plain | None]:
    """For each name what reads its chunks, or None if only zarr and xarray can."""
    if "://" in store.path:
        return [None] * len(names)
    group = zarr.open_group(store.path, mode="r")
    return [_plain(store, group[name], store.dataset[name]) for name in names]


def read_fields(store: Store, arrays: list[Plain | None], time: np.datetime64, names: list[str]) -> np.ndarray:
    """The same as store.load(time, names), by `arrays` of `plain_arrays(store, names)` if they can: small hours take a
    tenth of the time."""
    if None not in arrays and (index := store.position(time)) is not None:
        out = np.empty((len(names), *store.grid.shape), np.float32)
        if all(array.read(index, field) for array, field in zip(arrays, out, strict=True)):
            return out
    return store.load(time, names)


def _plain(store: Store, array: zarr.Array, variable: xr.DataArray) -> Plain | None:
    fill = variable.encoding.get("_FillValue", np.nan)
    packed = {"scale_factor", "add_offset", "missing_value", "_Unsigned"} & {*variable.encoding, *variable.attrs}
    whole = array.shards is None and array.chunks == (1, *store.grid.shape) and array.shape == variable.shape
    float32 = array.dtype == np.dtype("<f4") and variable.dtype == np.dtype("<f4")
    if array.metadata.zarr_format == 3:
        as_bytes = array.serializer.to_dict() == {"name": "bytes", "configuration": {"endian": "little"}}
    else:
        as_bytes = array.order == "C"
    codecs = [c.to_dict() if hasattr(c, "to_dict") else c.get_config() for c in array.compressors]
    names = [c.get("name") or c.get("id") for c in codecs]
    if packed or array.filters or not (whole and float32 and as_bytes and names in KNOWN and np.all(np.isnan(fill))):
        return None
    return Plain(Path(store.path) / array.path, array.metadata, names)


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

"""Hours of a store as normalised tensors; decoded ones stay in memory while there is room.

A read is repeated while a disk or a server does not answer. A chunk that is gone is an error: zarr returns its fill
value for it, without a word, and that must never pass for weather.
"""

import time as clock
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import zarr
from torch import Tensor
from tqdm import tqdm
from zarr.core.sync import sync

from data.normalise import Statistics, normalise
from data.store import Store, Written, chunk_keys
from data.times import show
from data.variables import lookup

READERS = 2  # threads that read ahead: decoding releases Python's lock, and forked workers can hang with zarr
PATIENCE = 600.0  # seconds for which an hour is tried again
FIRST, LONGEST = 0.5, 30.0  # seconds between tries: the first pause and the longest


class Hours:
    """hours(time) -> (C, H, W) float32, normalised, 0 in masked cells; not to be written to.

    mask (C, H, W) bool or None: cells without data in every hour. room: bytes for decoded hours; the first ones that
    are asked for stay.

    ValueError for a missing or infinite value outside the mask, an hour that cannot be read for PATIENCE seconds, a
    chunk that is gone (one that never existed is not gone) and a store that was replaced. Not seen: values that are
    written over in place; a lost chunk of a remote store that reads as numbers, if the field still varies.
    """

    def __init__(self, store: Store, names: list[str], statistics: Statistics, mask: Tensor | None, room: int = 0):
        self.store, self.names, self.mask = store, list(names), None if mask is None else mask.cpu()
        self.statistics, self.room = statistics.to("cpu"), room
        self.kept: dict[int, Tensor] = {}
        self.remote, group = "://" in store.path, zarr.open_group(store.path, mode="r")
        self.identity = self._identity()
        self.arrays = {n: group[n] for n in self.names}
        # a lost chunk reads as NaN or, in these arrays, as a number; a list tells it from one that never existed
        filled = [n for n, a in self.arrays.items() if a.fill_value is not None and not np.isnan(a.fill_value)]
        self.written = Written(group, [] if self.remote else filled)  # a remote store's list may take minutes

    def __call__(self, time: np.datetime64) -> Tensor:
        key = int(time.astype("datetime64[ns]").astype("int64"))
        if (found := self.kept.get(key)) is not None:
            return found
        hour = normalise(self.physical(time), self.statistics, self.mask)
        if (len(self.kept) + 1) * hour.nbytes <= self.room:
            self.kept[key] = hour
        return hour

    def physical(self, time: np.datetime64) -> Tensor:
        """The hour (C, H, W) in the store's units, NaN in masked cells."""
        fields = torch.from_numpy(self.read(time))
        missing = ~fields.isfinite() if self.mask is None else ~fields.isfinite() & ~self.mask
        if missing.any():
            count = missing.sum(dim=(1, 2)).tolist()
            name, number = next((n, c) for n, c in zip(self.names, count, strict=True) if c)
            raise ValueError(
                f"{self.store.path}: {name} at {show(time)} has {number} missing or infinite values, expected a "
                f"number. Fix: `.venv/bin/python -m data.check_store {self.store.path}` lists such hours and has "
                "training leave them out"
            )
        return fields

    def read(self, time: np.datetime64) -> np.ndarray:
        """The fields (C, y, x) of an hour, tried again and checked."""
        began, pause = clock.monotonic(), FIRST
        while True:
            try:
                fields = self.store.load(time, self.names)
                self._refuse_replaced()  # after reading, so that nothing of another store passes
                self._refuse_gone(time, fields)
                return fields
            except Exception as error:  # clients of remote stores raise nearly anything
                cause = error.__cause__ or error
                if not isinstance(cause, OSError) and (not self.remote or isinstance(cause, ValueError)):
                    raise
                why = f"{show(time)} cannot be read ({str(cause) or type(cause).__name__})"
                if (waited := clock.monotonic() - began) + pause > PATIENCE:
                    fix = "check the disk or the connection, then run the same command again"
                    raise ValueError(f"{self.store.path}: {why} in {waited:.0f} s. Fix: {fix}") from error
            if pause == FIRST:
                tqdm.write(f"note: {why}; trying again for up to {PATIENCE:.0f} s")
            clock.sleep(pause)
            pause = min(2 * pause, LONGEST)

    def _refuse_gone(self, time: np.datetime64, fields: np.ndarray) -> None:
        for c, (name, array) in enumerate(self.arrays.items()):
            keys = set(chunk_keys(array, self.store.position(time)))
            if name in self.written.keys:
                keys &= self.written.keys[name]
            else:  # only for fields that may be fill values: of a remote store it takes a request
                blank = np.isnan(fields[c]) if self.mask is None else np.isnan(fields[c]) & ~self.mask[c].numpy()
                flat = fields[c].min() == fields[c].max() and not lookup(name).piles_at
                if not (blank.any() or flat):
                    continue
            if not all(sync((array.store_path / key).exists()) for key in keys):
                found = f"the chunk of {name} at {show(time)} is gone, expected it as when this run began"
                raise ValueError(f"{self.store.path}: {found}. Fix: write this hour again, then run the same command")

    def _identity(self) -> tuple | None:
        """What changes if a local store is replaced (first) or extended (second)."""
        place = Path(self.store.path)
        files = [place / n for n in ("zarr.json", ".zmetadata", ".zattrs") if not self.remote]
        return None if self.remote else (place.stat().st_ino, [f.stat().st_mtime_ns for f in files if f.exists()])

    def _refuse_replaced(self) -> None:
        if (now := self._identity()) == self.identity:
            return
        before, times = (s.dataset["time"].values for s in (self.store, Store(self.store.path)))
        if now[0] != self.identity[0] or not np.array_equal(times[: len(before)], before):  # else it was extended
            fix = "the same command goes on if the new store has the same hours; else choose another --run_dir"
            raise ValueError(f"{self.store.path}: is another store than when this run began. Fix: {fix}")
        self.identity = now


def read_ahead(read, requests: Iterable, readers: int = READERS):
    """Yield (request, read(request)) in order, while `readers` threads read the next ones."""
    requests = iter(requests)
    with ThreadPoolExecutor(readers) as pool:
        waiting: list[tuple[object, Future]] = []
        for request in requests:
            waiting.append((request, pool.submit(read, request)))
            waiting += [(r, pool.submit(read, r)) for r in islice(requests, readers - len(waiting))]
            request, result = waiting.pop(0)
            yield request, result.result()
        for request, result in waiting:
            yield request, result.result()

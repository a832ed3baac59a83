"""Reading through a night: again while a disk or a server does not answer, and never zarr's fill value for weather,
which it returns for a chunk that is not there, without a word."""

import time as clock
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr
from tqdm import tqdm
from zarr.core.sync import sync

from data.checks import Written, chunk_keys
from data.store import Store
from data.times import show
from data.variables import lookup

PATIENCE = 600.0  # seconds for which an hour is tried again
FIRST, LONGEST = 0.5, 30.0  # seconds between tries: the first pause and the longest


class Replaced(ValueError):
    """The store is another one than when the run began."""


class Guard:
    """guard(time, read) -> read(time), the fields (C, y, x) of an hour, tried again and checked.

    mask (C, y, x) bool or None: cells without data in every hour. ValueError for an hour that cannot be read for
    PATIENCE seconds and for a chunk that is gone; one that never existed is not gone. Replaced. Not seen: values that
    are written over in place; a lost chunk of a remote store whose fill value is a number, if the field still varies.
    """

    def __init__(self, store: Store, names: list[str], mask: np.ndarray | None):
        self.store, self.mask, self.remote = store, mask, "://" in store.path
        group, self.identity = zarr.open_group(store.path, mode="r"), self._identity()
        self.arrays = {n: group[n] for n in names}
        # a lost chunk reads as NaN or, in these arrays, as a number; a list tells it from one that never existed
        filled = {n for n, a in self.arrays.items() if a.fill_value is not None and not np.isnan(a.fill_value)}
        self.filled = {n for n in filled if not (self.remote and lookup(n).piles_at)}
        self.written = Written(group, [] if self.remote else list(filled))

    def __call__(self, time: np.datetime64, read: Callable[[np.datetime64], np.ndarray]) -> np.ndarray:
        began, pause = clock.monotonic(), FIRST
        while True:
            try:
                fields = read(time)
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
        index = self.store.position(time)
        for c, (name, array) in enumerate(self.arrays.items()):
            blank = np.isnan(fields[c]) if self.mask is None else np.isnan(fields[c]) & ~self.mask[c]
            suspect = name in self.filled and (not self.remote or fields[c].min() == fields[c].max())
            never = name in self.written.arrays and self.written.missing(name, index)
            if never or not (suspect or blank.any()):
                continue
            if not all(sync((array.store_path / key).exists()) for key in chunk_keys(array, index)):
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
            raise Replaced(f"{self.store.path}: is another store than when this run began. Fix: {fix}")
        self.identity = now

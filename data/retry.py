"""Reading through a night: try again where that may help, and never take a fill value for weather.

zarr gives its fill value for a chunk that is not there, without a word. A disk over the network and a remote store
have minutes in which they do not answer. A store may be extended, or built anew, while a run reads it.
"""

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import zarr
from tqdm import tqdm
from zarr.core.sync import sync

from data.checks import Written
from data.dataset import Hours
from data.store import Store
from data.times import show

STALL = 60.0  # seconds after which a remote store that has not answered is asked again
BROKEN = 5.0  # seconds that a chunk which is there and cannot be decoded, or is gone, is tried: it will hardly heal
LONGEST = 30.0  # seconds between tries, at most


class Unreadable(ValueError):
    """An hour that could not be read for as long as there was patience."""


class Replaced(ValueError):
    """The store is another one than when the run began."""


class GuardedHours(Hours):
    """Hours whose reading is watched by a `Guard`; patience in seconds. Unreadable, Replaced: see there."""

    def __init__(self, store: Store, names: list[str], mask, cache_gb: float = 0.0, patience: float = 0.0):
        super().__init__(store, names, mask, cache_gb)
        self.guard = Guard(store, names, patience)

    def _new(self, time: np.datetime64):
        return self.guard(time, super()._new)


class Guard:
    """Calls what reads an hour, again and again after growing pauses for up to `patience` seconds, and looks at what
    the store is meanwhile.

    A chunk counts as gone where it is not there and was when the guard was made (local store), or where it is not
    there and its field is constant (remote store: one request more for such fields). Not seen: values that are written
    over in place under the same times.
    """

    def __init__(self, store: Store, names: list[str], patience: float):
        self.store, self.names, self.patience = store, names, patience
        self.remote = "://" in store.path
        group = zarr.open_group(store.path, mode="r")
        self.arrays = {n: group[n] for n in names}
        self.times = store.dataset["time"].values.astype("datetime64[ns]")
        self.index = {int(t): i for i, t in enumerate(self.times.astype("int64"))}
        self.given_up: dict[int, str] = {}
        self.identity = None if self.remote else self._identity()
        self.absent = set() if self.remote else absent_hours(Written(group, names), len(self.times))

    def __call__(self, when: np.datetime64, read):
        """What read(when) returns. Unreadable after the patience, and at once for an hour that was given up before;
        Replaced; other errors of our own, such as missing values, as they are."""
        key, began, pause = int(when.astype("datetime64[ns]").astype("int64")), time.monotonic(), 0.5
        if key in self.given_up:
            raise Unreadable(self.given_up[key])
        while True:
            result, fault, limit = self._attempt(when, key, read)
            if not fault:
                return result
            if time.monotonic() - began + pause > limit:
                text = f"{self.store.path}: {show(when)} cannot be read, tried for {time.monotonic() - began:.0f} s "
                self.given_up[key] = text + f"({fault.split(' Fix:')[0]})"
                raise Unreadable(self.given_up[key])
            if pause == 0.5:
                tqdm.write(f"note: {show(when)} cannot be read ({fault.split(', expected')[0]}); trying again for up "
                           f"to {limit:g} s")  # fmt: skip
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)

    def _attempt(self, when: np.datetime64, key: int, read) -> tuple:
        """What was read, or None; what was wrong, or ""; seconds for which to try again."""
        result, refused = None, None
        try:
            self._refuse_replaced()
            try:
                result = self._within_time(when, read)
            except ValueError as error:
                if error.__cause__ is not None:
                    raise
                refused = error  # it was read, and what was read is no weather: perhaps fill values
            lost = self._lost(key, result)
        except Replaced:
            raise
        except Exception as error:  # what fails in reading raises nearly anything
            broken = isinstance(error, ValueError) and not isinstance(error.__cause__, OSError)
            return None, str(error) or type(error).__name__, min(self.patience, BROKEN) if broken else self.patience
        if lost:
            fault = f"the chunk of {lost} is gone, and zarr would give its fill value"
            return None, fault, min(self.patience, BROKEN)
        if refused is not None:
            raise refused
        return result, "", 0.0

    def _within_time(self, when: np.datetime64, read):
        """read(when); of a remote store TimeoutError where it does not answer. The thread that waits is left behind:
        nothing can end it, and it ends with the process."""
        if not self.remote:
            return read(when)
        out: list = []

        def work() -> None:
            try:
                out.append((read(when), None))
            except Exception as error:
                out.append((None, error))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(STALL)
        if not out:
            raise TimeoutError(f"no answer for {STALL:g} s")
        if out[0][1] is not None:
            raise out[0][1]
        return out[0][0]

    def _lost(self, key: int, result) -> str:
        """The first variable whose chunk of this hour is gone; "" where none is. result: what was read, or None."""
        index = self.index.get(key)
        if index is None:
            return ""
        for c, name in enumerate(self.names):
            if self.remote and result is not None:
                field = np.asarray(getattr(result, "values", result))[c]
                if field.min() != field.max():  # also with NaN inside: then it is looked at
                    continue
            if (name, index) not in self.absent and self._gone(name, index):
                return name
        return ""

    def _gone(self, name: str, index: int) -> bool:
        array = self.arrays[name]
        outer = array.shards or array.chunks
        places = itertools.product(*(range(-(-s // c)) for s, c in zip(array.shape[1:], outer[1:], strict=True)))
        keys = [array.metadata.encode_chunk_key((index // outer[0], *place)) for place in places]
        if not self.remote:
            folder = Path(self.store.path) / array.path
            return not all((folder / key).is_file() for key in keys)
        place = array.store_path
        return not all(sync(place.store.exists(f"{place.path}/{key}".lstrip("/"))) for key in keys)

    def _identity(self) -> tuple:
        """What changes when a local store is replaced (first) or extended (second)."""
        folder = Path(self.store.path)
        metadata = [folder / n for n in ("zarr.json", ".zmetadata", ".zattrs")]
        found = [m.stat() for m in metadata if m.exists()]
        return folder.stat().st_ino, [(m.st_ino, m.st_mtime_ns) for m in found]

    def _refuse_replaced(self) -> None:
        """Replaced where a local store is another one; a note where it has grown."""
        if self.remote or (now := self._identity()) == self.identity:
            return
        times = Store(self.store.path).dataset["time"].values.astype("datetime64[ns]")
        same = now[0] == self.identity[0] and np.array_equal(times[: len(self.times)], self.times)
        if not same:
            raise Replaced(
                f"{self.store.path}: got another store than when this run began, expected the same one throughout a "
                "run. Fix: the same command goes on from the last checkpoint where the new store has the same hours; "
                "else another --run_dir"
            )
        if len(times) > len(self.times):
            tqdm.write(f"note: {self.store.path} has grown by {len(times) - len(self.times)} hours; this run keeps to "
                       "those it began with")  # fmt: skip
        self.identity = now


def absent_hours(written: Written, count: int) -> set[tuple[str, int]]:
    """(variable, index) of hours that lack a chunk; arrays that have all of theirs are not looked at hour by hour."""
    incomplete = [n for n in written.arrays if not written.complete(n)]
    return {(n, i) for n in incomplete for i in range(count) if written.missing(n, i)}

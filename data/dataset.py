"""Hours of a store as normalised tensors, and pairs of them one lead apart, found by timestamp and split by date.

Decoded hours stay in memory while there is room. A read is repeated while a disk or a server does not answer. A chunk
that is gone is an error: zarr returns its fill value for it, without a word, and that must never pass for weather.
"""

import time as clock
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
from data.times import parse_duration, parse_time, show, show_duration
from data.variables import lookup

READERS = 2  # threads that read ahead: decoding releases Python's lock, and forked workers can hang with zarr
PATIENCE = 600.0  # seconds for which an hour is tried again
FIRST, LONGEST = 0.5, 30.0  # seconds between tries: the first pause and the longest


@dataclass(frozen=True)
class Split:
    """Dated parts of a record, never interleaved: train | gap | validation | gap | test.

    Each part is (first, last), datetime64[ns], both included."""

    train: tuple[np.datetime64, np.datetime64]
    validation: tuple[np.datetime64, np.datetime64]
    test: tuple[np.datetime64, np.datetime64]
    gap: np.timedelta64

    def as_dict(self) -> dict:
        """Plain types for checkpoints, logs and attributes."""
        parts = {k: [exact(t) for t in getattr(self, k)] for k in ("train", "validation", "test")}
        return {**parts, "gap_hours": float(self.gap / np.timedelta64(1, "s")) / 3600}

    @staticmethod
    def from_dict(table: dict) -> "Split":
        parts = [tuple(np.datetime64(t, "ns") for t in table[k]) for k in ("train", "validation", "test")]
        return Split(*parts, np.timedelta64(round(table["gap_hours"] * 3600e9), "ns"))


def exact(time: np.datetime64) -> str:
    """A time as ISO text without loss: to the minute if it has no seconds."""
    return show(time) if time == time.astype("datetime64[m]") else str(time)


def find_pairs(
    times: np.ndarray,
    lead: np.timedelta64,
    part: tuple[np.datetime64, np.datetime64],
    history: int = 0,
    steps: int = 1,
) -> np.ndarray:
    """The times t of one part of the record for which t - history * lead, ..., t + steps * lead are all present in
    the same part.

    Found by timestamp, so an hour that is missing costs the pairs that touch it and moves no other."""
    inside = np.sort(times[(times >= part[0]) & (times <= part[1])])
    complete = [np.isin(inside + k * lead, inside) for k in range(-history, steps + 1)]
    return inside[np.all(complete, axis=0)]


def usual_step(times: np.ndarray) -> np.timedelta64:
    """The most frequent distance between neighbours among at least two times, the shortest of several."""
    steps, counts = np.unique(np.diff(np.sort(times)), return_counts=True)
    return steps[counts.argmax()]


def longest_chains(times: np.ndarray, lead: np.timedelta64, part, history: int, steps: int) -> tuple[int, np.ndarray]:
    """The largest number of steps, at most `steps`, for which a part that has pairs has a chain of hours without a
    gap, and the times from which it has one (`find_pairs`)."""
    return next((n, t) for n in range(steps, 0, -1) if len(t := find_pairs(times, lead, part, history, n)))


def split_by_date(
    times: np.ndarray, lead: np.timedelta64, train_end: str, val_end: str, gap: str, history: int = 0
) -> Split:
    """Split a record at dates. Empty texts mean the defaults: 70 % and 85 % of the record, a gap of 24 hours,
    or max(3 leads, 5 % of the record) for records under 5 days and where 24 hours would leave a part empty.

    Raises ValueError where the dates are out of order or a part is left without a pair.
    """
    times = np.sort(times)
    first, last = times[0], times[-1]
    length = last - first
    end_train = parse_time(train_end, "train_end") if train_end else _floor(times, first + length * 0.70)
    end_validation = parse_time(val_end, "val_end") if val_end else _floor(times, first + length * 0.85)
    if not first <= end_train < end_validation <= last:
        raise ValueError(
            f"train_end and val_end: got {show(end_train)} and {show(end_validation)}, expected "
            f"{show(first)} <= train_end < val_end <= {show(last)} (the record). Fix: choose dates in this order"
        )

    def parts(pause: np.timedelta64) -> Split:
        return Split((first, end_train), (end_train + pause, end_validation), (end_validation + pause, last), pause)

    split = parts(parse_duration(gap, "gap") if gap else np.timedelta64(24, "h").astype("timedelta64[ns]"))
    full = length >= np.timedelta64(5, "D") and all(
        len(find_pairs(times, lead, p, history)) for p in (split.validation, split.test)
    )
    if not gap and not full:
        split = parts(max(3 * lead, (length * 0.05) // lead * lead))
    for name in ("train", "validation"):
        start, end = part = getattr(split, name)
        if len(find_pairs(times, lead, part, history)) == 0:
            refuse_lead(times, lead, end - start, history)
            inside = f"up to {show(end)}, which lies inside the gap of {show_duration(split.gap)}"
            raise ValueError(
                f"{name}: got no {'pair' if history == 0 else f'series of {history + 2}'} of times "
                f"{show_duration(lead)} apart {f'between {show(start)} and {show(end)}' if start <= end else inside} "
                f"(record {show(first)} to {show(last)}, "
                f"{len(times)} times), expected at least one. Fix: change --lead, --gap, --train_end or --val_end, or "
                "build a longer store"
            )
    return split


def refuse_lead(times: np.ndarray, lead: np.timedelta64, length: np.timedelta64, history: int) -> None:
    """ValueError where a part of this length has no pair because no times of the record, or none so near to each
    other, are a lead apart."""
    step = usual_step(times)
    if lead == step or (lead % step == np.timedelta64(0, "ns") and (1 + history) * lead <= length):
        return
    every = show_duration(step)
    raise ValueError(
        f"lead: got {show_duration(lead)}, expected a multiple of {every} that is short enough for every part: the "
        f"store has one time every {every}, {len(times)} in all. Fix: --lead {every.replace(' ', '')}"
    )


def _floor(times: np.ndarray, time: np.datetime64) -> np.datetime64:
    return times[times <= time][-1]


# --- hours and pairs of them, as normalised tensors ---


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


class Pairs:
    """Training pairs: the states up to an initial time and the truth after it.

    pairs[i] -> (states (1 + history, C, H, W), truth (C, H, W)), normalised float32 tensors of the initial time
    times[i]. `batch` gives several of them, and the truth of roll-outs.
    """

    def __init__(self, hours: Hours, times: np.ndarray, lead: np.timedelta64, history: int):
        self.hours, self.times, self.lead, self.history = hours, times, lead, history

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        _, states, (truth,) = self.batch([i])
        return states[0], truth[0]

    def batch(self, indices: Sequence[int], steps: range = range(1)) -> tuple[np.ndarray, Tensor, list[Tensor]]:
        """Initial times (B,), states (B, 1 + history, C, H, W) in order of time, and for each k of `steps` the truth
        (B, C, H, W) at k + 1 leads after the initial times."""
        times = self.times[list(indices)]
        before = [torch.stack([self.hours(t - k * self.lead) for k in range(self.history, -1, -1)]) for t in times]
        truth = [torch.stack([self.hours(t + (k + 1) * self.lead) for t in times]) for k in steps]
        return times, torch.stack(before), truth

"""Pairs of fields one lead apart, found by timestamp and split by date; normalised tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.hours import Hours
from data.times import parse_duration, parse_time, show, show_duration


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


def _floor(times: np.ndarray, time: np.datetime64) -> np.datetime64:
    return times[times <= time][-1]

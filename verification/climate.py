"""Climatology by hour of day: the mean of the training hours of each hour of the day, in UTC."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

DAYS = 60  # at most this many days are read, spread evenly over the record
ENOUGH = 15  # days; with fewer, the mean of an hour is smoothed over the hours beside it


@dataclass(frozen=True)
class Climatology:
    """`mean[hour][name]` is a (y, x) field; an hour of the day that was never seen is absent."""

    mean: dict[int, dict[str, np.ndarray]]
    days: int  # that were read

    def at(self, name: str, time: np.datetime64) -> np.ndarray | None:
        """The field (y, x) for the hour of day of a time, None if that hour was never seen."""
        hour = hour_of_day(time)
        if hour not in self.mean:
            return None
        weights = {hour: 1.0} if self.days >= ENOUGH else {(hour - 1) % 24: 1.0, hour: 2.0, (hour + 1) % 24: 1.0}
        seen = {h: w for h, w in weights.items() if h in self.mean}
        return np.float32(sum(w * self.mean[h][name] for h, w in seen.items()) / sum(seen.values()))


def estimate(times: np.ndarray, load: Callable[[np.datetime64], dict[str, np.ndarray]]) -> Climatology | None:
    """The climatology of `times` (datetime64 of the training part only), None if there are none.

    `load(time)` gives {name: (y, x)}, NaN in masked cells.
    """
    dates = times.astype("datetime64[D]")
    days = np.unique(dates)
    days = days[np.unique(np.linspace(0, len(days) - 1, min(len(days), DAYS)).round().astype(int))]
    mean: dict[int, dict[str, np.ndarray]] = {}
    count: dict[int, int] = {}
    for time in tqdm(times[np.isin(dates, days)], desc="climatology", unit="hour", disable=None):
        fields, hour = load(time), hour_of_day(time)
        count[hour] = count.get(hour, 0) + 1
        before = mean.get(hour, {})
        mean[hour] = {n: before.get(n, 0.0) + (x - before.get(n, 0.0)) / count[hour] for n, x in fields.items()}
    return Climatology(mean, len(days)) if mean else None


def hour_of_day(time: np.datetime64) -> int:
    return int((time - time.astype("datetime64[D]")) / np.timedelta64(1, "h"))

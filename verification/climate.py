"""Climatology by hour of day, and how fast weather returns to it: both from the training hours alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from tqdm import tqdm

DAYS = 60  # at most this many days are read, in runs of RUN days spread evenly over the record
RUN = 3  # days in a row, so that hours a day apart are among those that are read
ENOUGH = 15  # days; with fewer, the mean of an hour is smoothed over the hours beside it
SAMPLE = 400  # cells, spread evenly over the domain, from which the damping is estimated


@dataclass(frozen=True, eq=False)
class Climatology:
    """`mean[hour][name]` is a (y, x) field; an hour of the day that was never seen is absent. `sample[name]` (hours,
    cells) holds some cells of the hours `times`."""

    mean: dict[int, dict[str, np.ndarray]]
    days: int  # that were read
    times: np.ndarray
    sample: dict[str, np.ndarray]

    def at(self, name: str, time: np.datetime64) -> np.ndarray | None:
        """The field (y, x) for the hour of day of a time, None if that hour was never seen."""
        hour = hour_of_day(time)
        if hour not in self.mean:
            return None
        weights = {hour: 1.0} if self.days >= ENOUGH else {(hour - 1) % 24: 1.0, hour: 2.0, (hour + 1) % 24: 1.0}
        seen = {h: w for h, w in weights.items() if h in self.mean}
        return np.float32(sum(w * self.mean[h][name] for h, w in seen.items()) / sum(seen.values()))

    @cache  # noqa: B019  it lives as long as the command
    def damping(self, name: str, lead: np.timedelta64) -> float | None:
        """The share of a departure from the climatology that is left after a lead, by least squares, 0 to 1; None if
        no two training hours are so far apart."""
        normal = [thin(self.at(name, t)) for t in self.times]
        departure = self.sample[name] - np.array(normal)
        later = np.searchsorted(self.times, self.times + lead)
        pairs = (later < len(self.times)) & (self.times[later.clip(max=len(self.times) - 1)] == self.times + lead)
        before, after = departure[pairs], departure[later[pairs]]
        square = np.nansum(before**2)
        return float(np.clip(np.nansum(before * after) / square, 0, 1)) if square > 0 else None

    def damped(self, name: str, analysis: np.ndarray, init: np.datetime64, lead: np.timedelta64) -> np.ndarray | None:
        """Damped persistence (y, x): the climatology of the valid hour and what is left of today's departure from
        it. None if the climatology lacks an hour."""
        now, then, left = self.at(name, init), self.at(name, init + lead), self.damping(name, lead)
        return None if now is None or then is None or left is None else np.float32(then + left * (analysis - now))


def estimate(times: np.ndarray, load: Callable[[np.datetime64], dict[str, np.ndarray]]) -> Climatology | None:
    """The climatology of `times` (sorted datetime64 of the training part only), None if there are none.

    `load(time)` gives {name: (y, x)}, NaN in masked cells.
    """
    dates = times.astype("datetime64[D]")
    days = np.unique(dates)
    if len(days) > DAYS:
        first = np.linspace(0, len(days) - RUN, DAYS // RUN).round().astype(int)
        days = days[np.unique(first[:, None] + np.arange(RUN))]
    times = times[np.isin(dates, days)]
    mean: dict[int, dict[str, np.ndarray]] = {}
    count: dict[int, int] = {}
    sample: dict[str, list[np.ndarray]] = {}
    for time in tqdm(times, desc="climatology", unit="hour", disable=None):
        fields, hour = load(time), hour_of_day(time)
        count[hour] = count.get(hour, 0) + 1
        before = mean.get(hour, {})
        mean[hour] = {n: before.get(n, 0.0) + (x - before.get(n, 0.0)) / count[hour] for n, x in fields.items()}
        for n, x in fields.items():
            sample.setdefault(n, []).append(thin(x))
    return Climatology(mean, len(days), times, {n: np.array(x) for n, x in sample.items()}) if mean else None


def thin(field: np.ndarray) -> np.ndarray:
    """At most SAMPLE cells of a field, evenly spread."""
    flat = np.ravel(field)
    return flat[:: -(-flat.size // SAMPLE)]


def hour_of_day(time: np.datetime64) -> int:
    return int((time - time.astype("datetime64[D]")) / np.timedelta64(1, "h"))

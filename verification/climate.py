"""Damped persistence: the analysis drawn back towards the climate, from hours of the training period alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

HOURS = 240  # at most about this many hours are read
CELLS = 4096  # at most this many cells, evenly spread, are kept for the correlation


@dataclass(frozen=True)
class Climate:
    """Mean field (y, x) of each variable in its unit, and the correlation of its anomalies over each lead time."""

    mean: dict[str, np.ndarray]
    correlation: dict[str, dict[np.timedelta64, float]]
    hours: int  # that were read

    def damped(self, name: str, analysis: np.ndarray, lead: np.timedelta64) -> np.ndarray | None:
        """mean + rho(lead) (analysis - mean), (y, x): its expected error is sigma sqrt(1 - rho^2) at a point.
        None where no pair of hours tells rho."""
        rho = self.correlation[name].get(lead)
        return None if rho is None else self.mean[name] + np.float32(rho) * (analysis - self.mean[name])


def estimate(
    times: np.ndarray, load: Callable[[np.datetime64], dict[str, np.ndarray]], leads: np.ndarray, step: np.timedelta64
) -> Climate | None:
    """The climate of the hours `times` (datetime64, sorted, of the training period only), or None for fewer than two.

    Reads runs of hours `step` apart, as long as the longest lead where that fits into HOURS, that start evenly spread
    over the period; `load(time)` gives {name: (y, x)} with NaN where masked. The mean is by cell; rho pools cells.
    """
    if len(times) < 2:
        return None
    length = min(int(leads.max() // step) + 1, HOURS // 2)
    first = np.unique(np.linspace(0, max(len(times) - length, 0), max(HOURS // length, 2)).round().astype(int))
    known = set(times.astype("int64").tolist())
    wanted = sorted({int(t + k * step) for t in times[first] for k in range(length)} & known)
    sums: dict[str, np.ndarray] = {}
    kept: dict[str, dict[int, np.ndarray]] = {}
    for time in wanted:
        for name, field in load(np.datetime64(time, "ns")).items():
            sums[name] = sums.get(name, 0.0) + field.astype(np.float64)
            stride = max(1, int(np.ceil(np.sqrt(field.size / CELLS))))
            kept.setdefault(name, {})[time] = field[::stride, ::stride].ravel()
    mean = {name: (total / len(wanted)).astype(np.float32) for name, total in sums.items()}
    correlation = {name: _correlations(np.array(wanted), np.stack(list(k.values())), leads) for name, k in kept.items()}
    return Climate(mean, correlation, len(wanted))


def _correlations(times: np.ndarray, fields: np.ndarray, leads: np.ndarray) -> dict[np.timedelta64, float]:
    """rho by lead from fields (hours, cells), over all pairs that far apart; 0 to 1, absent without a pair."""
    anomalies = fields[:, np.isfinite(fields).all(axis=0)].astype(np.float64)
    anomalies -= anomalies.mean(axis=0)
    out = {}
    for lead in leads:
        later = np.searchsorted(times, times + int(lead / np.timedelta64(1, "ns")))
        pairs = [
            (i, j)
            for i, j in enumerate(later)
            if j < len(times) and times[j] - times[i] == int(lead.astype("timedelta64[ns]").astype("int64"))
        ]
        if not pairs:
            continue
        a, b = anomalies[[i for i, _ in pairs]], anomalies[[j for _, j in pairs]]
        spread = np.sqrt((a * a).sum() * (b * b).sum())
        if spread > 0:
            out[lead] = float(np.clip((a * b).sum() / spread, 0.0, 1.0))
    return out

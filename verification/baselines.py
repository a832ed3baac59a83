"""Forecasts that cost nothing, which a real one has to beat. They go through the same scoring code."""

from collections.abc import Callable

import numpy as np

DAY = np.timedelta64(24, "h")


def persistence(analysis: np.ndarray) -> np.ndarray:
    """The analysis at the initial time, (y, x), clipped as the forecast's lead 0 is: the same at every lead time."""
    return analysis


def yesterday_time(valid_time: np.datetime64, lead_time: np.timedelta64) -> np.datetime64:
    """The same hour on the last day that was known at the initial time: valid time - 24 h x ceil(lead / 24 h)."""
    days = -(-lead_time // DAY)  # rounded up: a lead of 25 h goes two days back
    return valid_time - days * DAY


def same_hour_yesterday(
    load: Callable[[np.datetime64], np.ndarray | None],
    valid_time: np.datetime64,
    lead_time: np.timedelta64,
    scored: np.ndarray | None = None,
) -> np.ndarray | None:
    """The truth at `yesterday_time`, (y, x); None where `load` has none or it lacks a cell that is scored."""
    field = load(yesterday_time(valid_time, lead_time))
    if field is None:
        return None
    cells = field if scored is None else field[scored]
    return field if np.isfinite(cells).all() else None

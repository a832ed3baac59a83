"""Times and durations as users write them, to datetime64 and timedelta64 and back."""

import re
import warnings

import numpy as np

from data.command import fault

FIRST, LAST = np.datetime64("1678-01-01"), np.datetime64("2262-01-01")  # what datetime64[ns] can hold
SECONDS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400,
           "day": 86400}  # fmt: skip


def parse_duration(text: str, what: str) -> np.timedelta64:
    """ "1h", "5min", "24 hours" as timedelta64[ns]; ValueError, naming `what`, for anything else or <= 0."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", str(text).lower())
    seconds = float(match[1]) * SECONDS.get(match[2][:2] + match[2][2:].removesuffix("s"), 0) if match else 0.0
    if not 1e-9 <= seconds < 9e9:  # datetime64[ns] holds 292 years
        raise fault(what, f"{text!r}", "a positive duration such as 1h, 5min or 24h", f"--{what} 1h")
    return np.timedelta64(round(seconds * 1e9), "ns")


def parse_time(text: str, what: str) -> np.datetime64:
    """An ISO time, UTC, as datetime64[ns]; ValueError, naming `what`, for anything else."""
    try:
        with warnings.catch_warnings(record=True) as zone:  # numpy turns a time with a zone into UTC, and warns
            warnings.simplefilter("always")
            time = np.datetime64(str(text).strip().removesuffix("Z"))
    except ValueError:
        time = np.datetime64("NaT")
    if not FIRST <= time <= LAST:  # NaT is not, either
        raise fault(what, f"{text!r}", "an ISO time in UTC", f"--{what} 2018-07-23T05")
    if zone:
        utc = time.astype("datetime64[s]")
        raise fault(what, f"{text!r}, with a time zone", "an ISO time in UTC", f"--{what} {utc}")
    return time.astype("datetime64[ns]")


def hours_of(duration: np.timedelta64) -> float:
    """A duration in hours."""
    return float(duration / np.timedelta64(1, "s")) / 3600.0


def show(time: np.datetime64) -> str:
    """A time to the minute, for messages."""
    return str(time.astype("datetime64[m]"))


def show_duration(duration: np.timedelta64) -> str:
    """A duration as "1 h", "5 min" or "1.5 h", for messages."""
    minutes = float(duration / np.timedelta64(1, "m"))
    return f"{minutes:g} min" if minutes < 60 else f"{minutes / 60:g} h"

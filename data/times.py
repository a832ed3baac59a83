"""Times and durations as users and files write them, to datetime64 and timedelta64 and back."""

import contextlib
import re
import warnings

import numpy as np
import xarray as xr

from data.command import fault

FIRST, LAST = np.datetime64("1678-01-01"), np.datetime64("2262-01-01")  # what datetime64[ns] can hold
CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "")
LEAD = re.compile("(forecast|fcst|prediction)?(lead|leadtime|leadhour|step|timedelta)s?|"
                  "(forecast|fcst)(period|hour)s?|fhr|fhour")  # fmt: skip
SECONDS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600,
           "d": 86400, "day": 86400, "millisecond": 1e-3, "microsecond": 1e-6, "nanosecond": 1e-9, "ms": 1e-3,
           "us": 1e-6, "ns": 1e-9}  # fmt: skip
SINCE = re.compile(
    r".* since [-\d]+([T ] ?[\d:.]+)? ?(Z|UTC|GMT|[-+]?\d\d?(:?\d\d)?)?", re.IGNORECASE
)  # in UTC or beside it
ISO = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)(?:[T _]?(\d\d):?(\d\d)?:?(\d\d(?:\.\d+)?)?)?(Z|[-+]\d\d:?\d\d)?", re.IGNORECASE
)


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


def with_times(dataset: xr.Dataset) -> xr.Dataset:
    """Every time of the standard calendar decoded by its units, and lead times as timedelta64; the others, which may
    belong to arrays that nobody wants, stay as they are."""
    out = {}
    for name, v in dataset.variables.items():
        letters = re.sub("[^a-z]", "", str(name).lower())
        units, calendar = str(v.attrs.get("units", "")), str(v.attrs.get("calendar", "")).lower()
        if v.dtype.kind not in "iuf":
            continue
        if SINCE.fullmatch(units) and calendar in CALENDARS:  # xarray would pass over a time zone such as EST
            with contextlib.suppress(Exception), warnings.catch_warnings():  # no date, or beyond the years that ns hold
                warnings.simplefilter("ignore")
                decoded = xr.conventions.decode_cf_variable(name, v, decode_timedelta=False)
                if decoded.dtype.kind == "M":
                    out[name] = exact(decoded, v)
        elif LEAD.fullmatch(letters) or v.attrs.get("standard_name") == "forecast_period":
            unit = units.strip().lower()
            if seconds := SECONDS.get(unit) or SECONDS.get(unit.removesuffix("s")):
                about = {k: a for k, a in v.attrs.items() if k != "units"}
                counts = np.where(np.isfinite(v.values), np.round(v.values * seconds * 1e3), 0)  # to a millisecond
                leads = counts.astype("timedelta64[ms]").astype("timedelta64[ns]")
                leads[~np.isfinite(v.values)] = np.timedelta64("NaT")
                out[name] = xr.Variable(v.dims, leads, about)
    return dataset.assign_coords({n: v for n, v in out.items()}) if out else dataset


def from_text(values: np.ndarray) -> np.ndarray:
    """Times in words, such as 2024-05-20_06:00:00 or 2024052006, perhaps one character an element, as datetime64[ns];
    ValueError for any that is not a time."""
    if values.dtype.kind in "SU" and values.dtype.itemsize in (1, 4) and values.ndim > 1:
        values = np.ascontiguousarray(values).view(f"{values.dtype.kind}{values.shape[-1]}")[..., 0]
    found = [ISO.fullmatch((x.decode() if isinstance(x, bytes) else str(x)).strip()) for x in np.ravel(values)]
    if not all(found):
        raise ValueError("no time")
    parts = [[p or "00" for p in f.groups()[:6]] + [f[7] or ""] for f in found]
    text = ["{}-{}-{}T{}:{}:{}".format(*p[:6]) + p[6].upper().replace("Z", "") for p in parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy turns a time with a zone into UTC, and warns
        return np.array(text, "datetime64[ns]").reshape(values.shape)


def exact(decoded: xr.Variable, raw: xr.Variable) -> xr.Variable:
    """Times that are written as fractions to the hour, minute or second that they mean: float64 "days since 1900" are
    up to a microsecond beside it, float32 up to minutes, and pairs are found by equal times."""
    stored = np.dtype(raw.encoding.get("dtype", raw.dtype))
    times = np.atleast_1d(decoded.values.astype("datetime64[ns]"))
    if stored.kind == "f" and not np.isnat(times).all():
        values = raw.values.astype(stored)
        unit = str(raw.attrs["units"]).split()[0].lower()
        seconds = next((s for u, s in (("d", 86400), ("h", 3600), ("min", 60)) if unit.startswith(u)), 1)
        room = max(np.spacing(np.nanmax(np.abs(values))) * seconds * 0.5, 1e-3)  # seconds beside what was meant
        for step in (3600, 1800, 900, 600, 300, 60, 1):
            ns = step * 10**9
            near = ((times.astype("int64") + ns // 2) // ns * ns).astype("datetime64[ns]")
            near[np.isnat(times)] = np.datetime64("NaT")
            beside = np.abs(near - times)[~np.isnat(times)].max() / np.timedelta64(1, "s")
            if room < step / 4 and beside <= 1.01 * room and len(np.unique(near)) == len(np.unique(times)):
                about = decoded.attrs | ({"rounded": f"{beside:.0f} s"} if beside >= 1 else {})
                return xr.Variable(decoded.dims, near.reshape(decoded.shape), about, decoded.encoding)
        if room >= 1:
            return raw  # no telling which times were meant: as good as not decoded
    return xr.Variable(decoded.dims, times.reshape(decoded.shape), decoded.attrs, decoded.encoding)


def spread(durations: np.ndarray) -> str:
    """The shortest and the longest of some durations, for messages."""
    low, high = durations.min(), durations.max()
    return show_duration(low) if low == high else f"{show_duration(low)} to {show_duration(high)}"


def kinds_of(leads: np.ndarray) -> np.ndarray:
    """0 for analyses, 1 for 1-hour forecasts, -1 for other leads; leads to a minute, as some are fractions."""
    hours = np.atleast_1d(leads).astype("timedelta64[ns]") / np.timedelta64(1, "h")
    return np.select([np.abs(hours) < 1 / 60, np.abs(hours - 1) < 1 / 60], [0, 1], -1)

"""Time of day, day of the year and the height of the sun, from true timestamps (UTC)."""

import numpy as np

J2000 = np.datetime64("2000-01-01T12:00:00", "ns")


def clock(times: np.ndarray) -> np.ndarray:
    """(N, 4) float32 for N datetime64: sin and cos of the hour of day, sin and cos of the day of the year.

    Both are continuous: 23:59 is next to 00:00, and the year's angle uses the true length of that year
    (365 or 366 days), so 31 December is next to 1 January and 29 February has its own place.
    """
    times = np.asarray(times, "datetime64[ns]")
    day = (times - times.astype("datetime64[D]")) / np.timedelta64(1, "D")
    start = times.astype("datetime64[Y]")
    length = (start + np.timedelta64(1, "Y")).astype("datetime64[ns]") - start.astype("datetime64[ns]")
    year = (times - start.astype("datetime64[ns]")) / length
    angles = 2 * np.pi * np.stack([day, year], axis=-1)
    out = np.stack([np.sin(angles[..., 0]), np.cos(angles[..., 0]), np.sin(angles[..., 1]), np.cos(angles[..., 1])], -1)
    return out.astype(np.float32)


def sun_position(time: np.datetime64) -> tuple[float, float]:
    """Declination and Greenwich hour angle of the sun, both in radians.

    Source: the low-precision formulas of the Astronomical Almanac (page C5), good to 0.01 degrees 1950-2050.
    """
    n = float((np.datetime64(time, "ns") - J2000) / np.timedelta64(1, "D"))  # days since J2000
    mean_longitude = np.radians(280.460 + 0.9856474 * n)
    anomaly = np.radians(357.528 + 0.9856003 * n)
    longitude = mean_longitude + np.radians(1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    obliquity = np.radians(23.439 - 4e-7 * n)
    right_ascension = np.arctan2(np.cos(obliquity) * np.sin(longitude), np.cos(longitude))
    declination = np.arcsin(np.sin(obliquity) * np.sin(longitude))
    sidereal = np.radians(15.0 * (18.697374558 + 24.06570982441908 * n))
    return float(declination), float((sidereal - right_ascension) % (2 * np.pi))


def cos_zenith(time: np.datetime64, latitude, longitude):
    """Cosine of the solar zenith angle (negative at night) for latitudes and longitudes in degrees (arrays)."""
    declination, hour_angle = sun_position(time)
    phi, local = np.radians(latitude), hour_angle + np.radians(longitude)
    return np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(local)

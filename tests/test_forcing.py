"""Clock and sun against an independent almanac (ephem, VSOP87) and against the calendar."""

import ephem
import numpy as np
import pytest

from data.forcing import clock, cos_zenith

PLACES = {"Norman": (35.2, -97.4), "Greenwich": (51.48, 0.0), "Sydney": (-33.87, 151.2)}


def almanac(time: np.datetime64, latitude: float, longitude: float) -> float:
    observer = ephem.Observer()
    observer.lat, observer.lon, observer.pressure = str(latitude), str(longitude), 0
    observer.date = str(time.astype("datetime64[s]")).replace("-", "/").replace("T", " ")
    return float(np.sin(ephem.Sun(observer).alt))


@pytest.mark.parametrize("place", PLACES)
def test_the_sun_stands_where_the_almanac_says(place):
    times = np.arange(np.datetime64("2015-01-01", "ns"), np.datetime64("2027-01-01"), np.timedelta64(1237, "h"))
    ours = [cos_zenith(t, *PLACES[place]) for t in times]
    assert np.allclose(ours, [almanac(t, *PLACES[place]) for t in times], atol=0.01)


def steps(times) -> np.ndarray:
    """Distances between successive clock features."""
    return np.linalg.norm(np.diff(clock(np.array(times, "datetime64[ns]")), axis=0), axis=1)


def test_the_clock_is_continuous_at_midnight_and_at_new_year():
    usual = steps(["2023-06-10T10", "2023-06-10T11"])[0]
    assert steps(["2023-06-10T23", "2023-06-11T00"])[0] == pytest.approx(usual, rel=1e-3)
    assert steps(["2023-12-31T23", "2024-01-01T00"])[0] == pytest.approx(usual, rel=1e-3)
    assert steps(["2024-12-31T23", "2025-01-01T00"])[0] == pytest.approx(usual, rel=1e-3)


def test_the_hour_counts_from_midnight_utc():
    assert np.allclose(clock(np.array(["2024-03-01T06"], "datetime64[ns]"))[0, :2], [1, 0], atol=1e-6)

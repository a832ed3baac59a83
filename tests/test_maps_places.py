"""Where things are: borders on a map, the cell at a place, frames in time, hours in a store."""

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from data.grid import HRRR_X0, HRRR_Y0, Grid, lambert_latlon
from plotting.animate import animate
from plotting.borders import COAST, STATE, Plane, lines_within
from plotting.maps import field_map
from plotting.point import meteogram, nearest_cell
from plotting.records import coverage, distributions
from tests.conftest import hour, small_grid
from tests.test_maps import draw, forecast_of


# ---- borders
def test_state_borders_lie_where_they_are():
    """Kansas and Nebraska meet at 40 degrees north, Kansas and Oklahoma at 37: in HRRR's plane within 1.5 km."""
    x, y = np.arange(-300e3, 300e3, 6000.0), np.arange(-300e3, 300e3, 6000.0)
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    plane = Plane(x, y, latitude, longitude)
    assert plane.misfit * 6000 < 20  # m
    states = np.concatenate(lines_within(x, y, latitude, longitude)[STATE])
    inside = states[(np.abs(states) < 290e3).all(axis=1)]
    for north in (37.0, 40.0):
        for east in (-98.5, -97.5):
            place = np.stack(plane(np.array([east]), np.array([north])), axis=1)
            segment = inside[np.abs(inside[:, 0] - place[0, 0]) < 60e3]
            assert np.abs(segment[:, 1] - place[0, 1]).min() < 1500 + 500  # the earth's curve between two points


def test_the_plane_of_all_of_hrrr_is_learnt_to_within_50_m():
    x, y = HRRR_X0 + 30e3 * np.arange(180), HRRR_Y0 + 30e3 * np.arange(106)
    plane = Plane(x, y, *lambert_latlon(x[None, :], y[:, None]))
    rng = np.random.default_rng(0)
    places = np.stack([rng.uniform(v[0], v[-1], 2000) for v in (x, y)])  # between the cells
    latitude, longitude = lambert_latlon(*places)
    assert np.hypot(*(np.stack(plane(longitude, latitude)) - places)).max() < 50


def test_coasts_are_drawn_in_degrees_on_a_regular_grid_and_not_where_the_plane_is_unknown():
    latitude, longitude = np.arange(60.0, 49, -0.5), np.arange(350.0, 363, 0.5)  # across 0 degrees, north first
    field = xr.DataArray(
        np.add.outer(latitude, longitude),
        {"latitude": latitude, "longitude": longitude},
        ("latitude", "longitude"),
        "t2m",
    )
    axes = draw(field_map(field)).axes[0]
    coast = next(c for c in axes.collections if c.get_label() == f"borders {COAST}")
    dover = min(np.hypot(*(s - [1.35, 51.13]).T).min() for s in coast.get_segments())
    assert dover < 0.2
    assert [t.get_text() for t in axes.get_xticklabels()] == ["10°W", "5°W", "0°"]
    assert not [c for c in field_map(field, lines=False).axes[0].collections if c.get_label().startswith("borders")]
    x = y = np.arange(-300e3, 300e3, 6000.0)
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    assert lines_within(x, y, latitude, longitude)
    assert lines_within(x, y, np.random.default_rng(0).permuted(latitude), longitude) == {}


# ---- a place
def test_the_nearest_cell_is_the_one_a_search_over_all_finds():
    grid = small_grid()
    row, column, km = nearest_cell(grid, grid.latitude[7, 3] + 0.004, grid.longitude[7, 3])
    assert (row, column) == (7, 3) and km == pytest.approx(0.004 * 111.2, rel=0.01)
    with pytest.raises(ValueError, match="km from the nearest cell"):
        nearest_cell(grid, 10.0, 0.0)
    # In the north a degree of longitude is short: 1.5 of them at 70 N are 57 km, one of latitude is 111 km.
    north = Grid((2, 2), latitude=np.array([[70.0, 70], [71, 71]]), longitude=np.array([[8.5, 11.5], [10, 13]]))
    row, column, km = nearest_cell(north, 70.0, 9.99)
    assert (row, column) == (0, 0) and km == pytest.approx(1.49 * 111.2 * np.cos(np.radians(70)), rel=0.01)


def test_a_meteogram_shows_the_cell_and_the_truth_of_its_times():
    place, grid = np.arange(192.0).reshape(12, 16), small_grid()
    place[0, 0] = np.nan
    forecast = forecast_of(lambda h: 1000 * h + place)
    truth = xr.Dataset({"t2m": (("time", "y", "x"), place[None] + 7)}, {"time": [hour(2)]})
    figure = draw(meteogram(forecast, grid.latitude[5, 2], grid.longitude[5, 2], truth=truth))
    line, dots = figure.axes[0].lines
    assert list(line.get_ydata()) == [82, 1082, 2082, 3082] and list(dots.get_ydata()) == [89]
    assert dots.get_xdata()[0] == hour(2) and figure.axes[0].get_ylabel() == "K"
    assert "cell 5, 2" in figure.get_suptitle() and "init 2024-05-20 00:00 UTC" in figure.get_suptitle()
    bare = forecast_of(lambda h: place, "dbz", coordinates=False, step=np.timedelta64(5, "m"), leads=2)
    assert draw(meteogram(bare, cell=(0, 0))).axes[0].texts[0].get_text() == "masked cell"
    with pytest.raises(ValueError, match=r"Fix: name the cell, cell=\(row, column\)"):
        meteogram(bare, 35.0, -97.0)


# ---- moving pictures
def test_an_animation_has_a_frame_per_lead_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    forecast = forecast_of(lambda h: 10.0 * h, "REFC", leads=3)
    figure = animate(tmp_path / "refc.gif", forecast, "REFC", truth=lambda t: None, dpi=30)
    with Image.open(tmp_path / "refc.gif") as picture:
        assert picture.n_frames == 3
    assert "+2 h, valid 2024-05-20 02:00 UTC" in figure.get_suptitle() and np.all(
        figure.axes[1].images[0].get_array() == 20
    )
    with pytest.raises(ValueError, match=r"expected a name that ends in .gif or .mp4"):
        animate(tmp_path / "refc.png", forecast, "REFC")

    monkeypatch.setattr("plotting.animate.FFMpegWriter.isAvailable", lambda: False)
    with pytest.raises(ValueError, match=r"ffmpeg is not installed.*refc\.gif"):
        animate(tmp_path / "refc.mp4", forecast, "REFC")

    monkeypatch.setattr("plotting.animate.os.replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        animate(tmp_path / "refc.gif", forecast, "REFC", dpi=30)
    assert [f.name for f in tmp_path.iterdir()] == ["refc.gif"]


# ---- what a store holds
def test_coverage_counts_the_fields_of_each_hour_and_the_gaps():
    times = [hour(n) for n in (*range(5), *range(7, 30))]
    figure = draw(coverage(xr.Dataset(coords={"time": times}), {"train": ["2024-05-20", "2024-05-20T12"], "gap": 24.0}))
    count = figure.axes[0].images[0].get_array()  # (hour of day, day)
    assert count.shape == (24, 2) and np.array_equal(
        np.isnan(count[:, 0].filled(np.nan)), np.isin(np.arange(24), (5, 6))
    )
    assert figure.get_suptitle() == "28 times, 1 gap" and figure.axes[0].texts[0].get_text().strip() == "train"
    radar = coverage(xr.Dataset(coords={"time": [hour(n / 12) for n in range(18)]}))
    assert list(radar.axes[0].images[0].get_array()[:3, 0].filled(0)) == [12, 6, 0]


def test_distributions_tell_units_piles_and_missing_cells():
    values = np.full((3, 12, 16), 30.0)
    values[:, :6], values[:, 6:9] = -10.0, np.nan
    store = xr.Dataset({"REFC": (("time", "y", "x"), values)}, {"time": [hour(n) for n in range(3)]})
    axes = draw(distributions(store)).axes[0]
    assert axes.get_title() == "REFC: 25% without a value, 67% at -10" and axes.get_xlabel() == "dBZ"
    with pytest.raises(ValueError, match="Fix: open a training store"):
        distributions(store.isel(time=0))


# ---- real weather

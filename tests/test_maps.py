"""Maps: what is drawn is what was given, where it lies, the right way up, with its unit and time."""

from importlib.util import find_spec

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex, to_rgba
from PIL import Image

from data.grib import decode, locate, scan
from data.grid import HRRR_X0, HRRR_Y0, Grid, lambert_latlon
from data.metadata import coordinates_of
from data.variables import lookup
from plotting.animate import animate
from plotting.borders import COAST, STATE, Plane, lines_within
from plotting.colours import (
    BEYOND,
    NWS_REFLECTIVITY,
    REFLECTIVITY_LEVELS,
    colour_map,
    field_colours,
    reflectivity_colours,
)
from plotting.maps import convection_map, field_map, forecast_panels, wind_map
from plotting.point import meteogram, nearest_cell
from plotting.records import coverage, distributions
from tests.conftest import hour, small_grid, weather

HOUR = np.timedelta64(1, "h")
LEADS = [1 * HOUR, 3 * HOUR]


def forecast_of(value, name: str = "T2M", flip: bool = False, coordinates: bool = True, step=HOUR, leads=4):
    """One forecast; value(lead in steps) gives a (12, 16) field, stored north to south with `flip`."""
    fields = np.stack([np.broadcast_to(value(h), (12, 16)) for h in range(leads)])[None].astype(np.float32)
    dataset = xr.Dataset(
        {name: (("init_time", "lead_time", "y", "x"), fields)},
        {"init_time": [hour(0)], "lead_time": (np.arange(leads) * step).astype("timedelta64[ns]")}
        | (coordinates_of(small_grid()) if coordinates else {}),
    )
    return dataset.isel(y=slice(None, None, -1)) if flip else dataset


def seven() -> xr.Dataset:
    """All seven variables of one time on the small grid."""
    names = ("REFC", "T2M", "D2M", "U10", "V10", "CAPE", "CIN")
    coordinates = coordinates_of(small_grid()) | {"time": hour(3)}
    return xr.Dataset({n: (("y", "x"), weather(n, hour(3))) for n in names}, coordinates)


def draw(figure):
    """Lay the figure out and render it, so that whatever cannot be drawn fails here."""
    figure.set_dpi(40)
    figure.canvas.draw()
    return figure


def texts(figure) -> str:
    """Everything written on a figure outside of its axes' ticks."""
    bars = [
        t
        for a in figure.axes
        for t in (a.get_xlabel(), a.get_ylabel(), a.get_title(), *(x.get_text() for x in a.texts))
    ]
    return "\n".join([figure.get_suptitle(), *bars])


# ---- panels
@pytest.mark.parametrize(("flip", "coordinates"), [(False, True), (True, True), (False, False)])
def test_maps_have_north_up_whatever_the_order_of_the_rows(flip, coordinates):
    northward = np.broadcast_to(np.arange(12.0)[:, None], (12, 16))  # larger to the north
    forecast = forecast_of(lambda h: northward, flip=flip, coordinates=coordinates)
    figure = draw(forecast_panels(forecast, lambda time: None, "T2M", LEADS[1:]))
    image = figure.axes[1].images[0]
    rows = image.get_array()[:, 0]
    top = rows[0] if image.origin == "upper" else rows[-1]
    left, right, bottom, upper = image.get_extent()
    assert top == 11 and upper > bottom and right > left
    assert figure.axes[0].get_ylabel().startswith("+3 h, valid\n2024-05-20\n03:00 UTC")
    if coordinates:
        assert (right - left) == pytest.approx(16 * 3)  # km


def test_panels_show_truth_forecast_persistence_and_error_on_one_scale():
    forecast = forecast_of(lambda h: np.full((12, 16), 280.0 + h) + np.arange(16) / 16)
    hours = np.array([hour(n) for n in range(4)])
    truth = xr.Dataset({"T2M": (("time", "y", "x"), forecast["T2M"].values[0] - 2)}, {"time": hours})
    figure = draw(forecast_panels(forecast, truth, "T2M", LEADS))
    images = [axes.images[0] for axes in figure.axes[:8]]
    assert [a.get_title() for a in figure.axes[:4]] == ["truth", "forecast", "persistence", "forecast - truth"]
    assert np.array_equal(images[4].get_array(), truth["T2M"][3]) and np.all(images[7].get_array() == 2)
    assert np.array_equal(images[6].get_array(), forecast["T2M"].values[0, 0])
    assert len({id(image.norm) for image in images if image not in (images[3], images[7])}) == 1
    assert "init 2024-05-20 00:00 UTC" in texts(figure) and "\nK\n" in texts(figure) and "error (K)" in texts(figure)


def test_reflectivity_stands_beside_its_extrapolation_and_no_echo_is_no_error():
    forecast = forecast_of(lambda h: 0.0, "REFC", leads=2)
    moved = lambda lead: np.full((12, 16), 44.0)  # noqa: E731
    truth = np.full((12, 16), -10.0)  # as HRRR writes no echo
    axes = draw(forecast_panels(forecast, lambda t: truth, "REFC", LEADS[:1], extrapolation=moved)).axes
    assert axes[3].get_title() == "extrapolation" and np.all(axes[3].images[0].get_array() == 44)
    assert axes[3].images[0].norm is axes[1].images[0].norm
    assert np.all(axes[4].images[0].get_array() == 0)
    assert axes[0].texts[0].get_text() == "no echo of 5 dBZ" and not axes[3].texts
    none = forecast_panels(forecast, lambda t: None, "REFC", LEADS[:1], extrapolation=lambda lead: None).axes
    assert [a.texts[0].get_text() for a in (none[0], none[3], none[4])] == ["no truth", "no extrapolation", "no truth"]


def test_five_minute_leads_and_a_single_lead_are_drawn():
    forecast = forecast_of(lambda h: 20.0 + h, "REFC", coordinates=False, step=np.timedelta64(5, "m"))
    figure = draw(forecast_panels(forecast, lambda t: None, "REFC", [np.timedelta64(5, "m")]))
    assert figure.axes[0].get_ylabel().startswith("+5 min, valid\n2024-05-20\n00:05 UTC")
    assert figure.axes[0].get_xlabel() == "x (cell)"


# ---- colours
def test_reflectivity_has_the_table_of_the_weather_service():
    pytest.importorskip("cmweather")
    theirs = colour_map("NWSRef")(np.linspace(0, 1, 15))  # interpolated among 256 shades
    assert np.abs(theirs - [to_rgba(c) for c in (*NWS_REFLECTIVITY, BEYOND)]).max() < 10 / 255
    colours, norm = reflectivity_colours()
    shown = [to_hex(colours(norm(v))) for v in (4.9, 5, 22, 51, 74.9, 75)]
    assert shown == ["#ffffff", "#00ecec", "#00ff00", "#ff0000", "#9955c9", "#000000"]


@pytest.mark.parametrize("name", ["ChaseSpectral", "HomeyerRainbow", "cividis"])
def test_another_table_is_one_argument_away(name):
    if name != "cividis":
        pytest.importorskip("cmweather")
    image = field_map(seven().REFC, colours=name).axes[0].images[0]
    shades = image.cmap(image.norm(np.array([-10.0, 7, 72])))
    assert np.all(shades[0] == 1) and np.array_equal(image.norm.boundaries, REFLECTIVITY_LEVELS)
    assert np.allclose(shades[1], colour_map(name)(0.0))
    assert not np.allclose(shades[1], shades[2])


def test_an_unknown_colour_map_is_refused():
    with pytest.raises(ValueError, match=r"colours: got 'rainbows', .*Fix"):
        field_map(seven().T2M, colours="rainbows")


def test_limits_fit_the_field():
    field = np.array([[1.0, 3.0], [np.nan, 2.0]])
    assert field_colours("U10", [field, -2 * field])[1].vmin == pytest.approx(-6, abs=0.05)
    assert field_colours("CAPE", [field])[1].vmin == 0 and field_colours("CIN", [-field])[1].vmax == 0
    for name in ("T2M", "CAPE", "CIN", "U10", "unheard of"):
        for empty in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
            norm = field_colours(name, [empty])[1]
            assert norm.vmin < norm.vmax, name


def test_masked_cells_are_grey_and_the_driest_are_white():
    field = seven().REFC
    field[:] = 52.0
    field[0], field[1] = 0.0, np.nan
    image = field_map(field).axes[0].images[0]
    colours = image.cmap(image.norm(image.get_array()))
    assert to_hex(colours[0, 0]) == "#ffffff" and to_hex(colours[1, 0]) == "#cccccc"
    assert to_hex(colours[5, 5]) == "#ff0000"


# ---- one time
def test_a_map_tells_name_unit_and_times():
    case = forecast_of(lambda h: 280.0 + h).isel(init_time=0).T2M
    told = texts(draw(field_map(case.isel(lead_time=3))))
    assert "T2M: 2 m temperature\ninit 2024-05-20 00:00, +3 h, valid 2024-05-20 03:00 UTC" in told and "\nK\n" in told
    assert "analysis" in texts(field_map(case.isel(lead_time=0)))
    assert "valid 2024-05-20 03:00 UTC" in texts(field_map(seven().CAPE)) and "J kg⁻¹" in texts(field_map(seven().CAPE))
    with pytest.raises(ValueError, match=r"T2M: got dimensions .*Fix: .isel\(lead_time=0\)"):
        field_map(case)


def test_barbs_have_the_wind_of_their_cell_in_knots():
    fields = seven().rename(U10="u10", V10="10v")
    y, x = np.mgrid[:12, :16].astype(float)
    fields["u10"][:], fields["10v"][:] = x, y  # m s-1: a cell's wind is its own place
    barbs = draw(wind_map(fields, "T2M")).axes[0].collections[-1]
    column = (np.asarray(barbs.x) - fields.x.values[0] / 1000) / 3
    row = (np.asarray(barbs.y) - fields.y.values[0] / 1000) / 3
    assert np.allclose(barbs.u, column * 3600 / 1852) and np.allclose(barbs.v, row * 3600 / 1852)
    speed = wind_map(fields.drop_vars("T2M")).axes[0].images[0].get_array()
    assert speed[4, 3] == pytest.approx(5)
    with pytest.raises(ValueError, match="expected U10 or another name of it"):
        wind_map(fields[["T2M"]])


def test_cin_is_drawn_as_contours_over_cape_and_left_out_where_there_is_none():
    fields = seven()
    fields["CIN"][:] = np.linspace(-120, 0, 16)
    drawn = convection_map(fields)
    assert np.array_equal(drawn.axes[0].images[0].get_array(), fields.CAPE)
    levels = [list(c.levels) for c in drawn.axes[0].collections if type(c).__name__ == "QuadContourSet"]
    assert [-200, -100, -50, -25] in levels
    fields["CIN"][:] = 0.0
    assert [-200, -100, -50, -25] not in [
        list(getattr(c, "levels", [])) for c in convection_map(fields).axes[0].collections
    ]


def test_terrain_is_contoured_and_a_map_without_coordinates_is_drawn_in_cells():
    fields = seven()
    terrain = fields.T2M.copy(data=small_grid().static["orography"])
    contours = len(draw(field_map(fields.T2M, terrain=terrain)).axes[0].collections)
    assert contours == len(field_map(fields.T2M).axes[0].collections) + 1
    bare = xr.DataArray(fields.T2M.values, dims=("row", "col"), name="anything")
    figure = draw(field_map(bare))
    assert figure.axes[0].get_xlabel() == "x (cell)" and "unit not given" in texts(figure)


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
    place = np.arange(192.0).reshape(12, 16)
    forecast = forecast_of(lambda h: 1000 * h + place)
    truth = xr.Dataset({"t2m": (("time", "y", "x"), place[None] + 7)}, {"time": [hour(2)]})
    grid = small_grid()
    figure = draw(meteogram(forecast, grid.latitude[5, 2], grid.longitude[5, 2], truth=truth))
    line, dots = figure.axes[0].lines
    assert list(line.get_ydata()) == [82, 1082, 2082, 3082] and list(dots.get_ydata()) == [89]
    assert (
        dots.get_xdata()[0] == hour(2) and "cell 5, 2" in figure.get_suptitle() and figure.axes[0].get_ylabel() == "K"
    )


def test_a_meteogram_goes_by_cell_where_there_is_no_latitude_and_names_a_masked_cell():
    field = np.full((12, 16), 20.0)
    field[0, 0] = np.nan
    forecast = forecast_of(lambda h: field, "dbz", coordinates=False, step=np.timedelta64(5, "m"), leads=2)
    assert draw(meteogram(forecast, cell=(0, 0))).axes[0].texts[0].get_text() == "masked cell"
    with pytest.raises(ValueError, match=r"Fix: name the cell, cell=\(row, column\)"):
        meteogram(forecast, 35.0, -97.0)


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

    monkeypatch.setattr("plotting.animate.os.replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        animate(tmp_path / "refc.gif", forecast, "REFC", dpi=30)
    assert [f.name for f in tmp_path.iterdir()] == ["refc.gif"]


def test_mp4_without_ffmpeg_is_refused_with_the_gif_as_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("plotting.animate.FFMpegWriter.isAvailable", lambda: False)
    with pytest.raises(ValueError, match=r"ffmpeg is not installed.*refc\.gif"):
        animate(tmp_path / "refc.mp4", forecast_of(lambda h: 0.0, "REFC"), "REFC")


# ---- real weather
@pytest.mark.real_data
def test_the_whole_of_hrrr_is_drawn_with_its_coasts(real):
    path = next((real / "hrrr_conus").glob("*.grib2"))
    message = next(m for m in scan(path) if m.matches(lookup("REFC")))
    coordinates = coordinates_of(locate(message)) | {
        "init_time": message.reference_time,
        "lead_time": message.lead_time,
    }
    field = xr.DataArray(decode(message), coordinates, ("y", "x"), "REFC")
    figure = field_map(field)
    assert "init 2022-10-14 01:00, +15 min, valid 2022-10-14 01:15 UTC" in texts(draw(figure))
    coast = next(c for c in figure.axes[0].collections if c.get_label() == f"borders {COAST}")
    grid = locate(message)
    plane = Plane(grid.x / 1000, grid.y / 1000, grid.latitude, grid.longitude)
    cape_cod = np.ravel(plane(np.array([-69.97]), np.array([41.78])))  # Marconi beach
    assert plane.misfit < 0.05
    corners = np.concatenate(coast.get_segments())
    assert np.hypot(*(corners - cape_cod).T).min() < 6  # km


@pytest.mark.real_data
def test_real_fields_of_every_kind_are_drawn(real):
    files = {"uk": "era5_uk_t2m_744h.nc", "plains": "era5_plains_25h.nc", "radar": "fmi_dbz_20160928.nc",
             "washita": "nldas_washita_120h.nc"}  # fmt: skip
    one = {k: xr.open_dataset(real / f, engine="netcdf4").isel(time=12).load() for k, f in files.items()}
    uk = draw(field_map(one["uk"].t2m))
    assert "valid 2019-03-01 12:00 UTC" in texts(uk) and uk.axes[0].images[0].origin == "upper"
    assert any(c.get_label() == f"borders {COAST}" for c in uk.axes[0].collections)
    assert draw(wind_map(one["plains"], "d2m")).axes[0].get_xticks().size
    radar = draw(field_map(one["radar"].dbz, "HomeyerRainbow" if find_spec("cmweather") else "cividis"))
    assert radar.axes[0].images[0].get_array().mask.any() and "no echo" not in texts(radar)
    assert "Temp: 2 m temperature, wind barbs in knots" in texts(draw(wind_map(one["washita"], "Temp")))


def as_forecast(fields: xr.Dataset) -> xr.Dataset:
    """The times of a real data set as the lead times of one perfect forecast of it."""
    times = fields["time"].values
    fields = fields.rename(time="lead_time").assign_coords(lead_time=times - times[0])
    return fields.expand_dims(init_time=times[:1])


@pytest.mark.real_data
def test_panels_and_animation_of_a_real_radar_every_five_minutes_with_masked_cells(real, tmp_path):
    radar = xr.open_dataset(real / "fmi_dbz_20160928.nc", engine="netcdf4")[["dbz"]]
    radar = radar.isel(time=slice(0, 3), y=slice(300, 700, 4), x=slice(0, 500, 4)).load()  # its western edge
    forecast = as_forecast(radar)
    panels = draw(forecast_panels(forecast, radar, "dbz", forecast.lead_time.values[1:])).axes
    assert panels[4].get_ylabel() == "+10 min, valid\n2016-09-28\n14:55 UTC"
    error = panels[7].images[0].get_array()
    assert error.mask.any() and np.all(error.compressed() == 0) and not np.all(error.mask)
    assert np.array_equal(error.mask, np.isnan(radar.dbz[2]))
    animate(tmp_path / "radar.gif", forecast, "dbz", truth=radar, dpi=30)
    with Image.open(tmp_path / "radar.gif") as picture:
        assert picture.n_frames == 3


@pytest.mark.real_data
def test_meteogram_coverage_and_distributions_of_real_reanalyses(real):
    plains = xr.open_dataset(real / "era5_plains_25h.nc", engine="netcdf4").load()
    axes = draw(meteogram(as_forecast(plains), 35.2, -97.4, truth=plains)).axes
    norman = plains.sel(latitude=35.25, longitude=-97.5, method="nearest")
    assert [a.get_ylabel() for a in axes] == ["K", "m s⁻¹"] and np.array_equal(axes[0].lines[0].get_ydata(), norman.d2m)
    assert np.allclose(axes[1].lines[1].get_ydata(), np.hypot(norman.u10, norman.v10))
    uk = xr.open_dataset(real / "era5_uk_t2m_744h.nc", engine="netcdf4")
    assert coverage(uk).get_suptitle() == "744 times, no gaps"
    assert draw(distributions(uk, times=4)).axes[0].get_xlabel() == "K"


@pytest.mark.real_data
def test_cape_and_cin_of_a_real_hrrr_file_are_drawn(real):
    messages = scan(real / "hrrr_grib" / "hrrr.20180722" / "hrrr.t21z.wrfsfcf01.grib2")
    fields = {n: next(m for m in messages if m.matches(lookup(n))) for n in ("CAPE", "CIN")}
    arrays = {n: (("y", "x"), decode(m)) for n, m in fields.items()}
    store = xr.Dataset(arrays, coordinates_of(locate(fields["CAPE"])) | {"time": fields["CAPE"].valid_time})
    figure = draw(convection_map(store))
    assert "valid 2018-07-22 22:00 UTC" in texts(figure) and np.array_equal(
        figure.axes[0].images[0].get_array(), store.CAPE
    )


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

"""Maps: what is drawn is what was given, where it lies, the right way up, with its unit and time."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex, to_rgba

from data.metadata import coordinates_of
from plotting.colours import (
    BEYOND,
    NWS_REFLECTIVITY,
    REFLECTIVITY_LEVELS,
    colour_map,
    error_colours,
    field_colours,
    reflectivity_colours,
)
from plotting.maps import convection_map, field_map, forecast_panels, richest_case, wind_map
from tests.conftest import PROJECT, hour, small_grid, weather

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
    figure = draw(forecast_panels(forecast, lambda t: None, "REFC", [np.timedelta64(5, "m")], persistence=False))
    assert figure.axes[0].get_ylabel().startswith("+5 min, valid\n2024-05-20\n00:05 UTC")
    assert figure.axes[0].get_xlabel() == "x (cell)"
    assert [a.get_title() for a in figure.axes[:3]] == ["truth", "forecast", "forecast - truth"]


def test_without_an_initial_time_the_one_with_the_highest_mean_is_drawn():
    means = {0: 280.0, 2: 282.0, 1: 281.0, 9: np.nan}
    cases = [forecast_of(lambda h, m=m: m).assign_coords(init_time=[hour(k)]) for k, m in means.items()]
    forecast = xr.concat(cases, "init_time")
    assert richest_case(forecast, "T2M") == hour(2)
    assert "init 2024-05-20 02:00 UTC" in texts(forecast_panels(forecast, lambda t: None, "T2M", LEADS))


# ---- colours
def test_reflectivity_has_the_table_of_the_weather_service():
    pytest.importorskip("cmweather")
    theirs = colour_map("NWSRef")(np.linspace(0, 1, 15))  # interpolated among 256 shades
    assert np.abs(theirs - [to_rgba(c) for c in (*NWS_REFLECTIVITY, BEYOND)]).max() < 10 / 255
    colours, norm = reflectivity_colours()
    values = np.ma.masked_invalid([np.nan, 0, 4.9, 5, 22, 51, 74.9, 75])
    assert [to_hex(c) for c in colours(norm(values))] == [
        "#cccccc",
        "#ffffff",
        "#ffffff",
        "#00ecec",
        "#00ff00",
        "#ff0000",
        "#9955c9",
        "#000000",
    ]


@pytest.mark.parametrize("name", ["ChaseSpectral", "HomeyerRainbow", "cividis"])
def test_another_table_is_one_argument_away(name):
    if name != "cividis":
        pytest.importorskip("cmweather")
    image = field_map(seven().REFC, colours=name).axes[0].images[0]
    shades = image.cmap(image.norm(np.array([-10.0, 7, 72])))
    assert np.all(shades[0] == 1) and np.array_equal(image.norm.boundaries, REFLECTIVITY_LEVELS)
    assert np.allclose(shades[1], colour_map(name)(0.0)) and not np.allclose(shades[1], shades[2])
    with pytest.raises(ValueError, match=r"colours: got 'rainbows', .*Fix"):
        field_map(seven().T2M, colours="rainbows")


@pytest.mark.parametrize("name", ["T2M", "D2M", "CAPE", "CIN", "RAIN", "U10", "V10", "error"])
def test_only_winds_and_errors_have_colours_that_diverge(name):
    table = (error_colours if name == "error" else lambda x: field_colours(name, x))([np.ones((2, 2))])[0]
    steps = np.diff(table(np.linspace(0, 1, 9))[:, :3] @ [0.2126, 0.7152, 0.0722])  # of the lightness
    diverges = np.all(steps[:4] > 0) and np.all(steps[4:] < 0)
    assert diverges if name in ("U10", "V10", "error") else np.all(steps > 0) or np.all(steps < 0)


def test_limits_fit_the_field():
    field = np.array([[1.0, 3.0], [np.nan, 2.0]])
    assert field_colours("U10", [field, -2 * field])[1].vmin == pytest.approx(-6, abs=0.05)
    assert field_colours("CAPE", [field])[1].vmin == 0 and field_colours("CIN", [-field])[1].vmax == 0
    for name in ("T2M", "CAPE", "CIN", "U10", "unheard of"):
        for empty in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
            norm = field_colours(name, [empty])[1]
            assert norm.vmin < norm.vmax, name


# ---- one time
def test_a_map_tells_name_unit_and_times():
    case = forecast_of(lambda h: 280.0 + h).isel(init_time=0).T2M
    shown = texts(draw(field_map(case.isel(lead_time=3))))
    assert "T2M: 2 m temperature\ninit 2024-05-20 00:00, +3 h, valid 2024-05-20 03:00 UTC" in shown and "\nK\n" in shown
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


def test_figures_need_no_window_and_leave_no_global_state():
    for path in (PROJECT / "plotting").glob("*.py"):
        assert "pyplot" not in path.read_text(), path.name

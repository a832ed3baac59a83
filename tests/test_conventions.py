"""What other people's arrays mean: times, leads, axes, grids, levels, winds and fill values, by CF attributes first."""

import numpy as np
import pytest
import xarray as xr
import zarr

from data.grid import EARTH_RADIUS, read_grid
from data.opening import open_netcdf, open_zarr, parts_of
from data.sources.zarr_netcdf import ZarrHours
from data.store import Store
from data.variables import identify, undeclared
from tests.conftest import hour, weather, write_store

LATITUDE, LONGITUDE = np.linspace(30, 33, 4), np.linspace(-110, -106, 5)
HOURS = np.array([hour(n) for n in range(6)])
STEP = np.timedelta64(1, "h")


def dataset(dims=("time", "latitude", "longitude"), coordinates=None, shape=None, **attributes) -> xr.Dataset:
    """T2M whose values are the position along the first dimension."""
    known = {"latitude": LATITUDE, "longitude": LONGITUDE, "time": HOURS} | (coordinates or {})
    sizes = shape or [np.size(known[d][1] if isinstance(known[d], tuple) else known[d]) for d in dims]
    values = np.arange(sizes[0], dtype=np.float32).reshape(-1, *[1] * (len(sizes) - 1)) + np.zeros(sizes, np.float32)
    extra = {k: v for k, v in known.items() if k in dims or k in (coordinates or {})}
    return xr.Dataset({"t2m": (dims, values, {"units": "K", **attributes})}, extra)


def saved(source: xr.Dataset, path, **encoding) -> list:
    """The parts of a dataset as they come back from a NetCDF file."""
    source.to_netcdf(path / "a.nc", encoding=encoding)
    return parts_of("a.nc", open_netcdf(path / "a.nc"))


# ---- time -----------------------------------------------------------------------------------------

RUN, PERIOD = {"standard_name": "forecast_reference_time"}, {"standard_name": "forecast_period"}
D = ("latitude", "longitude")
TIMES = {  # name: (dataset, the valid times in hours, leads in hours or None)
    "valid time beside run time": (
        dataset(coordinates={"time": ("time", HOURS, RUN), "valid_time": ("time", HOURS + STEP)}), range(1, 7),
        [1] * 6),
    "reference time and period": (
        dataset(("t", *D), {"t": ("t", HOURS, RUN), "fp": ((), 60.0, {**PERIOD, "units": "minutes"})}), range(1, 7),
        [1] * 6),
    "one run with all its leads": (
        dataset(("step", *D), {"step": ("step", np.arange(6) * STEP), "time": hour(0), "valid_time": ("step", HOURS)}),
        range(6), [0, 1, -1, -1, -1, -1]),
    "a dimension of leads": (
        dataset(("init_time", "lead_time", *D), {"init_time": HOURS, "lead_time": np.arange(3) * STEP}), range(6),
        [0] * 6),
    "a dimension of leads without the analysis": (
        dataset(("time", "prediction_timedelta", *D), {"prediction_timedelta": np.arange(1, 3) * STEP}), range(1, 7),
        [1] * 6),
    "a scalar": (dataset(D, {"valid_time": hour(3), "step": 0 * STEP}), [3], [0]),
    "text": (dataset(("Time", *D), {"Times": ("Time", [f"2024-05-20_0{n}:00:00" for n in range(6)])}, (6, 4, 5)),
             range(6), None),
}  # fmt: skip


@pytest.mark.parametrize("case", TIMES)
def test_the_valid_time_of_a_field_is_found(case, tmp_path):
    source, hours, leads = TIMES[case]
    part = saved(source, tmp_path)[0]
    assert list(part.times) == [hour(n) for n in hours]
    assert leads is None if part.kinds is None else list(part.kinds) == leads
    assert list(part.dims) == ["t2m"]


@pytest.mark.parametrize("units", ["days since 1900-01-01", "hours since 1900-01-01", "seconds since 1970-01-01"])
def test_float32_times_are_the_hours_that_they_mean(units, tmp_path):
    (part,) = saved(dataset(), tmp_path, time={"dtype": "float32", "units": units})
    assert np.array_equal(part.times, HOURS) and (units[0] == "h" or "rounded" in part.notes[0])


def test_float32_times_of_five_minutes_are_refused(tmp_path):
    times = hour(0) + np.arange(6) * np.timedelta64(5, "m")
    with pytest.raises(ValueError, match=r"time cannot be decoded.* Fix: .*float32 is minutes beside"):
        saved(
            dataset(coordinates={"time": times}), tmp_path, time={"dtype": "float32", "units": "days since 1900-01-01"}
        )


REFUSED = {  # name: (dataset, words of the refusal)
    "calendar": (dataset(coordinates={"time": ("time", range(6), {"units": "hours since 2024-02-28",
                                                                 "calendar": "360_day"})}), "calendar '360_day'"),
    "time zone by name": (
        dataset(coordinates={"time": ("time", range(6), {"units": "hours since 2024-05-20 00:00 EST"})}), "EST"),
    "late leads": (dataset(("step", *D), {"step": ("step", np.arange(3, 6) * STEP), "time": hour(0)}), "3 h to 5 h"),
    "lead without units": (dataset(("step", *D), {"step": ("step", range(3)), "time": hour(0)}), "step cannot be"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_times_that_cannot_be_told_are_refused_by_name(case, tmp_path):
    with pytest.raises(ValueError, match=f"{REFUSED[case][1]}.* Fix: "):
        saved(REFUSED[case][0], tmp_path)


# ---- dimensions -----------------------------------------------------------------------------------


class Options:
    """The builder's options that a source reads."""

    def __init__(self, path, variables=()):
        self.path, self.variables, self.forecast_hour, self.cache = str(path), list(variables), "auto", 200


def source(data: xr.Dataset, path, *variables) -> ZarrHours:
    file = path / f"{len(list(path.iterdir()))}.nc"
    data.to_netcdf(file)
    return ZarrHours(Options(file, variables), None, None)


@pytest.mark.parametrize("name", ["expver", "number", "level", "member"])
def test_a_dimension_in_the_way_is_named_and_one_of_length_one_is_dropped(name, tmp_path):
    dims = ("time", name, "latitude", "longitude")
    with pytest.raises(ValueError, match=f"t2m has the dimensions {name},.* Fix: .*{name}"):
        source(dataset(dims, {name: [0, 1]}), tmp_path)
    assert source(dataset(dims, {name: [0]}), tmp_path).grid.shape == (4, 5)


@pytest.mark.parametrize("dims", [("time", "cell", "feature"), ("time", "level", "latitude"), ("time", "a", "b")])
def test_what_is_no_map_is_refused(dims, tmp_path):
    with pytest.raises(ValueError, match=r"no \(time, y, x\) array.* Fix: "):
        source(dataset(dims, {d: np.arange(4.0) for d in dims[1:] if d != "latitude"}), tmp_path)


def test_columns_before_rows_are_transposed_by_the_builder_and_refused_by_training(tmp_path):
    data = dataset(("time", "longitude", "latitude"))
    data["t2m"] = data.t2m * 0 + data.latitude + data.longitude / 1000 + 250
    data.t2m.attrs["units"] = "K"
    hours = source(data, tmp_path)
    expected = 250 + LATITUDE[:, None] + LONGITUDE / 1000
    assert np.allclose(hours.load(hour(0))["T2M"], expected, atol=1e-4) and "columns first" in " ".join(hours.notes)
    data.to_zarr(tmp_path / "s.zarr")
    with pytest.raises(ValueError, match=r"order of dimensions time, longitude, latitude.* transposes"):
        Store(tmp_path / "s.zarr")


# ---- grid -----------------------------------------------------------------------------------------


def plane(y, x, **attributes) -> xr.Dataset:
    return xr.Dataset(
        {"t": (("y", "x"), np.zeros((len(y), len(x))))}, {"y": ("y", y, attributes), "x": ("x", x, attributes)}
    )


def test_kilometres_become_metres_and_counters_are_none():
    km = plane(np.arange(4) * 3.0, np.arange(5) * 3.0, units="km")
    assert read_grid(km, ("y", "x")).spacing == (3000, 3000)
    assert read_grid(plane(np.arange(4.0), np.arange(5.0)), ("y", "x")).spacing is None
    with pytest.raises(ValueError, match="the unit 'feet'"):
        read_grid(plane(np.arange(4.0), np.arange(5.0), units="feet"), ("y", "x"))


def test_latitudes_tell_that_metres_are_numbers_of_cells():
    data = plane(np.arange(4.0), np.arange(5.0), units="m")
    phi, lam = np.meshgrid(35 + np.arange(4) * 0.027, -100 + np.arange(5) * 0.033, indexing="ij")
    data = data.assign_coords(nav_lat=(("y", "x"), phi), nav_lon=(("y", "x"), lam))
    assert read_grid(data, ("y", "x")).spacing == pytest.approx((3002, 3003), abs=6)


def test_spacing_is_a_distance_on_the_sphere_across_the_date_line_too():
    longitude = (179 + np.arange(5) * 0.5 + 180) % 360 - 180
    data = xr.Dataset({"t": (("lat", "lon"), np.zeros((4, 5)))}, {"lat": np.arange(4) * 0.5, "lon": longitude})
    degree = EARTH_RADIUS * np.radians(0.5)
    assert read_grid(data, ("lat", "lon")).spacing == pytest.approx((degree, degree), rel=1e-3)


POLE = {"grid_mapping_name": "rotated_latitude_longitude", "grid_north_pole_latitude": 37.5,
        "grid_north_pole_longitude": 177.5, "earth_radius": 6371229.0}  # fmt: skip
STEREO = {"grid_mapping_name": "polar_stereographic", "latitude_of_projection_origin": 90.0, "standard_parallel": 60.0,
          "straight_vertical_longitude_from_pole": 225.0, "earth_radius": 6371229.0}  # fmt: skip


def test_latitudes_follow_from_the_grid_mapping():
    coordinates = {a: (a, v, {"standard_name": a, "units": "degrees"}) for a, v in
                   {"grid_latitude": [-1.2867, -1.2732], "grid_longitude": [358.5065, 358.52]}.items()}  # fmt: skip
    data = xr.Dataset({"t": (tuple(coordinates), np.zeros((2, 2))), "pole": ((), 0, POLE)}, coordinates)
    grid = read_grid(data, tuple(coordinates), {"grid_mapping": "pole"})
    assert grid.latitude[0, 0] == pytest.approx(51.18866, abs=1e-4) and grid.longitude[0, 0] == pytest.approx(
        -4.88271, abs=1e-4
    )
    polar = plane([-3e6, -2e6], [0.0, 1e6], units="m").assign(stereo=((), 0, STEREO))
    grid = read_grid(polar, ("y", "x"))
    # Snyder (21-33): 2 atan(rho / (R (1 + sin 60))) from the pole, on the meridian 225
    assert grid.latitude[0, 0] == pytest.approx(90 - 2 * np.degrees(np.arctan(3e6 / 6371229 / (1 + np.sin(np.pi / 3)))))
    assert grid.longitude[0, 0] == pytest.approx(-135)


def test_winds_turn_between_the_grid_and_the_earth_and_back():
    y, x = np.mgrid[:4, :5] * 0.1  # the x axis points to the north-east
    data = xr.Dataset({"U10": (("y", "x"), x, {"standard_name": "x_wind"})},
                      {"latitude": (("y", "x"), x + y), "longitude": (("y", "x"), x - y)})  # fmt: skip
    grid = read_grid(data, ("y", "x"))
    u, v = grid.turn_winds(np.ones((4, 5)), np.zeros((4, 5)), "earth")
    assert grid.winds == "grid" and np.allclose([u, v], np.sqrt(0.5), atol=1e-3)
    grid.winds = "earth"
    back = grid.turn_winds(u, v, "grid")
    assert np.allclose(back, [np.ones((4, 5)), np.zeros((4, 5))])


# ---- variables ------------------------------------------------------------------------------------

ARRAYS = [  # name, attributes, level beside it, the table's name
    ("TMP_2maboveground", {}, None, "T2M"), ("VAR_10U", {}, None, "U10"), ("var", {"short_name": "2d"}, None, "D2M"),
    ("t2m", {"GRIB_typeOfLevel": "surface"}, None, "T2M"), ("T2", {}, None, "T2M"), ("UGRD", {}, None, "U10"),
    ("CAPE_180_0mbaboveground", {}, None, ""), ("UGRD", {"level": "80 m above ground"}, None, ""),
    ("UGRD", {}, ("height above ground", 80.0), ""), ("Temp", {"level": "500 mb"}, None, ""),
    ("u10", {}, ("height above ground", 2.0), "U10"), ("wind_u_80m", {"standard_name": "eastward_wind"}, None, ""),
    ("air", {"standard_name": "air_temperature"}, ("height above ground", 2.0), "T2M"),
    ("air", {"standard_name": "air_temperature"}, None, ""),
    ("convective_inhibition_surface", {}, None, "CIN"),
    ("cape", {"GRIB_typeOfLevel": "pressureFromGroundLayer"}, None, ""),
]  # fmt: skip


@pytest.mark.parametrize("name, attributes, level, expected", ARRAYS)
def test_an_array_is_known_by_its_names_if_its_level_fits(name, attributes, level, expected):
    assert identify(name, attributes, level)[0] == expected


def test_rain_since_the_start_of_a_run_is_differenced_and_hourly_rain_is_not(tmp_path):
    rain = np.random.default_rng(0).exponential(1, (6, 4, 5)).astype(np.float32)
    total = xr.Dataset({"tp": (("time", *D), np.cumsum(rain, axis=0), {"units": "kg m**-2"})},
                       {"time": HOURS, "latitude": LATITUDE, "longitude": LONGITUDE})  # fmt: skip
    hours = source(total, tmp_path)
    assert hours.times == list(HOURS[1:]) and np.allclose(hours.load(hour(3))["RAIN"], rain[3], atol=1e-5)
    total["tp"] = total.tp.copy(data=rain / 1000).assign_attrs(units="m")
    assert np.allclose(source(total, tmp_path).load(hour(0))["RAIN"], rain[0], atol=1e-5)


# ---- missing data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name, value, found", [
    ("U10", -9999, True), ("gust", 9.999e20, True), ("sst", -32767, True), ("T2M", 1e20, True), ("gust", 60, False),
    ("REFC", -999, True), ("REFC", -10, False), ("RAIN", 200, False), ("soil", -999, True),
])  # fmt: skip
def test_a_fill_value_that_nobody_declared_is_found(name, value, found):
    field = np.linspace(280, 290, 20, dtype=np.float32) * (0 if name in ("U10", "RAIN", "REFC") else 1)
    field[7] = value
    assert (undeclared(name, field) == (np.float32(value), 1)) == found


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["T2M", "CAPE"])
def test_a_lost_chunk_is_missing_and_not_zero(zarr_format, name, tmp_path):
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=zarr_format)
    arrays = {"time": np.arange(6), name: np.stack([weather(name, t) for t in HOURS])}
    for n, values in arrays.items():
        dims = ("time", "y", "x")[: values.ndim]
        names = {"dimension_names": dims} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": dims}}
        chunks = (6,) if n == "time" else (1, 6, 16)
        array = group.create_array(n, shape=values.shape, dtype=values.dtype, chunks=chunks, fill_value=0, **names)
        array[:] = values
    group["time"].attrs["units"] = "hours since 2024-05-20"
    (tmp_path / "s.zarr" / name / ("2.1.0" if zarr_format == 2 else "c/2/1/0")).unlink()
    field = ZarrHours(Options(tmp_path / "s.zarr"), None, None).load(hour(2))[name]
    assert np.isnan(field[6:]).all() and np.array_equal(field[:6], arrays[name][2, :6])


# ---- models and stores ----------------------------------------------------------------------------


def test_a_store_that_differs_from_the_models_is_refused(tmp_path):
    store = Store(write_store(tmp_path / "s.zarr", weather, HOURS, ("T2M", "U10", "V10")))
    facts = store.facts()
    store.refuse_other(facts, "the model was trained on")
    assert facts == {"north_first": False, "winds": "grid", "spacing": [3000.0, 3000.0]}
    for change, words in (({"north_first": True}, "rows from south to north"), ({"winds": "earth"}, "along the grid"),
                          ({"spacing": [1000.0, 1000.0]}, "cells of 3.00 km")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{words}.* Fix: "):
            store.refuse_other(facts | change, "the model was trained on")


def test_whoever_chooses_variables_asks_for_their_units(tmp_path):
    path = write_store(tmp_path / "s.zarr", weather, HOURS)
    zarr.open_group(path, mode="r+")["T2M"].attrs["units"] = "degC"
    zarr.consolidate_metadata(path)
    with pytest.raises(ValueError, match=r"T2M: got units 'degC', expected 'K'.* Fix: .*build_hrrr"):
        Store(path).choose(["T2M"])


def test_a_remote_store_names_the_package_that_is_missing():
    with pytest.raises(ValueError, match="pip install gcsfs"):
        open_zarr("gs://bucket/x.zarr")

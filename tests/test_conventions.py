"""What files say by CF attributes, function by function: projections, winds, fill values, lost chunks, stores apart."""

import numpy as np
import pytest
import xarray as xr

from data.grid import read_grid
from data.store import Store
from data.variables import undeclared
from tests.conftest import small_grid, weather, write_store
from tests.test_other_people import FIELD, HOURS, MAP, H, dataset, read, refused

STEREO = {"grid_mapping_name": "polar_stereographic", "latitude_of_projection_origin": 90.0, "standard_parallel": 60.0,
          "straight_vertical_longitude_from_pole": 225.0, "earth_radius": 6371229.0}  # fmt: skip


def test_latitudes_follow_from_the_grid_mapping():
    axes = {"y": ("y", [-3e6, -2e6], {"units": "m"}), "x": ("x", [0.0, 1e6], {"units": "m"})}
    grid = read_grid(xr.Dataset({"t": (("y", "x"), np.zeros((2, 2))), "stereo": ((), 0, STEREO)}, axes), ("y", "x"))
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


REFERENCES = [  # on a grid with curved lines: attributes of U10, of the dataset, what is recorded
    ({"standard_name": "x_wind"}, {}, "grid"), ({"standard_name": "grid_eastward_wind"}, {}, "grid"),
    ({"standard_name": "eastward_wind"}, {}, "earth"), ({"wind_reference": "earth"}, {}, "earth"),
    ({"standard_name": "eastward_wind", "GRIB_uvRelativeToGrid": 1}, {}, "grid"),
    ({"GRIB_uvRelativeToGrid": 0}, {}, "earth"), ({}, {"TITLE": " OUTPUT FROM WRF V4.3 MODEL"}, "grid"),
    ({}, {}, "unknown"),
]  # fmt: skip


@pytest.mark.parametrize("about, attributes, expected", REFERENCES)
def test_what_winds_follow_is_recorded(about, attributes, expected, tmp_path):
    grid = small_grid(4, 6)
    places = {n: (("y", "x"), getattr(grid, n)) for n in ("latitude", "longitude")}
    data = dataset("time y x", places | {"time": HOURS}, "u10", values=1, units="m s-1", **about)
    assert read(tmp_path / "a.nc", data.assign_attrs(attributes)).grid.winds == expected


@pytest.mark.parametrize("name, value, found", [
    ("U10", -9999, True), ("gust", 9.999e20, True), ("sst", -32767, True), ("T2M", 1e20, True), ("gust", 60, False),
    ("REFC", -999, True), ("REFC", -10, False), ("RAIN", 200, False), ("soil", -999, True),
])  # fmt: skip
def test_a_fill_value_that_nobody_declared_is_found(name, value, found):
    field = np.linspace(280, 290, 20, dtype=np.float32) * (0 if name in ("U10", "RAIN", "REFC") else 1)
    field[7] = value
    assert (undeclared(name, field) == (np.float32(value), 1)) == found


@pytest.mark.parametrize("name, fill", [("u10", -9999), ("t2m", 9.999e20), ("gust", -32767), ("cin", 9999),
                                        ("t2m", -273.15), ("u10", -327.68)])  # fmt: skip
def test_a_fill_value_counts_as_missing_once_it_is_declared(name, fill, tmp_path):
    units = {"t2m": "degC", "cin": "J kg-1"}.get(name, "m s-1")
    data = dataset(name=name, values=np.where(FIELD == 281.2, fill, FIELD - 270), units=units)  # noqa: SIM300
    source = read(tmp_path / "a.nc", data, {name: {"_FillValue": None}})
    refused(lambda: source.load(HOURS[0]), f"got {fill:g} in 1 cells", f"_FillValue (or missing_value) {fill:g}")
    for attribute in ("_FillValue", "missing_value"):
        declared = {name: {"_FillValue": None} | {attribute: np.float32(fill)}}
        (values,) = read(tmp_path / "b.nc", data, declared).load(HOURS[0]).values()
        assert np.isnan(values[1, 2]) and np.isnan(values).sum() == 1


@pytest.mark.parametrize("about", [{"valid_range": [-99.0, 99.0]}, {"valid_max": 99.0}, {"missing_value": 999.9}])
def test_what_double_precision_or_a_valid_range_declares_is_missing(about, tmp_path):
    data = dataset(name="u10", values=np.where(FIELD == 281.2, 999.9, FIELD - 270), units="m s-1", **about)  # noqa: SIM300
    values = read(tmp_path / "a.nc", data, {"u10": {"_FillValue": None}}).load(HOURS[0])["U10"]
    assert np.isnan(values[1, 2]) and np.isnan(values).sum() == 1


@pytest.mark.parametrize("dims", [MAP, "time longitude latitude"])
@pytest.mark.parametrize("zarr_format, fill, chunk", [(2, "_FillValue", "1.0.0"), (3, "fill_value", "c/1/0/0")])
def test_a_chunk_that_is_missing_is_no_zero(dims, zarr_format, fill, chunk, tmp_path):
    path, cape = tmp_path / "s.zarr", 100 * (FIELD > 281)
    data = dataset(dims, name="CAPE", values=cape, units="J kg-1")
    encoding = {"chunks": (1, *data.CAPE.shape[1:]), fill: 0}
    data.to_zarr(path, zarr_format=zarr_format, encoding={"CAPE": encoding})
    assert np.array_equal(read(path).load(HOURS[1])["CAPE"], cape)
    (path / "CAPE" / chunk).unlink()
    source = read(path)
    if dims == MAP:
        assert np.isnan(source.load(HOURS[1])["CAPE"]).all() and np.array_equal(source.load(HOURS[2])["CAPE"], cape)
    else:
        refused(lambda: source.load(HOURS[1]), "chunks that were never written")


def test_groups_and_stale_metadata_are_named(tmp_path):
    dataset().to_zarr(tmp_path / "g.zarr", group="surface")
    refused(lambda: read(tmp_path / "g.zarr"), f"name one, such as {tmp_path / 'g.zarr/surface'}")
    dataset().to_netcdf(tmp_path / "g.nc", group="surface")
    refused(lambda: read(tmp_path / "g.nc"), "group='/surface'")
    dataset().to_zarr(tmp_path / "s.zarr", zarr_format=2, consolidated=True)
    dataset().assign_coords(time=HOURS + 4 * H).to_zarr(tmp_path / "s.zarr", append_dim="time", consolidated=False)
    refused(lambda: read(tmp_path / "s.zarr"), "zarr.consolidate_metadata")


def test_a_store_that_differs_from_the_models_is_refused(tmp_path):
    store = Store(write_store(tmp_path / "s.zarr", weather, HOURS, ("T2M", "U10", "V10")))
    facts = store.facts()
    store.refuse_other(facts, "the model was trained on")
    assert facts == {"north_first": False, "winds": "grid", "spacing": [3000.0, 3000.0]}
    for change, words in (({"north_first": True}, "rows from south to north"), ({"winds": "earth"}, "along the grid"),
                          ({"spacing": [1000.0, 1000.0]}, "cells of 3.00 km")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{words}.* Fix: "):
            store.refuse_other(facts | change, "the model was trained on")

"""What files say by CF attributes, function by function: projections, winds, fill values, lost chunks, stores apart."""

import numpy as np
import pytest
import xarray as xr
import zarr

from data.build_hrrr import Config
from data.grid import read_grid
from data.sources.zarr_netcdf import ZarrHours
from data.store import Store
from data.variables import undeclared
from tests.conftest import hour, weather, write_store

HOURS = np.array([hour(n) for n in range(6)])


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
    field = ZarrHours(Config(path=str(tmp_path / "s.zarr")), None, None).load(hour(2))[name]
    assert np.isnan(field[6:]).all() and np.array_equal(field[:6], arrays[name][2, :6])


def test_a_store_that_differs_from_the_models_is_refused(tmp_path):
    store = Store(write_store(tmp_path / "s.zarr", weather, HOURS, ("T2M", "U10", "V10")))
    facts = store.facts()
    store.refuse_other(facts, "the model was trained on")
    assert facts == {"north_first": False, "winds": "grid", "spacing": [3000.0, 3000.0]}
    for change, words in (({"north_first": True}, "rows from south to north"), ({"winds": "earth"}, "along the grid"),
                          ({"spacing": [1000.0, 1000.0]}, "cells of 3.00 km")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{words}.* Fix: "):
            store.refuse_other(facts | change, "the model was trained on")

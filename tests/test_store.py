"""Opening training stores: ours, other people's, and what is no store at all."""

import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from data.grid import EARTH_RADIUS, HRRR_X0, HRRR_Y0, lambert_latlon
from data.store import Store
from data.write import StoreWriter
from tests.conftest import SEVEN, hour, small_grid, weather, write_store
from verification.inputs import Fields


def test_what_is_written_is_read_back(seven_store):
    store = Store(seven_store)
    assert store.choose([]) == list(SEVEN)
    fields = store.load(hour(7), ["V10", "T2M"])
    assert np.array_equal(fields, np.stack([weather("V10", hour(7)), weather("T2M", hour(7))]))
    assert store.grid.spacing == (3000.0, 3000.0)
    assert set(store.grid.static) == {"orography", "land_sea_mask"}


def test_a_finished_store_opens_plainly_and_without_a_warning(seven_store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(seven_store)
    assert dataset.T2M.attrs["units"] == "K" and dataset.T2M.attrs["grid_mapping"] == "spatial_ref"
    assert zarr.open_group(seven_store)["T2M"].chunks == (1, 12, 16)
    assert (dataset.forecast_hour == 0).all()


@pytest.mark.parametrize("units,value", [("hours since 2020-02-28", 30), ("minutes since 2020-02-29", 360),
                                         ("days since 2020-02-28", 1.25)])  # fmt: skip
def test_the_units_of_time_decide_and_not_an_offset(tmp_path, units, value):
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
    time = group.create_array("time", data=np.array([value]))
    time.attrs.update({"_ARRAY_DIMENSIONS": ["time"], "units": units, "calendar": "proleptic_gregorian"})
    field = group.create_array("T2M", data=np.full((1, 8, 8), 280.0, np.float32))
    field.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    assert Store(tmp_path / "s.zarr").times[0] == np.datetime64("2020-02-29T06", "ns")


@pytest.mark.parametrize("there,given,words", [
    ("f/hrrr.20180722/a.grib2", "f", "--source grib --path GIVEN "), ("f/a.grb2", "f", "--source grib --path GIVEN "),
    ("f/a.zarr/zarr.json", "f", "name one: GIVEN/a.zarr"), ("best.pt", "best.pt", "but a checkpoint"),
    ("a.grib2", "a.grib2", "--source grib --path GIVEN "), ("a.txt", "a.txt", "NetCDF"),
])  # fmt: skip
def test_what_is_no_store_is_named_and_how_it_becomes_one(there, given, words, tmp_path):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).touch()
    with pytest.raises(ValueError, match=r"not a zarr store.* expected .* Fix: ") as error:
        Store(tmp_path / given)
    assert words.replace("GIVEN", str(tmp_path / given)) in str(error.value)


def test_truth_without_a_variable_is_not_helped_by_an_option_of_training(tmp_path):
    poor = write_store(tmp_path / "poor.zarr", weather, [hour(0), hour(1)], ["T2M"])
    with pytest.raises(ValueError, match=r"got no variable 'U10'.* Fix: name a store that has it$"):
        Fields(None, Store(poor), ["T2M", "U10"])


@pytest.mark.parametrize("wanted,found", [(["t2m"], ["T2M"]), (["temperature_2m", "10u"], ["T2M", "U10"])])
def test_variables_are_found_under_their_aliases(seven_store, wanted, found):
    assert Store(seven_store).choose(wanted) == found


def test_a_store_of_unknown_variables_is_taken_whole_and_said(tmp_path):
    path = write_store(tmp_path / "s.zarr", lambda n, t: 1.0, [hour(0), hour(1)], ["soil", "snow"])
    store = Store(path)
    assert sorted(store.choose([])) == ["snow", "soil"]
    assert sum("not in the variables table" in note for note in store.notes) == 2


def test_a_regular_grid_gets_two_dimensional_coordinates(tmp_path):
    coordinates = {"time": [hour(0)], "lat": [50.0, 49.0, 48.0], "lon": [359.0, 0.0, 1.0, 2.0]}
    data = np.zeros((1, 3, 4), np.float32)
    xr.Dataset({"t2m": (("time", "lat", "lon"), data)}, coordinates).to_zarr(tmp_path / "s.zarr", zarr_format=2)
    grid = Store(tmp_path / "s.zarr").grid
    assert grid.latitude.shape == (3, 4) and list(grid.latitude[:, 0]) == [50, 49, 48]
    assert list(grid.longitude[0]) == [-1, 0, 1, 2]
    assert grid.dims == ("lat", "lon") and grid.y is None
    assert grid.spacing[0] == pytest.approx(EARTH_RADIUS * np.radians(1))


def test_a_store_without_coordinates_opens_and_says_what_it_lacks(tmp_path):
    data = np.zeros((1, 8, 8), np.float32)
    xr.Dataset({"T2M": (("time", "y", "x"), data)}, {"time": [hour(0)]}).to_zarr(tmp_path / "s.zarr", zarr_format=2)
    store = Store(tmp_path / "s.zarr")
    assert store.grid.latitude is None and store.grid.spacing is None
    assert any("no latitude/longitude" in n for n in store.notes)


def test_zero_is_a_value_in_a_store_whose_fill_value_nobody_chose(tmp_path):
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
    time = group.create_array("time", data=np.arange(3))
    time.attrs.update({"_ARRAY_DIMENSIONS": ["time"], "units": "hours since 2024-01-01"})
    field = group.create_array("CAPE", shape=(3, 8, 8), chunks=(1, 8, 8), dtype="f4", fill_value=0)
    field.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    calm = np.zeros((8, 8), np.float32)
    calm[2, 2] = 5
    field[:] = np.stack([calm] * 3)
    assert np.array_equal(Store(tmp_path / "s.zarr").load(np.datetime64("2024-01-01T01"), ["CAPE"])[0], calm)
    (tmp_path / "s.zarr/CAPE/1.0.0").unlink()  # never written: no zeros are made up
    lost = Store(tmp_path / "s.zarr").load(np.datetime64("2024-01-01T01"), ["CAPE"])
    assert np.isnan(lost).all()


def test_a_flipped_bit_is_an_error_and_never_weather(tmp_path):
    store = Store(write_store(tmp_path / "s.zarr", weather, [hour(0), hour(1)]))
    assert np.array_equal(store.load(hour(0), ["T2M"])[0], weather("T2M", hour(0)))
    chunk = tmp_path / "s.zarr" / "T2M" / "c" / "0" / "0" / "0"
    sound = chunk.read_bytes()
    for byte in (20, len(sound) // 2, len(sound) - 1):  # in the frame, in its data, in the checksum
        chunk.write_bytes(sound[:byte] + bytes([sound[byte] ^ 4]) + sound[byte + 1 :])
        with pytest.raises(ValueError, match=r"T2M at 2024-05-20T00:00 cannot be read .*checksum.* Fix: "):
            store.load(hour(0), ["T2M"])
    assert np.array_equal(store.load(hour(1), ["T2M"])[0], weather("T2M", hour(1)))


def test_an_exception_while_writing_leaves_the_old_store(tmp_path):
    path = write_store(tmp_path / "s.zarr", weather, [hour(0), hour(1)])
    with (
        pytest.raises(RuntimeError),
        StoreWriter(path, ["T2M"], small_grid(), {}) as store,
    ):
        store.write(hour(0), {"T2M": weather("T2M", hour(0))})
        raise RuntimeError("out of disk")
    assert len(Store(path).times) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_another_kind_of_folder_is_never_replaced(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("do not lose")
    with pytest.raises(ValueError, match="got something else"):
        StoreWriter(tmp_path / "precious", ["T2M"], small_grid(), {})
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "do not lose"


def test_the_projection_is_that_of_pyproj():
    from pyproj import Transformer

    crs = f"+proj=lcc +lat_0=38.5 +lat_1=38.5 +lat_2=38.5 +lon_0=262.5 +R={EARTH_RADIUS}"
    x, y = HRRR_X0 + 3000 * np.arange(0, 1799, 257), HRRR_Y0 + 3000 * np.arange(0, 1059, 151)
    x, y = np.meshgrid(x, y)
    inverse = Transformer.from_crs(crs, f"+proj=longlat +R={EARTH_RADIUS}", always_xy=True)
    longitude, latitude = inverse.transform(x, y)
    ours = lambert_latlon(x, y)
    assert np.allclose(ours[0], latitude, atol=1e-9) and np.allclose(ours[1], longitude, atol=1e-9)

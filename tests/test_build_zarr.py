"""Other people's stores and files to a training store: what differs between sources is made equal."""

import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import hour, small_grid, weather, write_store

from data import build_hrrr
from data.sources import zarr_netcdf


@pytest.fixture
def build(command, tmp_path):
    """Run the command on one source: (exit code, output, error line, the opened store or None)."""

    def call(path, *options, source="zarr"):
        out = tmp_path / f"out{len(list(tmp_path.glob('out*.zarr')))}.zarr"
        code, said, err = command(build_hrrr, "--source", source, "--path", path, "--out", out, *options)
        assert (code == 0) == out.exists() and not list(tmp_path.glob("out*.zarr.*"))
        error = err.splitlines()[-1] if code else ""
        print(said, error)
        assert code in (0, 2) and (not code or (error.startswith("error: ") and "Fix: " in error))
        return code, said, error, xr.open_zarr(out) if code == 0 else None

    return call


def field(name: str, times, dims=("time", "latitude", "longitude"), shape=(4, 6), units="K", sign=1):
    """Values that encode their hour (hundreds), row and column."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    values = np.stack([230 + n % 10 * 10 + rows + columns / 10 for n in times]).astype(np.float32) * sign
    return {name: (dims, values, {"units": units})}


def regular(times, latitude, longitude, time="time", **fields) -> xr.Dataset:
    coordinates = {time: [hour(n) for n in times], "latitude": latitude, "longitude": longitude}
    return xr.Dataset(fields, coordinates)


def test_an_era5_like_file_is_sorted_turned_and_renamed(build, tmp_path):
    times = [3, 0, 2]
    data = field("t2m", times, ("valid_time", "latitude", "longitude"))
    source = regular(times, [50, 49, 48, 47], np.arange(358, 364) % 360.0, "valid_time", **data)
    source.expand_dims("number").to_netcdf(tmp_path / "era5.nc")
    _, out, _, store = build(tmp_path / "era5.nc")
    assert np.array_equal(store.time, [hour(n) for n in (0, 2, 3)]) and store.T2M.attrs["units"] == "K"
    assert list(store.latitude) == [47, 48, 49, 50] and list(store.longitude) == [-2, -1, 0, 1, 2, 3]
    # the source's row 3 is the southernmost: 230 + 3 + column / 10, 20 more two hours later
    assert np.allclose(store.T2M.sel(time=hour(2))[0], 253 + np.arange(6) / 10)
    assert store.T2M.dims == ("time", "latitude", "longitude")
    assert all(part in out for part in ("turned", "sorted", "t2m is T2M", "1 hours absent"))


def test_a_global_grid_is_rolled_so_that_longitudes_increase(build, tmp_path):
    longitude = np.arange(0, 360, 60.0)
    regular([0], [0, 1, 2, 3], longitude, **field("t2m", [0])).to_zarr(tmp_path / "s.zarr", zarr_format=2)
    store = build(tmp_path / "s.zarr")[3]
    assert list(store.longitude) == [-180, -120, -60, 0, 60, 120]
    assert np.allclose(store.T2M[0, 0], 230 + np.array([3, 4, 5, 0, 1, 2]) / 10)


@pytest.mark.parametrize(
    "name, units, value, expected",
    [("t2m", "degrees C", 20, 293.15), ("t2m", "degF", 68, 293.15), ("u10", "meter/second", 3, 3),
     ("u10", "m s\u207b\u00b9", 3, 3), ("cape", "kJ/kg", 1, 1000),
     ("temperature_2m", "degree_Celsius", 20, 293.15), ("t2m", "K", 280, 280), ("u10", "knots", 10, 5.144444),
     ("v10", "km h**-1", 36, 10), ("v10", "m s**-1", 3, 3), ("REFC", "dBZ", -10, -10),
     ("precipitation_surface", "kg m-2 s-1", 0.001, 3.6), ("total_precipitation_1hr", "m", 0.002, 2),
     ("GaugeCorrQPE01H", "mm", 7, 7)],
)  # fmt: skip
def test_units_become_those_of_the_table(build, tmp_path, name, units, value, expected):
    data = {name: (("time", "y", "x"), np.full((1, 4, 6), value, np.float32), {"units": units})}
    xr.Dataset(data, {"time": [hour(0)]}).to_zarr(tmp_path / "s.zarr")
    store = build(tmp_path / "s.zarr")[3]
    assert float(next(iter(v for v in store.data_vars.values() if v.ndim == 3)).max()) == pytest.approx(expected)


def test_an_unknown_unit_and_a_temperature_that_is_no_kelvin_are_refused(build, tmp_path):
    for units, part in (("furlong", "unit 'furlong'"), ("", "the mean 20.0")):
        data = {"t2m": (("time", "y", "x"), np.full((1, 4, 6), 20, np.float32), {"units": units} if units else {})}
        xr.Dataset(data, {"time": [hour(0)]}).to_zarr(tmp_path / "s.zarr", mode="w")
        assert part in build(tmp_path / "s.zarr")[2]


def test_positive_cin_is_turned_and_its_missing_values_stay(build, tmp_path):
    data = field("cin", [0, 1], units="J kg**-1")
    data["cin"][1][0, 1, 2] = np.nan
    regular([0, 1], [1, 2, 3, 4], np.arange(6.0), **data).to_netcdf(tmp_path / "a.nc")
    _, out, _, store = build(tmp_path / "a.nc")
    assert float(store.CIN.max()) == -230 and np.isnan(store.CIN[0, 1, 2]) and int(np.isnan(store.CIN).sum()) == 1
    assert "CIN was positive in 2 hours" in out and "CIN: 1 cells missing, stored as NaN" in out


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_integer_time_is_decoded_by_its_units_and_static_fields_are_kept(build, tmp_path, zarr_format):
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=zarr_format)
    arrays = {"time": (("time",), np.array([30, 31]), {"units": "hours since 2020-02-28"}),
              "T2M": (("time", "y", "x"), np.full((2, 3, 4), 280, np.float32), {}),
              "mine": (("time", "y", "x"), np.full((2, 3, 4), 7, np.float32), {"units": "furlong"}),
              "orography": (("y", "x"), np.arange(12, dtype=np.float32).reshape(3, 4), {}),
              "lat": (("y", "x"), np.repeat([[42.0], [41], [40]], 4, 1), {}),
              "lon": (("y", "x"), np.repeat([[10.0, 11, 12, 13]], 3, 0), {})}  # fmt: skip
    for name, (dims, values, attributes) in arrays.items():
        names = {"dimension_names": dims} if zarr_format == 3 else {}
        array = group.create_array(name, data=values, **names)
        array.attrs.update(attributes | ({"_ARRAY_DIMENSIONS": dims} if zarr_format == 2 else {}))
    _, out, _, store = build(tmp_path / "s.zarr", "--variables", "T2M", "mine")
    assert list(store.time.values) == [np.datetime64("2020-02-29T06", "ns"), np.datetime64("2020-02-29T07", "ns")]
    assert np.array_equal(store.orography[0], [8, 9, 10, 11]) and list(store.latitude[:, 0]) == [40, 41, 42]
    assert (store.mine == 7).all() and store.mine.attrs["units"] == "furlong" and "T2M has no units" in out


def test_files_of_a_folder_are_joined_and_incomplete_hours_left_out(build, tmp_path):
    grid = ([1, 2, 3, 4], np.arange(6.0))
    (tmp_path / "f").mkdir()
    regular([2, 3], *grid, **field("t2m", [2, 3])).to_netcdf(tmp_path / "f" / "a.nc")
    regular([0, 1], *grid, **field("t2m", [0, 1])).to_netcdf(tmp_path / "f" / "b.nc")
    regular([0, 1, 2], *grid, **field("d2m", [0, 1, 2])).to_netcdf(tmp_path / "f" / "c.nc")
    _, out, _, store = build(tmp_path / "f")
    assert list(store.T2M[:, 0, 0]) == [230, 240, 250] and list(store.D2M[:, 0, 0]) == [230, 240, 250]
    assert "2024-05-20T03:00 lacks D2M" in out
    regular([2], *grid, **field("t2m", [2])).to_netcdf(tmp_path / "f" / "d.nc")  # the same again
    assert "1 fields occur twice with equal values" in build(tmp_path / "f")[1]
    (tmp_path / "f" / "d.nc").unlink()
    regular([2], *grid, **field("t2m", [4])).to_netcdf(tmp_path / "f" / "e.nc")
    assert "got different T2M for 2024-05-20T02:00" in build(tmp_path / "f")[2]
    (tmp_path / "f" / "e.nc").unlink()
    regular([5], [1, 2, 3, 5], grid[1], **field("t2m", [5])).to_netcdf(tmp_path / "f" / "g.nc")
    assert "different grids" in build(tmp_path / "f")[2]


def test_long_chunks_are_decoded_by_blocks_and_not_once_per_hour(build, tmp_path, monkeypatch):
    times, shape = list(range(48)), (16, 125)
    data = field("t2m", times, ("time", "y", "x"), shape)
    encoding = {"t2m": {"chunks": (24, 8, 125)}}
    xr.Dataset(data, {"time": [hour(n) for n in times]}).to_zarr(tmp_path / "s.zarr", encoding=encoding)
    reads, read = [], zarr_netcdf.Part.read
    monkeypatch.setattr(zarr_netcdf.Part, "read", lambda *at: reads.append(at[3] - at[2]) or read(*at))
    store = build(tmp_path / "s.zarr")[3]
    assert reads == [24, 24]
    assert np.array_equal(store.T2M, data["t2m"][1])
    reads.clear()
    monkeypatch.setattr(zarr_netcdf, "MB", 10 * 4 * 2000 / 200)  # 200 of these hold 10 hours
    _, out, _, store = build(tmp_path / "s.zarr", "--start", "2024-05-20T05")
    assert reads == [5, 10, 4, 10, 10, 4] and "each is read about 3 times" in out
    assert np.array_equal(store.T2M, data["t2m"][1][5:])


def test_our_own_store_comes_back_unchanged(build, tmp_path):
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(4)], ("T2M", "CIN", "soil"), small_grid())
    a, b = xr.open_zarr(path).load(), build(path, "--variables", "T2M", "CIN", "soil")[3].load()
    xr.testing.assert_identical(a.drop_attrs(deep=False), b.drop_attrs(deep=False))


@pytest.mark.parametrize("kind", ["nothing", "no time", "no units", "no field", "no hour", "variable", "text"])
def test_what_cannot_become_a_store_is_refused_in_one_line(build, tmp_path, kind):
    path, options = tmp_path / "a.nc", ()
    good = regular([0], [1, 2, 3, 4], np.arange(6.0), **field("t2m", [0]))
    if kind == "no time":
        good.rename(time="when").to_netcdf(path)
    elif kind == "no units":
        good.assign_coords(time=[0]).to_netcdf(path)
    elif kind == "no field":
        good.mean("latitude").to_netcdf(path)
    elif kind == "text":
        path.write_text("<html>404</html>")
    elif kind in ("no hour", "variable"):
        good.to_netcdf(path)
        options = ("--start", "2025-01-01") if kind == "no hour" else ("--variables", "T3M")
    part = {"nothing": "does not exist", "no time": "no time coordinate", "no units": "cannot be decoded",
            "no field": "no (time, y, x) array", "text": "cannot be opened",
            "no hour": "expected some of 2024-05-20T00:00", "variable": "Nearest: t2m"}[kind]  # fmt: skip
    assert part in build(path, *options)[2]


@pytest.mark.real_data
def test_real_era5_hours_are_those_of_the_file(real, build):
    source = xr.open_dataset(real / "era5_plains_25h_nan.nc").sortby("latitude")
    _, out, _, store = build(real / "era5_plains_25h_nan.nc")
    for name in ("d2m", "u10", "v10"):
        assert np.array_equal(store[name.upper()], source[name].astype(np.float32), equal_nan=True)
    assert np.array_equal(store.latitude, source.latitude) and "U10: 1 cells missing" in out


@pytest.mark.real_data
def test_dynamical_orgs_layout_is_turned_and_read_in_kelvin(real, build, monkeypatch):
    _, out, _, store = build(real / "dynamical_analysis.zarr", "--variables", "T2M")
    assert store.T2M.shape == (1, 1059, 1799) and (np.diff(store.y) > 0).all()
    assert float(store.latitude[0, 0]) == pytest.approx(21.138, abs=1e-3)
    assert "degree_Celsius turned into K" in out and "1905141 cells missing" in out
    assert store.spatial_ref.attrs["grid_mapping_name"] == "lambert_conformal_conic"
    assert "GeoTransform" not in store.spatial_ref.attrs


@pytest.fixture
def utah(real, tmp_path):
    """The real hour, its surface temperature moved to where hrrrzarr keeps that of 2 m: (stores, values)."""
    one = real / "hrrrzarr" / "sfc" / "20210601" / "20210601_00z_anl.zarr" / "surface" / "TMP"
    target = tmp_path / "u" / "sfc" / "20210601" / "20210601_00z_anl.zarr" / "2m_above_ground" / "TMP"
    shutil.copytree(one, target)
    (target / "surface").rename(target / "2m_above_ground")
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target, zarr.open_array(target / "2m_above_ground" / "TMP")[:].astype(np.float32)


@pytest.mark.real_data
def test_an_hrrrzarr_analysis_is_read_from_its_two_groups(build, utah, tmp_path):
    store = build(tmp_path / "u", source="hrrrzarr")[3]
    assert list(store.time.values) == [np.datetime64("2021-06-01T00", "ns")] and store.forecast_hour.values == [0]
    assert np.array_equal(store.T2M[0], utah[1]) and store.T2M.dtype == np.float32
    assert float(store.latitude[0, 0]) == pytest.approx(21.138, abs=1e-3)
    assert float(store.longitude[-1, -1]) == pytest.approx(-60.917, abs=1e-3)


@pytest.mark.real_data
def test_a_chunk_of_hrrrzarr_that_was_not_fetched_is_missing_and_not_zero(build, utah, tmp_path):
    (utah[0] / "2m_above_ground" / "TMP" / "2.3").unlink()
    _, out, _, store = build(tmp_path / "u", source="hrrrzarr")
    missing = np.isnan(store.T2M[0].values)
    assert missing[300:450, 450:600].all() and missing.sum() == 150 * 150 and "T2M: 22500 cells missing" in out


@pytest.mark.real_data
def test_the_first_step_of_an_hrrrzarr_forecast_is_f01(build, utah, tmp_path):
    (utah[0] / ".zmetadata").unlink(missing_ok=True)
    (utah[0] / "2m_above_ground" / ".zmetadata").unlink(missing_ok=True)
    group = zarr.open_group(utah[0], mode="r+", zarr_format=2)
    for name, values in (("time", [1.0, 2.0]), ("forecast_reference_time", 0.0)):
        attributes = dict(group[name].attrs)
        del group[name]
        group.create_array(name, data=np.asarray(values) + 450528).attrs.update(attributes)  # hours to 2021-05-25
    del group["2m_above_ground/TMP"]
    data = np.stack([utah[1], utah[1] + 5]).astype(np.float16)
    group.create_array("2m_above_ground/TMP", data=data, chunks=(2, 150, 150))
    path = utah[0].parent.parent
    path.rename(path.with_name("20210601_00z_fcst.zarr"))
    store = build(tmp_path / "u", source="hrrrzarr")[3]
    assert list(store.time.values) == [np.datetime64("2021-05-25T01", "ns")] and store.forecast_hour.values == [1]
    assert np.array_equal(store.T2M[0], utah[1])
    assert "got no hour of f00" in build(tmp_path / "u", "--forecast_hour", 0, source="hrrrzarr")[2]

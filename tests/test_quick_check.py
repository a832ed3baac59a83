"""What training looks at before it begins: sound stores pass in silence, faults that metadata shows are refused."""

import shutil
import time

import numpy as np
import pytest
import xarray as xr
import zarr

import train_deterministic
from data import check_store
from data.quick_check import quick_check
from data.store import Store
from tests.conftest import SEVEN, TINY, hour, small_grid, weather, write_store

HOURS = 30


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("q") / "good.zarr", weather, [hour(n) for n in range(HOURS)], SEVEN)


@pytest.fixture
def store(good, tmp_path):
    return shutil.copytree(good, tmp_path / "s.zarr")


def lose_chunk(path):
    shutil.rmtree(path / "V10" / "c" / "7")


def celsius(path):
    attributes(path, "T2M", units="degree_Celsius")


def mixed(path):
    zarr.open_array(path / "forecast_hour", mode="r+")[4] = 1


def far_away(path):
    array = zarr.open_array(path / "latitude", mode="r+")
    array[...] = array[...] + 3


def not_on_earth(path):
    array = zarr.open_array(path / "latitude", mode="r+")
    array[...] = array[...] + 100


def attributes(path, name, **new):
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(path / name, mode="r+").attrs.update(new)
    zarr.consolidate_metadata(path)


@pytest.mark.parametrize(
    "damage, said",
    [(lose_chunk, "V10: 2024-05-20T07:00: got chunks were never written (1)"),
     (celsius, "T2M: got units 'degree_Celsius', expected 'K'"), (mixed, "analyses and forecasts are mixed"),
     (far_away, "latitude/longitude and projection differ by up to 3.00 degrees"), (not_on_earth, "out of range")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_fault_is_refused_before_training_begins(command, store, tmp_path, damage, said):
    damage(store)
    code, _, err = command(train_deterministic, "--zarr", store, "--run_dir", tmp_path / "run", "--epochs", 1, *TINY)
    assert code == 2 and said in err and f".venv/bin/python -m data.check_store {store}" in err and err.count("\n") == 1
    assert not (tmp_path / "run" / "last.pt").exists()


def test_an_hour_that_the_full_check_has_listed_is_no_reason_to_refuse(command, store):
    lose_chunk(store)
    assert command(check_store, store)[0] == 1
    opened = Store(store)
    assert len(opened.times) == HOURS - 1 and quick_check(opened, list(SEVEN)) == []


def test_sound_stores_pass_in_silence_and_one_unfit_for_training_with_a_note(good, tmp_path):
    assert quick_check(Store(good), list(SEVEN)) == []
    gaps = write_store(tmp_path / "gaps.zarr", weather, [hour(n) for n in (0, 1, 2, 7, 8)], ("T2M",))
    assert quick_check(Store(gaps), ["T2M"]) == []
    fields = np.stack([weather("T2M", hour(n)) for n in range(6)])
    data = xr.Dataset({n: (("time", "y", "x"), fields) for n in ("T2M", "D2M")}, {"time": [hour(n) for n in range(6)]})
    data.to_zarr(tmp_path / "long.zarr", zarr_format=2, encoding={n: {"chunks": (6, 4, 16)} for n in data})
    (note,) = quick_check(Store(tmp_path / "long.zarr"), ["T2M", "D2M"])
    assert "unfit for training" in note and "python -m data.build_hrrr --source zarr" in note


def test_tiles_that_no_hour_has_are_a_mask_and_those_that_some_lack_are_a_fault(command, tmp_path):
    fields = np.stack([weather("T2M", hour(n)) for n in range(30)])
    fields[:, :6, :8] = np.nan  # a corner without radar, say; xarray writes no chunk for it
    path = tmp_path / "mask.zarr"
    data = xr.Dataset({"T2M": (("time", "y", "x"), fields)}, {"time": [hour(n) for n in range(30)]})
    data.to_zarr(path, zarr_format=3, encoding={"T2M": {"chunks": (1, 6, 8)}})
    assert not (path / "T2M" / "c" / "0" / "0" / "0").exists()
    assert quick_check(Store(path), ["T2M"]) == []
    code, out, _ = command(check_store, path)
    assert code == 0 and "unwritten_mask" in out
    (path / "T2M" / "c" / "5" / "1" / "1").unlink()
    with pytest.raises(ValueError, match="T2M: 2024-05-20T05:00: got chunks were never written"):
        quick_check(Store(path), ["T2M"])
    code, out, _ = command(check_store, path)
    assert code == 1 and "unwritten " in out


@pytest.mark.real_data
def test_real_stores_pass(real, tmp_path, command):
    from data import build_hrrr

    assert command(build_hrrr, "--path", real / "hrrr_grib", "--out", tmp_path / "idaho.zarr")[0] == 0
    store = Store(tmp_path / "idaho.zarr")
    assert quick_check(store, store.names) == []


def test_two_weeks_are_looked_at_in_a_moment(tmp_path):
    times = [hour(n) for n in range(14 * 24)]
    path = write_store(tmp_path / "two.zarr", lambda name, t: np.float32(280), times, SEVEN, small_grid(4, 4))
    shutil.rmtree(path / "CIN" / "c" / "300")  # the slow way: every time of this variable is asked for
    store = Store(path)
    began = time.perf_counter()
    with pytest.raises(ValueError, match="CIN: 2024-06-01T12:00"):
        quick_check(store, list(SEVEN))
    assert time.perf_counter() - began < 2  # 0.1 s on an idle machine

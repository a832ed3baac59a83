"""The store check finds what is planted, names it, and is silent on sound stores; so does what training looks at."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

import train_deterministic
from data import check_store
from data.grid import Grid
from data.quick_check import quick_check
from data.store import Store, read_sidecar
from tests.conftest import REAL, SEVEN, TINY, hour, small_grid, weather, write_store

HOURS = [hour(n) for n in range(48)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """48 hours of the seven variables without a fault."""
    return write_store(tmp_path_factory.mktemp("sound") / "s.zarr", weather, HOURS, SEVEN)


@pytest.fixture
def store(sound, tmp_path):
    """A copy of the sound store to plant faults in."""
    shutil.copytree(sound, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def check(command, path, tmp_path):
    code, out, _ = command(check_store, path, "--json", tmp_path / "c.json")
    result = json.loads((tmp_path / "c.json").read_text())
    assert code == (0 if result["sound"] else 1)
    for finding in result["faults"] + result["notes"]:
        assert finding["code"] in out  # what the JSON says, the table says
    return result


def plant(path, name, index, change):
    """Change hour `index` of one variable in place."""
    array = zarr.open_group(path, mode="r+")[name]
    field = array[index]
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_group(path, mode="r+")[name][index] = change(field)


def spoil(field, value, cells=((3, 4),)):
    for cell in cells:
        field[cell] = value
    return field


# code of the fault -> (variable, index of its first hour or None, how it is planted)
PLANTED = {
    "nan": ("U10", 7, lambda p: plant(p, "U10", 7, lambda f: spoil(f, np.nan))),
    "infinite": ("T2M", 8, lambda p: plant(p, "T2M", 8, lambda f: spoil(f, np.inf))),
    "bounds": ("CAPE", 9, lambda p: plant(p, "CAPE", 9, lambda f: spoil(f, 9e3))),
    "constant": ("T2M", 10, lambda p: plant(p, "T2M", 10, lambda f: f * 0 + 280)),
    "repeated": ("V10", 11, lambda p: plant(p, "V10", 11, lambda f: zarr.open_group(p)["V10"][10])),
    "unreadable": ("D2M", 12, lambda p: (p / "D2M/c/12/0/0").write_bytes(b"\x00broken")),
    "unwritten": ("T2M", 13, lambda p: (p / "T2M/c/13/0/0").unlink()),
    "celsius": ("T2M", None, lambda p: [plant(p, "T2M", i, lambda f: f - 273.15) for i in range(48)]),
    "cin_sign": ("CIN", None, lambda p: [plant(p, "CIN", i, lambda f: -f) for i in range(48)]),
    "empty": ("REFC", None, lambda p: [plant(p, "REFC", i, lambda f: f * np.nan) for i in range(48)]),
    "refc_floor": ("REFC", 0, lambda p: [plant(p, "REFC", i, lambda f: np.maximum(f, 0)) for i in range(0, 48, 2)]),
    "dew_above_temperature": ("", 14, lambda p: plant(p, "D2M", 14, lambda f: f + 40)),
    "u_equals_v": ("", 15, lambda p: plant(p, "U10", 15, lambda f: zarr.open_group(p)["V10"][15])),
    "broken_dew_points": ("", 16, lambda p: plant(p, "D2M", 16, lambda f: spoil(f, 192.12))),
    "units": ("T2M", None, lambda p: zarr.open_group(p, mode="r+")["T2M"].attrs.update({"units": "degC"})),
    "f00_f01_mix": ("", None, lambda p: zarr.open_group(p, mode="r+")["forecast_hour"].__setitem__(slice(5, 9), 1)),
    "latlon_projection": ("", None, lambda p: shift(p, "latitude", 0.3)),
    "latlon_range": ("", None, lambda p: shift(p, "latitude", 80)),
    "time_duplicate": ("", 20, lambda p: move_time(p, 21, 0)),
    "time_order": ("", None, lambda p: move_time(p, 21, -5)),
    "time_step": ("", None, lambda p: move_time(p, 21, 0.25)),
    "time_units": ("", None, lambda p: time_attribute(p, "units", "since the beginning")),
}  # fmt: skip


def shift(path, name, degrees):
    array = zarr.open_group(path, mode="r+")[name]
    array[:] = array[:] + degrees
    zarr.consolidate_metadata(path)


def move_time(path, index, hours):
    """Put one time `hours` after the time before it."""
    array = zarr.open_group(path, mode="r+")["time"]
    array[index] = array[index - 1] + round(hours * 3600)


def time_attribute(path, name, value):
    zarr.open_group(path, mode="r+")["time"].attrs.update({name: value})


# faults that metadata shows, refused before training: code -> what is said
QUICK = {
    "unwritten": "T2M: 2024-05-20T13:00: got chunks were never written",
    "units": "T2M: got units 'degC', expected 'K'",
    "f00_f01_mix": "analyses and forecasts are mixed",
    "latlon_projection": "latitude/longitude and projection differ by up to 0.30 degrees",
    "latlon_range": "out of range",
}


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_fault_is_found_and_named(code, store, command, tmp_path):
    variable, index, put = PLANTED[code]
    put(store)
    zarr.consolidate_metadata(store)
    if code in QUICK:
        with pytest.raises(ValueError, match=f"{QUICK[code]}.* data.check_store {store} "):
            quick_check(Store(store), list(SEVEN))
    elif not code.startswith("time_"):  # only fields tell
        assert quick_check(Store(store), list(SEVEN)) == []
    faults = check(command, store, tmp_path)["faults"]
    found = [f for f in faults if f["code"] == code]
    assert found, faults
    assert found[0]["variable"] == variable and (code != "nan" or "y=3, x=4" in found[0]["message"])
    if index is not None:
        assert found[0]["time"] == str(HOURS[index].astype("datetime64[m]"))


def test_pressure_in_hectopascal_is_found(command, tmp_path):
    path = write_store(tmp_path / "s.zarr", lambda n, t: 1000 + weather(n, t), HOURS[:10], ["sp"])
    assert [f["code"] for f in check(command, path, tmp_path)["faults"]] == ["hectopascal"]


def test_sound_stores_pass_in_silence(sound, command, tmp_path):
    result = check(command, sound, tmp_path)
    assert result["sound"] and result["faults"] == [] and result["notes"] == []
    assert quick_check(Store(sound), list(SEVEN)) == []


def test_a_mask_a_gap_and_a_calm_hour_are_notes(command, tmp_path):
    def field(name, time):
        out = weather(name, time)
        out[:4, :5] = np.nan
        return np.where(np.isnan(out), out, -10.0) if time == HOURS[3] else out

    path = write_store(tmp_path / "s.zarr", field, HOURS[:20] + HOURS[30:], ["REFC"])
    result = check(command, path, tmp_path)
    assert result["sound"] and {n["code"] for n in result["notes"]} == {"mask", "gaps", "constant_floor"}
    assert next(n for n in result["notes"] if n["code"] == "gaps")["count"] == 10
    assert quick_check(Store(path), ["REFC"]) == []


def test_other_peoples_layouts_are_notes(command, tmp_path):
    grid = small_grid()
    upside = Grid(grid.shape, latitude=grid.latitude[::-1], longitude=grid.longitude)
    path = write_store(tmp_path / "s.zarr", weather, HOURS, ["T2M", "V10"], upside)
    chunks = {n: {"chunks": (48, 3, 4)} for n in ("T2M", "V10")}
    xr.open_zarr(path).load().drop_encoding().to_zarr(tmp_path / "t.zarr", encoding=chunks, zarr_format=2)
    result = check(command, tmp_path / "t.zarr", tmp_path)
    assert result["sound"] and {n["code"] for n in result["notes"]} == {"north_to_south", "chunks", "no_checksum"}
    (note,) = quick_check(Store(tmp_path / "t.zarr"), ["T2M", "V10"])  # one line, not one for every variable
    assert "unfit for training" in note and "python -m data.build_hrrr --source zarr" in note


def test_tiles_that_no_hour_has_are_a_mask_and_those_that_some_lack_are_a_fault(command, tmp_path):
    fields = np.stack([weather("T2M", t) for t in HOURS[:30]])
    fields[:, :6, :8] = np.nan  # a corner without radar, say; xarray writes no chunk for it
    path = tmp_path / "mask.zarr"
    data = xr.Dataset({"T2M": (("time", "y", "x"), fields)}, {"time": HOURS[:30]})
    data.to_zarr(path, zarr_format=3, encoding={"T2M": {"chunks": (1, 6, 8)}})
    assert not (path / "T2M" / "c" / "0" / "0" / "0").exists() and quick_check(Store(path), ["T2M"]) == []
    code, out, _ = command(check_store, path)
    assert code == 0 and "unwritten_mask" in out
    (path / "T2M" / "c" / "5" / "1" / "1").unlink()
    with pytest.raises(ValueError, match="T2M: 2024-05-20T05:00: got chunks were never written"):
        quick_check(Store(path), ["T2M"])
    code, out, _ = command(check_store, path)
    assert code == 1 and "unwritten " in out
    assert len(Store(path).times) == 29 and quick_check(Store(path), ["T2M"]) == []  # listed, so no reason to refuse


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: zarr.open_group(p, mode="w")])
def test_what_is_no_store_exits_with_2(make, command, tmp_path):
    make(tmp_path / "x.zarr")
    code, _, err = command(check_store, tmp_path / "x.zarr")
    assert code == 2 and err.startswith("error:") and len(err.splitlines()) == 1


def test_training_leaves_out_the_hours_that_the_check_listed(store, command, tmp_path):
    run = ("--zarr", store, "--run_dir", tmp_path / "run", *TINY, "--epochs", 1, "--variables", "T2M", "U10")
    kinds = zarr.open_array(store / "forecast_hour", mode="r+")
    kinds[4] = 1
    code, _, err = command(train_deterministic, *run)  # the quick check
    assert code == 2 and "mixed" in err and err.count("\n") == 1 and not (tmp_path / "run" / "last.pt").exists()
    kinds[4] = 0
    plant(store, "U10", 7, lambda f: spoil(f, np.nan))
    code, _, err = command(train_deterministic, *run)
    assert code == 2 and "check_store" in err and "2024-05-20T07:00" in err
    check(command, store, tmp_path)
    code, out, err = command(train_deterministic, *run)
    assert code == 0, err
    assert "1 faulty hours" in out and "28 pairs" in out  # 31 in the training hours less the three that touch hour 7
    plant(store, "U10", 7, lambda f: spoil(f, 1.0))  # repaired: the list no longer counts
    hours, line = read_sidecar(store)
    assert len(hours) == 0 and "older than the store" in line


@pytest.mark.real_data
def test_the_one_nan_of_the_real_era5_hours_is_named(command, tmp_path):
    for name, sound in (("era5_plains_25h", True), ("era5_plains_25h_nan", False)):
        path = tmp_path / f"{name}.zarr"
        xr.open_dataset(REAL / f"{name}.nc").drop_encoding().to_zarr(path, zarr_format=2)
        result = check(command, path, tmp_path)
        assert result["sound"] == sound
    (fault,) = result["faults"]
    with xr.open_dataset(REAL / "era5_plains_25h_nan.nc") as raw:
        t, y, x = np.argwhere(np.isnan(raw.u10.values))[0]
        assert (fault["code"], fault["variable"], fault["count"]) == ("nan", "u10", 1)
        assert fault["time"] == str(raw.time.values[t].astype("datetime64[m]"))
        assert f"y={y}, x={x}" in fault["message"]


@pytest.mark.real_data
def test_the_empty_dynamical_store_is_said_to_be_empty(command, tmp_path):
    shutil.copytree(REAL / "dynamical_analysis.zarr", tmp_path / "d.zarr")
    result = check(command, tmp_path / "d.zarr", tmp_path)
    assert not result["sound"]
    assert "temperature_2m" in {f["variable"] for f in result["faults"] if f["code"] in ("empty", "unwritten")}


@pytest.mark.real_data
@pytest.mark.parametrize("name,notes", [
    ("nldas_washita_120h", {"no_latlon", "constant_floor", "repeated", "no_checksum"}),
    ("era5_plains_25h", {"north_to_south", "no_checksum"}),
])  # fmt: skip
def test_sound_real_stores_pass(name, notes, command, tmp_path):
    with xr.open_dataset(REAL / f"{name}.nc") as raw:
        raw = raw.drop_encoding()
        encoding = {v: {"chunks": (1, *raw[v].shape[1:])} for v in raw.data_vars}
        raw.to_zarr(tmp_path / "s.zarr", encoding=encoding, zarr_format=2)
    result = check(command, tmp_path / "s.zarr", tmp_path)
    assert result["sound"] and {n["code"] for n in result["notes"]} == notes

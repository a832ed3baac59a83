"""GRIB2 files to a training store: real HRRR files, and the same files with single octets changed."""

import shutil
import struct
import sys

import numpy as np
import pytest
import xarray as xr
from conftest import hour

from data import build_hrrr
from data.grid import HRRR_SPACING, HRRR_X0, HRRR_Y0, lambert_latlon
from data.sources import messages as grib
from data.sources.messages import decode, locate, scan

pytestmark = pytest.mark.real_data

T2M, D2M, U10, V10, CAPE, CIN = (0, 0, 0, 2), (0, 0, 6, 2), (0, 2, 2, 10), (0, 2, 3, 10), (0, 7, 6, 0), (0, 7, 7, 0)
RANGES = {"T2M": (270, 320), "D2M": (200, 300), "U10": (-20, 20), "V10": (-20, 20), "CAPE": (0, 4000), "CIN": (-500, 0)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "grib").mkdir()
    return tmp_path / "grib"


@pytest.fixture
def build(command, folder, tmp_path):
    """Run the command on `folder`: (exit code, output, error line, the opened store or None)."""

    def call(*options):
        shutil.rmtree(tmp_path / "out.zarr", ignore_errors=True)
        code, out, err = command(build_hrrr, "--path", folder, "--out", tmp_path / "out.zarr", *options)
        assert not list(tmp_path.glob("*.partial")) and (code == 0) == (tmp_path / "out.zarr").exists()
        error = err.splitlines()[-1] if code else ""
        assert code in (0, 2) and error.startswith("error: " if code else "") and (not code or "Fix: " in error)
        return code, out, error, xr.open_zarr(tmp_path / "out.zarr") if code == 0 else None

    return call


def messages(path) -> list[bytes]:
    data, out = path.read_bytes(), []
    while data:
        length = struct.unpack(">Q", data[8:16])[0]
        out, data = [*out, data[:length]], data[length:]
    return out


def hourly(real, run: int) -> list[bytes]:
    return messages(real / "hrrr_grib" / "hrrr.20180722" / f"hrrr.t{run:02d}z.wrfsfcf01.grib2")


def find(found: list[bytes], what: tuple[int, int, int, int]) -> int:
    """The place of a field: discipline, category, number and level in the octets of WMO's tables."""

    def octets(m: bytes) -> tuple:
        return (m[6], *sections(m)[4][9:11], struct.unpack(">I", sections(m)[4][24:28])[0])

    return next(i for i, m in enumerate(found) if octets(m) == what and sections(m)[4][7:9] == b"\0\0")


def sections(message: bytes) -> dict[int, bytes]:
    out, start = {}, 16
    while start < len(message) - 4:
        length, number = struct.unpack(">IB", message[start : start + 5])
        out[number], start = message[start : start + length], start + length
    return out


def join(message: bytes, body: bytes) -> bytes:
    return message[:8] + struct.pack(">Q", len(body) + 20) + body + b"7777"


def edit(message: bytes, section: int, changes: dict[int, bytes]) -> bytes:
    """The message with the bytes from an octet (counted from 1, as in WMO's tables) of one section replaced."""
    parts = sections(message)
    new = bytearray(parts[section])
    for octet, value in changes.items():
        new[octet - 1 : octet - 1 + len(value)] = value
    parts[section] = bytes(new)
    return join(message, b"".join(parts[n] for n in sorted(parts)))


def at_lead(found: list[bytes], lead: int, unit: int = 1) -> list[bytes]:
    return [edit(m, 4, {18: bytes([unit]), 19: struct.pack(">I", lead)}) for m in found]


def write(path, found: list[bytes]) -> None:
    path.write_bytes(b"".join(found))


def test_the_real_folder_becomes_41_hours_of_six_variables(real, command, tmp_path):
    code, out, _ = command(build_hrrr, "--source", "grib", "--path", real / "hrrr_grib", "--out", tmp_path / "s.zarr")
    store = xr.open_zarr(tmp_path / "s.zarr")
    assert code == 0 and "f01" in out and "REFC (0 of 41 hours)" in out and "no hour absent" in out
    assert np.array_equal(store.time, [hour(n, "2018-07-22T01") for n in range(41)])
    assert (store.forecast_hour == 1).all() and store.sizes["y"] == 78 and store.sizes["x"] == 41
    for name, (low, high) in RANGES.items():
        assert low <= store[name].min() and store[name].max() <= high and store[name].std() > 1, name
    assert 500 < store.orography.min() < store.orography.max() < 3500
    assert set(np.unique(store.land_sea_mask)) == {0.0, 1.0}
    # Two files carry the names f02 and f03, yet their messages are the f01 of later runs: equal copies.
    assert "12 fields occur twice with equal values" in out


def test_coordinates_agree_with_proj_and_with_our_own_formula(real):
    pyproj = pytest.importorskip("pyproj")
    for path in ("hrrr_grib/hrrr.20180722/hrrr.t00z.wrfsfcf01.grib2", "hrrr_conus"):
        path = next((real / path).glob("*.grib2"), real / path)
        grid = locate(scan(path)[0])
        proj = pyproj.Proj(proj="lcc", lat_0=38.5, lat_1=38.5, lon_0=262.5, R=6371229)
        longitude, latitude = proj(*np.meshgrid(grid.x, grid.y), inverse=True)
        for lat, lon in ((latitude, longitude), lambert_latlon(grid.x[None, :], grid.y[:, None])):
            assert np.abs(grid.latitude - lat).max() < 1e-4 and np.abs(grid.longitude - lon).max() < 1e-4
        assert np.allclose(np.diff(grid.x), 3000) and (np.diff(grid.latitude, axis=0) > 0).all()
    assert np.allclose(grid.x, HRRR_X0 + HRRR_SPACING * np.arange(1799), atol=1e-3)
    assert np.allclose(grid.y, HRRR_Y0 + HRRR_SPACING * np.arange(1059), atol=1e-3)


def test_composite_reflectivity_of_a_sub_hourly_file_decodes_but_makes_no_hour(real, command, tmp_path):
    (field,) = scan(next((real / "hrrr_conus").glob("*.grib2")))  # the other message is an average
    values = decode(field)
    assert field.name == "REFC" and field.valid_time == np.datetime64("2022-10-14T01:15")
    assert (values.min(), values.max()) == (-10, 73)
    assert values.shape == (1059, 1799) and round((values == -10).mean(), 2) == 0.84
    code, _, err = command(build_hrrr, "--path", real / "hrrr_conus", "--out", tmp_path / "s.zarr")
    assert code == 2 and "between the hours" in err and not (tmp_path / "s.zarr").exists()


def test_values_are_those_of_the_messages_whatever_their_order(real, folder, build):
    for run in (0, 1):
        found = hourly(real, run)
        write(folder / f"{run}.grib2", [found[i] for i in np.random.default_rng(run).permutation(len(found))])
    store = build()[3]
    for what, name in ((T2M, "T2M"), (D2M, "D2M"), (U10, "U10"), (V10, "V10"), (CAPE, "CAPE"), (CIN, "CIN")):
        for run in (0, 1):
            expected = values_of(hourly(real, run)[find(hourly(real, run), what)])
            got = store[name].sel(time=hour(run, "2018-07-22T01")).values
            assert np.array_equal(got.ravel(), expected.astype(np.float32)), name
    assert store.U10.attrs["wind_reference"] == store.V10.attrs["wind_reference"] == "grid"


def values_of(message: bytes) -> np.ndarray:
    """Simple packing (template 5.0) by hand: (reference + packed 2^E) 10^-D."""
    about, packed = sections(message)[5], sections(message)[7][5:]
    count, template, reference, binary, decimal, width = struct.unpack(">IHfHHB", about[5:20])
    assert template == 0
    binary, decimal = (-(n & 0x7FFF) if n & 0x8000 else n for n in (binary, decimal))
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))[: count * width].reshape(count, width)
    return (reference + (bits @ (1 << np.arange(width)[::-1])) * 2.0**binary) * 10.0**-decimal


LEADS = [  # lead time and unit of each file of one run, options, hours stored, kind, what is said
    ([[(1, 1)], [(2, 1)], [(3, 1)]], (), [1], 1, "f02; a store holds f00 or f01, in 1 file"),
    ([[(0, 1)], [(0, 1)], [(0, 1)], [(1, 1)]], (), [0, 1, 2], 0, "left out: 1 hours of f01"),
    ([[(0, 1)], [(0, 1)], [(0, 1)], [(1, 1)]], ("--forecast_hour", 1), [4], 1, "left out: 3 hours of f00"),
    ([[(60, 0), (15, 0)]], (), [1], 1, "between the hours (sub-hourly output), in 1 file"),  # in minutes
]


@pytest.mark.parametrize("leads, options, hours, kind, said", LEADS)
def test_one_lead_time_is_chosen_and_the_others_are_counted(real, folder, build, leads, options, hours, kind, said):
    for run, parts in enumerate(leads):  # the names lie
        write(folder / f"{run}.wrfsfcf01.grib2", [m for part in parts for m in at_lead(hourly(real, run), *part)])
    _, out, _, store = build(*options)
    assert list(store.time.values) == [hour(n, "2018-07-22") for n in hours] and said in out
    assert (store.forecast_hour == kind).all()


def test_a_variable_that_only_forecasts_have_is_taken_from_them_and_says_so(real, folder, build):
    for run in (1, 2, 3):
        found, before = hourly(real, run), hourly(real, run - 1)
        write(folder / f"{run}.grib2", at_lead([m for m in found if m != found[find(found, CAPE)]], 0, 1))
        write(folder / f"{run}_cape.grib2", [before[find(before, CAPE)]])  # f01 of the run before: the same hour
    _, out, _, store = build()
    assert list(store.time.values) == [hour(n, "2018-07-22") for n in (1, 2, 3)] and (store.forecast_hour == 0).all()
    assert store.CAPE.attrs["forecast_hour"] == 1 and "forecast_hour" not in store.T2M.attrs
    assert "CAPE is taken from f01" in out
    assert np.array_equal(store.CAPE[0], decode(scan(folder / "1_cape.grib2")[0]))
    assert "CAPE" not in build("--forecast_hour", 0)[3]


def test_forecasts_of_a_source_without_analyses_begin_at_its_first_lead(real, command, tmp_path):
    out, hours = tmp_path / "forecasts.zarr", ("--start", "2018-07-22T03", "--end", "2018-07-22T04")
    code, said, _ = command(build_hrrr, "--path", real / "hrrr_grib", "--out", out, "--leads", 1, *hours)
    store = xr.open_zarr(out)
    assert code == 0 and "no lead 0" in said and store.lead_time.values.tolist() == [3600 * 10**9]
    assert list(store.init_time.values) == [hour(n, "2018-07-22") for n in (3, 4)]
    field = next(f for f in scan(real / "hrrr_grib/hrrr.20180722/hrrr.t03z.wrfsfcf01.grib2") if f.name == "T2M")
    assert np.array_equal(store.T2M[0, 0], decode(field))


def test_missing_hours_and_incomplete_hours_are_gaps_and_listed(real, folder, build):
    for run in (0, 1, 3, 6):
        found = hourly(real, run)
        write(folder / f"{run}.grib2", [m for i, m in enumerate(found) if run != 1 or i != find(found, CAPE)])
    _, out, _, store = build()
    assert np.array_equal(store.time, [hour(n, "2018-07-22") for n in (1, 4, 7)])
    assert "2018-07-22T02:00 lacks CAPE" in out
    assert "4 hours absent: 2018-07-22T02:00 to 2018-07-22T03:00, 2018-07-22T05:00 to 2018-07-22T06:00" in out
    assert build("--start", "2018-07-22T03", "--end", "2018-07-22T04")[3].time.values == [hour(4, "2018-07-22")]


def test_the_same_hour_twice_is_accepted_if_equal_and_else_refused(real, folder, build):
    found = hourly(real, 0)
    write(folder / "a.grib2", found)
    write(folder / "b.grib2", found)
    assert "6 fields occur twice with equal values" in build()[1]
    found[find(found, CAPE)] = edit(found[find(found, CAPE)], 5, {12: struct.pack(">f", 5e6)})
    write(folder / "b.grib2", found)
    error = build()[2]
    assert all(part in error for part in ("a.grib2", "b.grib2", "CAPE"))


def test_another_grid_ends_in_one_line_that_names_both_files(real, folder, build):
    write(folder / "a.grib2", hourly(real, 1))
    write(folder / "b.grib2", [edit(m, 3, {39: struct.pack(">I", 30_000_000)}) for m in hourly(real, 0)])  # from 30 N
    error = build("--variables", "T2M")[2]
    assert "a.grib2" in error and "b.grib2" in error and "different grids" in error


@pytest.mark.parametrize(
    "options, part",
    [
        (("--start", "2018-07-23", "--end", "2018-07-22"), "after the end"),
        (("--start", "2019-01-01"), "expected some of 2018-07-22T01:00 to 2018-07-22T01:00"),
        (("--variables", "T2M", "REFC"), "REFC, which no hour"),
        (("--variables", "T3M"), "Nearest: T2M"),
        (("--forecast_hour", "0"), "--forecast_hour 1"),
    ],
)
def test_options_that_cannot_work_are_refused(real, folder, build, options, part):
    write(folder / "a.grib2", hourly(real, 0))
    assert part in build(*options)[2]


def test_values_that_complex_packing_marks_as_missing_are_nan(real, folder):
    refc = messages(next((real / "hrrr_conus").glob("*.grib2")))[0]
    write(folder / "a.grib2", [edit(refc, 5, {23: b"\1"})])  # numbers of ones alone now mean a missing value
    (field,) = scan(folder / "a.grib2")
    assert np.isnan(decode(field)).sum() == 1906


def test_folders_without_grib_and_a_taken_path_are_refused(folder, build, tmp_path, monkeypatch, real, command):
    (folder / "notes.txt").write_text("nothing")
    assert "1 files that are not GRIB" in build()[2]
    write(folder / "a.grib2", hourly(real, 0))
    monkeypatch.setitem(sys.modules, "eccodes", None)
    grib.import_eccodes.cache_clear()
    assert "pip install eccodes" in build()[2]
    code, _, err = command(build_hrrr, "--path", folder, "--out", folder)
    assert code == 2 and "something else" in err and (folder / "a.grib2").exists()

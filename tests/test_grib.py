"""Fields of GRIB files: what eccodes writes is read as eccodes has it, turned to one order, or refused by name."""

import json
import struct
import subprocess
import sys

import numpy as np
import pyproj  # before eccodes, see data/sources/messages.py
import pytest
import xarray as xr
from conftest import PROJECT

import verify_forecast
from data import build_hrrr
from data.sources import messages
from data.sources.messages import decode, locate, scan

eccodes = messages.import_eccodes()
ROWS, COLUMNS = 6, 8
NUMBERS = np.arange(ROWS * COLUMNS, dtype=float).reshape(ROWS, COLUMNS)  # row 0 is the southernmost
LATLON = {"Ni": COLUMNS, "Nj": ROWS, "latitudeOfFirstGridPointInDegrees": 45, "longitudeOfFirstGridPointInDegrees": 10,
          "latitudeOfLastGridPointInDegrees": 40, "longitudeOfLastGridPointInDegrees": 17,
          "iDirectionIncrementInDegrees": 1, "jDirectionIncrementInDegrees": 1}  # fmt: skip
PLANE = {"Nx": COLUMNS, "Ny": ROWS, "latitudeOfFirstGridPointInDegrees": 40, "longitudeOfFirstGridPointInDegrees": 250}
LAMBERT = PLANE | {"gridType": "lambert", "shapeOfTheEarth": 6, "DxInMetres": 3000, "DyInMetres": 3000,
                   "LoVInDegrees": 262.5, "Latin1InDegrees": 38.5, "Latin2InDegrees": 38.5, "LaDInDegrees": 38.5,
                   "jScansPositively": 1}  # fmt: skip


def message(
    values=NUMBERS[::-1] + 250,
    edition=2,
    grid=LATLON,
    missing=None,
    packing="grid_simple",
    bits=16,
    kind="regular_ll",
    **keys,
):
    """One message of 2 m temperature, from a sample of eccodes; `values` in the message's order."""
    out = eccodes.codes_grib_new_from_samples(f"{kind}_sfc_grib{edition}")
    height = {"typeOfFirstFixedSurface": 103, "scaleFactorOfFirstFixedSurface": 0, "scaledValueOfFirstFixedSurface": 2}
    first = {"centre": "kwbc", "dataDate": 20240520, "dataTime": 0} if edition == 2 else {}
    precision = {"precision": bits // 32} if packing == "grid_ieee" else {"bitsPerValue": bits}
    late = "second_order" in packing or packing == "grid_png"  # eccodes writes these of values that are there
    form = precision if late else {"packingType": packing, **precision}
    gaps = {} if missing is None else {"bitmapPresent": 1, "missingValue": missing}
    for key, value in {**first, **(height if edition == 2 else {}), **grid, **keys, **form, **gaps}.items():
        eccodes.codes_set(out, key, value)
    eccodes.codes_set_values(out, np.asarray(values, float).ravel())
    if late:
        eccodes.codes_set(out, "packingType", packing)
    return eccodes.codes_get_message(out)


def write(path, *parts: bytes):
    path.write_bytes(b"".join(parts))
    return path


def oracle(path) -> np.ndarray:
    """eccodes' own values of the first message, in its order."""
    with open(path, "rb") as file:
        found = eccodes.codes_grib_new_from_file(file)
        values = eccodes.codes_get_values(found)
        return np.where(values == eccodes.codes_get(found, "missingValue"), np.nan, values)


PACKINGS = {2: {"grid_simple": (1, 7, 8, 12, 16, 24, 32), "grid_ieee": (32, 64), "grid_complex": (7, 16, 24),
                "grid_complex_spatial_differencing": (7, 16, 24), "grid_jpeg": (8, 16, 24), "grid_png": (8, 16, 24),
                "grid_ccsds": (8, 12, 16, 17, 24, 32)},
            1: {"grid_simple": (8, 12, 24), "grid_ieee": (32, 64), "grid_second_order": (8, 12, 16),
                "grid_second_order_no_boustrophedonic": (12,)}}  # fmt: skip
KINDS = ("smooth", "constant", "bitmap", "constant bitmap")
MATRIX = [(edition, packing, bits, kind) for edition, packings in PACKINGS.items()
          for packing, widths in packings.items() for bits in widths for kind in KINDS]  # fmt: skip


@pytest.mark.parametrize("edition, packing, bits, kind", MATRIX)
def test_every_packing_and_width_is_read_as_eccodes_reads_it(tmp_path, edition, packing, bits, kind):
    y = np.mgrid[:60, :80][0]
    values = np.full(y.shape, 273.25) if "constant" in kind else 280 + 20 * np.sin(y // 6)
    if "bitmap" in kind:
        values[1:3, 2:5] = 9999
    missing = 9999 if "bitmap" in kind else None
    wide = {"Ni": 80, "Nj": 60, "latitudeOfLastGridPointInDegrees": -14, "longitudeOfLastGridPointInDegrees": 89}
    path = write(tmp_path / "a.grib", message(values, edition, LATLON | wide, missing, packing, bits))
    (field,) = scan(path)
    expected = oracle(path).reshape(60, 80)[::-1]
    assert np.array_equal(decode(field), expected.astype(np.float32), equal_nan=True)
    assert np.isnan(expected).sum() == 6 * ("bitmap" in kind) and 200 < np.nanmin(expected) <= np.nanmax(expected) < 320


def in_order(values: np.ndarray, mode: int) -> np.ndarray:
    """A field whose row 0 is the southernmost, in the order of a scanning mode (WMO flag table 3.4)."""
    out = values if mode & 0x40 else values[::-1]
    out = out[:, ::-1] if mode & 0x80 else out
    out = (out.T if mode & 0x20 else out).copy()
    out[1::2] = out[1::2, ::-1] if mode & 0x10 else out[1::2]
    return out


def flags(mode: int) -> dict:
    names = ("iScansNegatively", "jScansPositively", "jPointsAreConsecutive", "alternativeRowScanning")
    return {name: int(bool(mode & (0x80 >> bit))) for bit, name in enumerate(names)}


@pytest.mark.parametrize("mode", range(0, 0x100, 0x10))
@pytest.mark.parametrize("kind", ["lambert", "regular_ll", "rotated_ll"])
def test_every_scanning_mode_becomes_rows_from_the_south_and_columns_from_the_west(tmp_path, kind, mode):
    south, west = bool(mode & 0x40), not mode & 0x80
    if kind == "lambert":
        proj = pyproj.Proj("+proj=lcc +lon_0=262.5 +lat_0=38.5 +lat_1=38.5 +lat_2=38.5 +R=6371229")
        x, y = -900e3 + 3000 * np.arange(COLUMNS), 200e3 + 3000 * np.arange(ROWS)
        longitude, latitude = proj(*np.meshgrid(x, y), inverse=True)
        corner = (0 if south else -1, 0 if west else -1)
        first = {"latitudeOfFirstGridPointInDegrees": latitude[corner],
                 "longitudeOfFirstGridPointInDegrees": longitude[corner] % 360}  # fmt: skip
        grid = LAMBERT | first | flags(mode)
        data = message(in_order(NUMBERS, mode), grid=grid, resolutionAndComponentFlags=56)
    else:
        ends = {f"{axis}OfFirstGridPointInDegrees": LATLON[f"{axis}OfLastGridPointInDegrees"] for axis in
                ["latitude"] * south + ["longitude"] * (not west)}  # fmt: skip
        ends |= {f"{axis}OfLastGridPointInDegrees": LATLON[f"{axis}OfFirstGridPointInDegrees"] for axis in
                 ["latitude"] * south + ["longitude"] * (not west)}  # fmt: skip
        pole = {"latitudeOfSouthernPoleInDegrees": -35, "longitudeOfSouthernPoleInDegrees": 247}
        data = message(
            in_order(NUMBERS, mode), grid=LATLON | ends | flags(mode) | (pole if "rot" in kind else {}), kind=kind
        )
        longitude, latitude = np.meshgrid(np.arange(10.0, 18), np.arange(40.0, 46))
        if kind == "rotated_ll":
            turned = pyproj.Proj("+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=35 +lon_0=247")
            longitude, latitude = turned(*np.radians([longitude, latitude]), inverse=True)
    (field,) = scan(write(tmp_path / "a.grib2", data))
    grid = locate(field)
    assert np.allclose(decode(field), NUMBERS, atol=0.01)
    assert np.abs(grid.latitude - latitude).max() < 1e-4
    assert np.abs((grid.longitude - longitude + 180) % 360 - 180).max() < 1e-4
    if kind == "lambert":
        assert np.allclose(grid.x, x, atol=1) and np.allclose(grid.y, y, atol=1) and field.wind == "grid"


PROJECTIONS = [
    ("polar_stereographic", "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=225 +R=6371229",
     {"orientationOfTheGridInDegrees": 225, "LaDInDegrees": 60, "latitudeOfFirstGridPointInDegrees": 41.613,
      "longitudeOfFirstGridPointInDegrees": 185.117, "DxInMetres": 3000, "DyInMetres": 3000}),
    ("mercator", "+proj=merc +lat_ts=20 +R=6371229",
     {"LaDInDegrees": 20, "latitudeOfFirstGridPointInDegrees": 18.073, "longitudeOfFirstGridPointInDegrees": 198.475,
      "latitudeOfLastGridPointInDegrees": 18.2, "longitudeOfLastGridPointInDegrees": 198.7, "DiInMetres": 2500,
      "DjInMetres": 2500}),
    ("lambert", "+proj=lcc +lat_0=25 +lat_1=25 +lat_2=45 +lon_0=265 +R=6371229",
     {"LaDInDegrees": 25, "Latin1InDegrees": 25, "Latin2InDegrees": 45, "LoVInDegrees": 265, "DxInMetres": 3000,
      "latitudeOfFirstGridPointInDegrees": 30, "longitudeOfFirstGridPointInDegrees": 255, "DyInMetres": 3000}),
    ("lambert", "+proj=lcc +lat_0=25 +lat_1=25 +lat_2=45 +lon_0=265 +ellps=WGS84",
     {"LaDInDegrees": 25, "Latin1InDegrees": 25, "Latin2InDegrees": 45, "LoVInDegrees": 265, "DxInMetres": 3000,
      "latitudeOfFirstGridPointInDegrees": 30, "longitudeOfFirstGridPointInDegrees": 255, "DyInMetres": 3000,
      "shapeOfTheEarth": 5}),
]  # fmt: skip


@pytest.mark.parametrize("edition", [1, 2])
@pytest.mark.parametrize("kind, text, keys", PROJECTIONS)
def test_projected_grids_lie_where_proj_has_them(tmp_path, kind, text, keys, edition):
    if edition == 1:  # another sphere, no ellipsoid and one latitude for both parallels of its origin
        text = text.replace("6371229", "6367470")
        keys = {k: v for k, v in keys.items() if kind == "mercator" or k != "LaDInDegrees"}
    if edition == 1 and "shapeOfTheEarth" in keys:
        return
    shape = {"shapeOfTheEarth": 6} if edition == 2 else {}
    grid = {"gridType": kind, **shape, "Ni": COLUMNS, "Nj": ROWS, "jScansPositively": 1}
    (field,) = scan(write(tmp_path / "a.grib2", message(NUMBERS, edition, grid | keys)))
    found, proj = locate(field), pyproj.Proj(text)
    x, y = proj(keys["longitudeOfFirstGridPointInDegrees"], keys["latitudeOfFirstGridPointInDegrees"])
    step = keys.get("DxInMetres", keys.get("DiInMetres"))
    assert np.allclose(found.x, x + step * np.arange(COLUMNS)) and np.allclose(found.y, y + step * np.arange(ROWS))
    longitude, latitude = proj(*np.meshgrid(found.x, found.y), inverse=True)
    assert np.abs(found.latitude - latitude).max() < 1e-4
    assert np.abs((found.longitude - longitude + 180) % 360 - 180).max() < 1e-4
    assert found.projection["grid_mapping_name"].startswith(kind.split("_")[0])
    assert np.allclose(decode(field), NUMBERS, atol=0.01)


@pytest.mark.parametrize("edition", [1, 2])
def test_a_grid_around_the_earth_begins_at_180_west(tmp_path, edition):
    wide = {"Ni": 8, "Nj": 6, "longitudeOfFirstGridPointInDegrees": 0, "longitudeOfLastGridPointInDegrees": 315,
            "iDirectionIncrementInDegrees": 45}  # fmt: skip
    (field,) = scan(write(tmp_path / "a.grib", message(NUMBERS[::-1], edition, LATLON | wide)))
    assert list(locate(field).longitude[0]) == [-180, -135, -90, -45, 0, 45, 90, 135]
    assert np.allclose(decode(field)[0], [4, 5, 6, 7, 0, 1, 2, 3], atol=0.01)


def test_fields_of_one_message_are_told_apart(tmp_path):
    both = eccodes.codes_grib_multi_new()
    for number in (2, 3):
        one = eccodes.codes_new_from_message(message(NUMBERS + number, parameterCategory=2, parameterNumber=number,
                                                     scaledValueOfFirstFixedSurface=10))  # fmt: skip
        eccodes.codes_grib_multi_append(one, 4, both)
    with open(tmp_path / "a.grib2", "wb") as file:
        for _ in range(2):
            eccodes.codes_grib_multi_write(both, file)
    found = scan(tmp_path / "a.grib2")
    assert [(f.name, f.part, f.wind) for f in found] == [("U10", 0, "earth"), ("V10", 1, "earth")] * 2
    for field in reversed(found):
        assert np.allclose(decode(field), NUMBERS[::-1] + (2 if field.name == "U10" else 3), atol=0.01)


@pytest.mark.parametrize("keys, reason", [
    ({"scaledValueOfFirstFixedSurface": 80}, "t on heightAboveGround"),
    ({"scaleFactorOfFirstFixedSurface": 1}, "t on heightAboveGround"),  # 0.2 m
    ({"typeOfFirstFixedSurface": 100, "scaledValueOfFirstFixedSurface": 50000}, "t on isobaricInhPa"),
    ({"typeOfSecondFixedSurface": 103, "scaleFactorOfSecondFixedSurface": 0, "scaledValueOfSecondFixedSurface": 9},
     "2t on heightAboveGroundLayer"),
    ({"parameterCategory": 7, "parameterNumber": 6, "typeOfFirstFixedSurface": 108, "typeOfSecondFixedSurface": 108,
      "scaledValueOfFirstFixedSurface": 18000, "scaleFactorOfSecondFixedSurface": 0,
      "scaledValueOfSecondFixedSurface": 0}, "cape on pressureFromGroundLayer"),
    ({"productDefinitionTemplateNumber": 1, "numberOfForecastsInEnsemble": 10}, "ensemble members"),
    ({"productDefinitionTemplateNumber": 8}, "T2M that is no instantaneous value"),
])  # fmt: skip
def test_other_levels_members_and_means_are_passed_over_with_the_reason(tmp_path, command, keys, reason):
    template = {k: keys[k] for k in keys if k == "productDefinitionTemplateNumber"}
    write(tmp_path / "a.grib2", message(grid=LATLON | template, **keys))
    code, _, err = command(build_hrrr, "--path", tmp_path / "a.grib2", "--out", tmp_path / "s.zarr")
    assert code == 2 and reason in err and err.count("\n") == 1 and "Fix: " in err


@pytest.mark.parametrize("keys", [{"number": 3}, {"number": 0, "type": "cf", "stream": "enfo", "totalNumber": 51}])
def test_members_of_edition_1_are_passed_over(tmp_path, keys):
    passed = messages.Counter()
    local = {"localDefinitionNumber": 1}
    assert not scan(write(tmp_path / "a.grib", message(edition=1, grid=LATLON | local, **keys)), passed)
    assert "ensemble members" in next(iter(passed))


def test_what_macos_leaves_beside_a_file_is_passed_over(tmp_path, command):
    write(tmp_path / "a.grib2", message())
    write(tmp_path / "._a.grib2", b"\0\5\x16\7" + b"\0" * 40)
    code, out, _ = command(build_hrrr, "--path", tmp_path, "--out", tmp_path / "s.zarr")
    assert code == 0 and "left out:  1 files that are not GRIB" in out


HEADERS = {"bulletin": (b"\x01\r\r\n123\r\r\nYTUB98 KWBE 200000\r\r\n", b""), "padding": (b"", b"\0" * 64),
           "between": (b"", b"\r\r\n\x03\x01\r\r\n124 \r\r\nYTUB98 KWBE 200000\r\r\n")}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_what_stands_between_messages_is_passed_over(tmp_path, kind):
    before, after = HEADERS[kind]
    later = message(NUMBERS + 300, dataTime=100)
    found = scan(write(tmp_path / "a.grib2", before, message(), after, later, after))
    assert [str(f.valid_time)[11:13] for f in found] == ["00", "01"]
    assert np.allclose(decode(found[1]), NUMBERS[::-1] + 300, atol=0.01)


def test_edition_1_is_built(tmp_path, command):
    clocks = [message(NUMBERS[::-1] + 250 + n, 1, dataDate=20240520, dataTime=100 * n) for n in range(3)]
    write(tmp_path / "era5.grib", *clocks)
    code, _, err = command(build_hrrr, "--path", tmp_path / "era5.grib", "--out", tmp_path / "s.zarr")
    store = xr.open_zarr(tmp_path / "s.zarr")
    assert code == 0, err
    assert np.allclose(store.T2M, NUMBERS + 250 + np.arange(3)[:, None, None], atol=0.01)
    assert np.allclose(store.latitude[:, 0], np.arange(40, 46)) and np.allclose(store.longitude[0], np.arange(10, 18))


@pytest.mark.parametrize("kind, said", [
    ("cut", "PrematureEndOfFile"), ("page", "a message that begins with b'GRIB'"), ("empty", "an empty file"),
    ("date", "a date"), ("packing", "whole messages"), ("grid", "the grid type ncep_32769"),
    ("thinned", "the grid type reduced_gg"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line_that_names_the_file(tmp_path, command, kind, said):
    whole = message()
    rotated = message(kind="rotated_ll")
    section = rotated.index(b"\0\0\0\x54\3")  # Section 3 of 84 bytes
    data = {"cut": lambda: whole + whole[:-30], "page": lambda: b"<html>404</html>", "empty": lambda: b"",
            "date": lambda: whole[:30] + b"\x0d" + whole[31:],  # the 13th month
            "packing": lambda: message(packing="grid_jpeg")[:-60] + b"\0" * 56 + b"7777",
            "grid": lambda: rotated[: section + 12] + b"\x80\1" + rotated[section + 14 :],
            "thinned": lambda: eccodes.codes_get_message(thinned())}[kind]()  # fmt: skip
    write(tmp_path / "b.grib2", data)
    code, _, err = command(build_hrrr, "--path", tmp_path / "b.grib2", "--out", tmp_path / "s.zarr")
    assert code == 2 and "b.grib2" in err and said in err and err.count("\n") == 1 and "Fix: " in err
    assert not (tmp_path / "s.zarr").exists()


def thinned() -> int:
    """2 m temperature on a reduced Gaussian grid, whose rows have different lengths."""
    out = eccodes.codes_grib_new_from_samples("reduced_gg_sfc_grib2")
    for key, value in {"typeOfFirstFixedSurface": 103, "scaleFactorOfFirstFixedSurface": 0,
                       "scaledValueOfFirstFixedSurface": 2}.items():  # fmt: skip
        eccodes.codes_set(out, key, value)
    return out


@pytest.mark.parametrize("spoil, said", [
    (lambda values: values - 273.15, "mean of T2M is 30.35, expected 180 to 340 kelvin"),
    (lambda values: np.where(values == 290, 9999, values), "got 9999 in 1 cells of T2M, which no bitmap declares"),
])  # fmt: skip
def test_hours_in_celsius_or_with_an_undeclared_fill_value_are_left_out(tmp_path, command, spoil, said):
    hours = [message(spoil(NUMBERS + 280) if n > 1 else NUMBERS + 280, bits=24, dataTime=100 * n) for n in range(4)]
    write(tmp_path / "a.grib2", *hours)
    code, out, _ = command(build_hrrr, "--path", tmp_path / "a.grib2", "--out", tmp_path / "s.zarr")
    assert code == 0 and said in out and xr.open_zarr(tmp_path / "s.zarr").sizes["time"] == 2


def test_leads_of_several_runs_become_a_forecast_store_that_is_scored(tmp_path, command):
    for run in range(4):
        for lead in range(4):
            valid = 280 + 5 * np.sin(NUMBERS / 5 + run + lead) + 0.1 * lead
            if (run, lead) != (3, 2):
                write(tmp_path / f"{run}-{lead}.grib2", message(valid, dataTime=100 * run, forecastTime=lead))
    code, out, err = command(build_hrrr, "--path", tmp_path, "--leads", "2-3", "--out", tmp_path / "noaa.zarr")
    assert code == 0 and "wrote 3 runs" in out and "1 runs that lack a lead time" in out, err
    found = xr.open_zarr(tmp_path / "noaa.zarr")
    assert found.T2M.dims == ("init_time", "lead_time", "y", "x")
    assert list(found.lead_time.values / np.timedelta64(1, "h")) == [0, 2, 3]
    expected = 280 + 5 * np.sin(NUMBERS[::-1] / 5 + 1 + 3) + 0.3
    assert np.allclose(found.T2M.sel(init_time="2024-05-20T01", lead_time="3h"), expected, atol=0.01)
    assert command(build_hrrr, "--path", tmp_path, "--forecast_hour", 0, "--out", tmp_path / "truth.zarr")[0] == 0
    code, _, err = command(verify_forecast, "--forecast", tmp_path / "noaa.zarr", "--zarr", tmp_path / "truth.zarr",
                           "--out", tmp_path / "scores.json", "--figures", False)  # fmt: skip
    assert code == 0, err
    score = json.loads((tmp_path / "scores.json").read_text())["scores"]["T2M"]["3"]
    assert score["bias"] == pytest.approx(0.3, abs=0.01) and score["n_cases"] == 1


def test_a_store_is_not_extended_by_winds_of_the_other_kind(tmp_path, command):
    wind = {"parameterCategory": 2, "parameterNumber": 2, "scaledValueOfFirstFixedSurface": 10}
    for hour, along in ((0, 1), (1, 0)):
        (tmp_path / str(hour)).mkdir()
        write(tmp_path / str(hour) / "a.grib2", message(NUMBERS, dataTime=100 * hour, **wind, uvRelativeToGrid=along))
    out = ("--out", tmp_path / "s.zarr")
    assert command(build_hrrr, "--path", tmp_path / "0", *out)[0] == 0
    assert xr.open_zarr(tmp_path / "s.zarr").U10.attrs["wind_reference"] == "grid"
    code, _, err = command(build_hrrr, "--path", tmp_path / "1", *out)
    assert code == 2 and "holds U10 along the grid, got others" in err
    code, _, err = command(build_hrrr, "--path", tmp_path, "--out", tmp_path / "both.zarr")
    assert code == 2 and "winds along the grid and winds to the east and north" in err


def test_a_message_that_ends_eccodes_ends_the_command_in_one_line(tmp_path):
    """The decoding runs in a new process, because eccodes aborts at group lengths of 255 bits."""
    data = bytearray(message(280 + 20 * np.sin(NUMBERS), packing="grid_complex_spatial_differencing"))
    section = data.index(struct.pack(">IB", 49, 5))
    data[section + 46] = 255  # octet 47
    write(tmp_path / "a.grib2", bytes(data))
    call = [sys.executable, "-m", "data.build_hrrr", "--path", tmp_path / "a.grib2", "--out", tmp_path / "s.zarr"]
    done = subprocess.run(call, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2 and "error: " in done.stderr.splitlines()[-1] and "a.grib2: GRIB message" in done.stderr

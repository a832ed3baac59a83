"""Other people's stores and files, kind by kind: times, grids, variables, winds, rain, odd files."""

import contextlib
import dataclasses
import errno
import zipfile
from unittest import mock

import numpy as np
import pytest
import xarray as xr
import zarr

import infer_iterative
from data import build_hrrr, check_store
from data.sources import HourUnavailable
from data.sources.zarr_netcdf import ZarrHours
from data.store import Store
from tests.conftest import hour, small_grid, weather, write_store
from tests.model_files import write_checkpoint

FIELD = 280 + np.arange(4)[:, None] + np.arange(6) / 10  # row in kelvin, column in tenths
ROWS = ("latitude", "lat", "y", "a", "d0", "rlat", "level", "grid_index")
COLUMNS = ("longitude", "lon", "x", "b", "d1", "rlon", "station", "feature")
SIZES = dict.fromkeys(ROWS, 4) | dict.fromkeys(COLUMNS, 6)
PLACE = {"latitude": [40.0, 41, 42, 43], "longitude": [-100.0, -99, -98, -97, -96, -95]}
MAP = "time latitude longitude"
HOURS = np.array([hour(n) for n in range(4)])
H = np.timedelta64(1, "h").astype("m8[ns]")
RUN, VALID, LEAD = ({"standard_name": n} for n in ("forecast_reference_time", "time", "forecast_period"))


def dataset(dims=MAP, coordinates=PLACE | {"time": HOURS}, name="t2m", values=None, **attributes):
    """One array of these dimensions: FIELD, 10 more with each step of those that are not rows or columns."""
    dims, sizes = dims.split(), xr.Dataset({}, coordinates).sizes
    order = sorted(dims, key=lambda d: SIZES.get(d, 0))
    shape = [SIZES.get(d) or sizes.get(d, 4) for d in order]
    steps = 10.0 * np.arange(np.prod(shape[:-2])).reshape(*shape[:-2], 1, 1)
    field = np.broadcast_to(FIELD + steps if values is None else values, shape).astype("f4")
    return xr.Dataset({name: (order, field, {"units": "K"} | attributes)}, coordinates).transpose(*dims, ...)


def read(path, data=None, encoding=None, **options):
    """The source that the builder makes of a path, to which the dataset is written first."""
    if data is not None:
        data.to_netcdf(path, encoding=encoding)
    cfg = build_hrrr.Config(path=str(path), out=f"{path}.out", **options)
    return ZarrHours(cfg, *build_hrrr.check(cfg))


def refused(call, *words):
    """The one line with which a call is refused; it has these words and a fix."""
    with pytest.raises(ValueError) as error:
        call()
    line = str(error.value)
    assert all(w in line for w in (*words, "expected", "Fix: ")) and "\n" not in line, line
    return line


def since(units: str, **attributes) -> dict:
    return {"time": ("time", np.arange(4), {"units": units} | attributes)}


# --- times: which hours are stored (hours since HOURS[0]: step of the source), the kind, and a word of the notes ---

EACH, LATER = {0: 0, 1: 1, 2: 2, 3: 3}, {1: 0, 2: 1, 3: 2, 4: 3}
TIMES = {
    "valid time beside run time": ("time", {"time": ("time", HOURS, RUN), "step": ((), H, LEAD),
                                            "valid_time": ("time", HOURS + H, VALID)}, LATER, 1, ""),
    "run time and step, no valid time": ("time", {"time": HOURS, "step": H}, LATER, 1, ""),
    "CF names alone": ("t", {"t": ("t", HOURS + H, VALID), "r": ("t", HOURS, RUN), "p": ((), H, LEAD)}, LATER, 1, ""),
    "one run, leads mixed": ("step", {"time": HOURS[0], "step": H * np.arange(4), "valid_time": ("step", HOURS)},
                             {0: 0}, 0, "left out: 2 times with other leads than 0 and 1 h (0 min to 3 h)"),
    "one lead a store": ("init_time lead_time", {"init_time": HOURS, "lead_time": [H]}, LATER, 1, ""),
    "several leads of each run": ("init_time lead_time", {"init_time": HOURS[:2], "lead_time": H * np.arange(2)},
                                  {0: 0, 1: 2}, 0, "f00 (analyses) chosen, 2 hours; left out: 2 hours of f01"),
    "WeatherBench": ("time prediction_timedelta", {"time": HOURS[:2], "prediction_timedelta": H * np.arange(1, 3)},
                     {1: 0, 2: 2}, 1, "left out: 1 leads other than 0 and 1 h"),
    "leads before runs": ("lead_time init_time", {"init_time": HOURS[:2], "lead_time": H * np.arange(1, 3)},
                          {1: 0, 2: 1}, 1, "left out: 1 leads other"),
    "Times": ("Time", {"Times": ("Time", np.array([f"2024-05-20_0{h}:00:00" for h in range(4)], "S19"))}, EACH, 0, ""),
    "XTIME": ("Time", {"XTIME": ("Time", [0.0, 60, 120, 180], {"units": "minutes since 2024-05-20"})}, EACH, 0, ""),
    "text": ("time", {"time": [f"2024-05-20T0{h}:00" for h in range(4)]}, EACH, 0, ""),
    "compact text": ("time", {"time": [f"202405200{h}" for h in range(4)]}, EACH, 0, ""),
    "characters": ("Time", {"Times": (("Time", "n"), np.array([list(f"2024-05-20_0{h}:00") for h in range(4)], "S1"))},
                   EACH, 0, ""),
    "minutes": ("init_time lead_time", {"init_time": HOURS, "lead_time": ("lead_time", [60.0], {"units": "minutes"})},
                LATER, 1, ""),
    "other names": ("fhr", {"analysis_time": HOURS[0], "fhr": ("fhr", np.arange(4), {"units": "h"})}, {0: 0}, 0,
                    "left out: 2 times"),
    "CDS": ("valid_time", {"valid_time": HOURS, "number": 0, "expver": ("valid_time", ["0001"] * 4)}, EACH, 0, ""),
    "dimensions of length 1": ("time number expver", {"time": HOURS, "number": [0], "expver": [1]}, EACH, 0, ""),
    "west of Greenwich": ("time", since("hours since 2024-05-20 00:00:00 -6:00"), {6: 0, 7: 1, 8: 2, 9: 3}, 0, ""),
    "east of Greenwich": ("time", since("hours since 2024-05-20 00:00 +02:00"), {-2: 0, -1: 1, 0: 2, 1: 3}, 0, ""),
    "Z": ("time", since("hours since 2024-05-20T00:00:00Z"), EACH, 0, ""),
    "UTC": ("time", since("hours since 2024-5-20 00:00:0.0 UTC"), EACH, 0, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", TIMES)
def test_times_are_the_valid_times_and_leads_are_never_mixed(case, tmp_path):
    dims, coordinates, expected, kind, note = TIMES[case]
    source = read(tmp_path / "a.nc", dataset(f"{dims} latitude longitude", coordinates | PLACE))
    assert {round((t - HOURS[0]) / H): (source.load(t)["T2M"][0, 0] - 280) / 10 for t in source.times} == expected
    assert source.forecast_hour == kind and any(note in n for n in source.notes), source.notes


@pytest.mark.parametrize("dtype, step", [("f8", 5), ("f4", 60), ("f4", 30), ("f4", 15), ("f4", 10)])
def test_fractions_of_days_are_the_steps_that_they_mean_or_refused(dtype, step, tmp_path):
    times = HOURS[0] + np.arange(4) * np.timedelta64(step, "m")
    encoding = {"time": {"dtype": dtype, "units": "days since 1900-01-01"}}
    dataset(coordinates=PLACE | {"time": times}).to_netcdf(tmp_path / "a.nc", encoding=encoding)
    if (dtype, step) != ("f4", 10):  # float32 counts days since 1900 in steps of 5.6 minutes
        assert np.array_equal(read(tmp_path / "a.nc").times, times)
    else:
        refused(lambda: read(tmp_path / "a.nc"), "write it as integers or float64")


@pytest.mark.parametrize("dtype", ["i8", "f8"])
def test_a_file_an_hour_with_a_scalar_time_is_joined(dtype, tmp_path):
    for n in (2, 0, 1):
        scalars = {"valid_time": hour(n), "time": hour(n), "step": 0 * H, "heightAboveGround": 2.0}
        encoding = {t: {"dtype": dtype, "units": "hours since 1970-01-01"} for t in ("time", "valid_time")}
        data = dataset("latitude longitude", PLACE | scalars, values=FIELD + 10 * n)
        read(tmp_path / f"{9 - n}.nc", data, encoding)
    source = read(tmp_path)
    assert [source.load(hour(n))["T2M"][0, 0] for n in range(3)] == [280, 290, 300] and source.forecast_hour == 0


# --- grids: coordinates of fields (time, *dims) and what must come out ---

ROW, COLUMN = np.mgrid[:4, :6]
LONLAT = {"lat": (("y", "x"), 35 + 0.027 * ROW, {"units": "degrees_north"}),
          "lon": (("y", "x"), 260 + 0.033 * COLUMN, {"units": "degrees_east"})}  # fmt: skip
CURVED = {n: (("d0", "d1"), *v[1:]) for n, v in LONLAT.items()}
DATE_LINE = {"lat": -18 + 0.027 * np.arange(4), "lon": [179.94, 179.97, 180, -179.97, -179.94, -179.91]}


def along(unit: str, step: float, names=("y", "x")) -> dict:
    return {n: (n, step * np.arange(size), {"units": unit, "standard_name": f"projection_{a}_coordinate"})
            for a, n, size in zip("yx", names, (4, 6), strict=True)}  # fmt: skip


ROTATED = {
    "rlat": ("rlat", [-1.0, 0, 1, 2], {"standard_name": "grid_latitude", "units": "degrees"}),
    "rlon": ("rlon", 358.0 + np.arange(6), {"standard_name": "grid_longitude", "units": "degrees"}),
    "crs": ((), 0, {"grid_mapping_name": "rotated_latitude_longitude", "grid_north_pole_latitude": 37.5,
                    "grid_north_pole_longitude": 177.5}),
}  # fmt: skip
LAMBERT = {"grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [25.0, 60.0], "earth_radius": 6.37e6,
           "latitude_of_projection_origin": 40.0, "longitude_of_central_meridian": -97.0}  # fmt: skip
RADIANS = {n: (dims, np.radians(v), {"units": "radian"}) for n, (dims, v, _) in LONLAT.items()}
GRIDS = {  # dims, coordinates, spacing in m (rows, columns), latitude and longitude of (row, column)
    "km": ("y x", along("km", 3.0), (3000, 3000), {}),
    "two parallels": ("y x", along("km", 3.0) | {"crs": ((), 0, LAMBERT)}, (3000, 3000), {(0, 0): (40, -97)}),
    "radians": ("y x", RADIANS, (3002, 3005), {(1, 2): (35.027, -99.934)}),
    "CF names alone": ("a b", along("m", 3000.0, ("a", "b")), (3000, 3000), {}),
    "counters": ("y x", {"y": np.arange(4), "x": np.arange(6)} | LONLAT, (3002, 3005), {(1, 2): (35.027, -99.934)}),
    "counters in metres": ("y x", along("m", 1.0) | LONLAT, (3002, 3005), {}),
    "dimensions that only latitude tells": ("d0 d1", CURVED, (3002, 3005), {(3, 5): (35.081, -99.835)}),
    "longitude first": ("longitude latitude", PLACE, (111199, 83284), {(0, 5): (40, -95)}),
    "across the date line": ("lat lon", DATE_LINE, (3002, 3171), {(0, 2): (-18, -180), (0, 3): (-18, -179.97)}),
    "rotated pole": ("rlat rlon", ROTATED, (111199, 111165), {(1, 2): (52.5, -2.5), (2, 2): (53.5, -2.5)}),
}  # fmt: skip


@pytest.mark.parametrize("case", GRIDS)
def test_grids_have_their_spacing_and_places(case, tmp_path):
    dims, coordinates, spacing, places = GRIDS[case]
    about = {"grid_mapping": "crs"} if "crs" in coordinates else {}
    source = read(tmp_path / "a.nc", dataset(f"time {dims}", coordinates | {"time": HOURS[:1]}, **about))
    assert np.allclose(source.load(HOURS[0])["T2M"], FIELD)
    assert source.grid.spacing == pytest.approx(spacing, rel=1e-3)
    for cell, place in places.items():
        assert (source.grid.latitude[cell], source.grid.longitude[cell]) == pytest.approx(place, abs=1e-6)


STATIONS = {n: ("station", np.arange(6.0)) for n in ("lat", "lon")}
REFUSED = {  # dims, coordinates, words of the refusal
    "noleap": (MAP, since("days since 2024-02-27", calendar="noleap"), "the calendar 'noleap'"),
    "360_day": (MAP, since("days since 2024-02-27", calendar="360_day"), "the calendar '360_day'"),
    "EST": (MAP, since("hours since 2024-05-20 00:00 EST"), "EST"),
    "a zone by name": (MAP, since("hours since 2024-05-20 America/Denver"), "America/Denver"),
    "lead without units": ("step latitude longitude", {"step": np.arange(4), "time": HOURS[0]}, "step cannot be"),
    "expver": ("time expver latitude longitude", {"time": HOURS, "expver": [1, 5]}, "t2m has the dimensions expver"),
    "members": (f"number {MAP}", {"time": HOURS, "number": [1, 2]}, "t2m has the dimensions number"),
    "longer leads": (MAP, {"time": ("time", HOURS, RUN), "step": ((), 3 * H, LEAD)}, "0 and 1 h (3 h)"),
    "state": ("time grid_index feature", {"time": HOURS, "feature": list("abcdef")}, "feature, grid_index"),
    "section": ("time level lon", {"time": HOURS, "level": np.arange(4.0), "lon": np.arange(6.0)}, "along level"),
    "stations": ("time level station", since("hours since 2024-05-20") | STATIONS, "station"),
    "furlongs": ("time y x", along("furlong", 3.0) | {"time": HOURS}, "the unit 'furlong'"),
    "no units": ("time y x", along("", 3.0) | {"time": HOURS}, "numbers without units"),
    "any pole": ("time y x", along("degrees", 1.0) | {"time": HOURS}, "degrees that may be those of any pole"),
    "exchanged": ("time lat lon", {"time": HOURS, "lat": PLACE["longitude"][:4], "lon": np.arange(6.0)}, "at most 90"),
    "out of order": ("time lat lon", {"time": HOURS, "lat": [1.0, 2, 3, 4], "lon": [0.0, 1, 2, 7, 8, 6]},
                     "columns that repeat or turn back"),
    "a row twice": ("time lat lon", {"time": HOURS, "lat": [1.0, 2, 2, 3], "lon": np.arange(6.0)}, "rows that repeat"),
    "around and again": ("time lat lon", {"time": HOURS, "lat": [1.0, 2, 3, 4], "lon": 72.0 * np.arange(6)},
                         "columns that repeat"),
    "a moving nest": ("time y x", {"time": HOURS, "lon": LONLAT["lon"], "lat": (("time", "y", "x"),
                      LONLAT["lat"][1] + np.arange(4)[:, None, None])}, "other values along time"),
    "a hole": ("time lat lon", {"time": HOURS, "lat": [1, 2, np.nan, 4], "lon": np.arange(6.0)}, "missing values"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_hours_or_is_no_map_is_refused_by_name(case, tmp_path):
    dims, coordinates, words = REFUSED[case]
    refused(lambda: read(tmp_path / "a.nc", dataset(dims, coordinates | (PLACE if "latitude" in dims else {}))), words)


def test_a_store_with_longitude_first_is_not_trained_as_it_is(tmp_path):
    dataset("time longitude latitude").to_zarr(tmp_path / "s.zarr")
    refused(lambda: Store(tmp_path / "s.zarr"), "rows before columns", "it transposes them")


# --- variables: name, attributes, scalar coordinates and the table's name, or words of the note why it is none ---

CAPE, WIND = "not surface-based CAPE", "not 10 m wind"
VARIABLES = [
    *((n, {}, {}, to) for n, to in {
        "TMP_2maboveground": "T2M", "UGRD_10maboveground": "U10", "CAPE_surface": "CAPE", "T2": "T2M", "uas": "U10",
        "temperature_2m": "T2M", "wind_v_10m": "V10", "composite_reflectivity": "REFC", "VAR_10U": "U10",
        "convective_inhibition_surface": "CIN", "CAPE_90M0mbaboveground": "CAPE_90M0mbaboveground",
        "2m_dewpoint_temperature": "D2M", "dew_point_2m": "D2M", "10m_wind_v": "V10", "temp_80m": "temp_80m",
        "UGRD_80maboveground": "UGRD_80maboveground"}.items()),
    ("var167", {"short_name": "2t"}, {}, "T2M"),
    ("p3", {"GRIB_shortName": "2t", "GRIB_typeOfLevel": "heightAboveGround"}, {"heightAboveGround": 2.0}, "T2M"),
    ("a", {"standard_name": "air_temperature"}, {"height": 2.0}, "T2M"),
    ("a", {"standard_name": "air_temperature"}, {"height": 80.0}, "a"),
    ("a", {"standard_name": "eastward_wind"}, {"height": 10.0}, "U10"),
    ("a", {"standard_name": "eastward_wind"}, {}, "a"),
    ("cape", {"GRIB_typeOfLevel": "pressureFromGroundLayer"}, {"pressureFromGroundLayer": 18000.0}, CAPE),
    ("cape", {}, {"pressureFromGroundLayer": 18000.0}, CAPE), ("CAPE", {"level_type": "180-0 mb"}, {}, CAPE),
    ("UGRD", {}, {"heightAboveGround": 80.0}, WIND), ("UGRD", {"level": "80 m above ground"}, {}, WIND),
    ("UGRD", {"GRIB_typeOfLevel": "heightAboveGround", "GRIB_level": 80}, {}, WIND),
    ("UGRD", {}, {"isobaricInhPa": 850.0}, WIND), ("UGRD", {}, {"height": ((), 10.0, {"units": "km"})}, WIND),
    ("cape", {"long_name": "Most unstable CAPE"}, {}, CAPE), ("u10", {"cell_methods": "time: maximum"}, {}, WIND),
]  # fmt: skip


@pytest.mark.parametrize("name, attributes, coordinates, expected", VARIABLES)
def test_a_variable_is_known_by_its_name_and_its_level(name, attributes, coordinates, expected, tmp_path):
    units = {"T": "K", "D": "K", "C": "J kg-1", "R": "dBZ"}.get(expected[0], "m s-1")
    data = dataset(name=name, values=250, units=units, **attributes).assign_coords(coordinates)
    source = read(tmp_path / "a.nc", data)
    notes = " ".join(source.notes) if " " in expected else ""
    assert source.names == [expected] or (expected in notes and source.names[0] not in ("CAPE", "U10"))


OTHERS = [  # what differs from the store of the training: variable, attribute, value, words of the refusal
    ("U10", "wind_reference", "earth", "got winds to east and north, expected winds along the grid"),
    ("T2M", "units", "degC", "got units 'degC', expected 'K'. Fix: `python -m data.build_hrrr"),
    ("U10", "units", "furlongs", "correct its units attribute"),
    ("U10", "level", "80 m above ground", "another level (U10 is at height above ground 80"),
]


@pytest.mark.parametrize("name, attribute, value, words", OTHERS)
def test_a_model_refuses_other_units_winds_and_levels(name, attribute, value, words, tmp_path):
    grid, names = dataclasses.replace(small_grid(), winds="grid"), ["T2M", "U10", "V10"]
    store = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)], names, grid)
    best = write_checkpoint(tmp_path / "best.pt", store, names)
    other = xr.open_zarr(store)
    for n in ("U10", "V10") if attribute == "wind_reference" else (name,):
        other[n].attrs[attribute] = value
    other.drop_encoding().to_zarr(tmp_path / "o.zarr", consolidated=False)
    cfg = infer_iterative.Config(str(best), str(tmp_path / "o.zarr"), ["latest"], 1.0, out=str(tmp_path / "f.zarr"))
    refused(lambda: infer_iterative.main(cfg), words)
    assert not (tmp_path / "f.zarr").exists()


# --- rain: name, units, the source's values, and the mm of each hour that has them or words of the note ---

SUM, SINCE = [0, 1, 4, 4], {1: 1, 2: 3, 3: 0}
RAIN = [
    ("tp", "m", [0, 0.001, 0.004, 0.004], SINCE), ("tp", "kg m**-2", SUM, SINCE), ("RAINNC", "mm", SUM, SINCE),
    ("APCP_surface", "kg/m^2", SUM, SINCE), ("tp", "mm", [np.nan, 1, 4, 4], {2: 3, 3: 0}),
    ("tp", "mm", [0, 1, 4, 5, 0, 2, 3], {1: 1, 2: 3, 3: 1, 5: 2, 6: 1}),  # two runs
    ("tp", "mm", [0, 80, 79.5, 90], {1: 80, 2: 0, 3: 10.5}),  # GRIB's rounding
    ("tp", "kg m-2", [1, 0, 2, 1], {0: 1, 1: 0, 2: 2, 3: 1}),
    ("precipitation_surface", "kg m-2 s-1", [0.001, 0, 0, 0], {0: 3.6, 1: 0, 2: 0, 3: 0}),
    ("tp", "inch", SUM, "tp is an amount of rain in inch"), ("tp", "mm", [0, 0, 0, 0], "its hours do not tell"),
    ("tp", "mm", [0, 2, 1, 3, 2], "its hours do not tell"),
]  # fmt: skip


@pytest.mark.parametrize("name, units, amounts, expected", RAIN)
def test_rain_is_that_of_the_hour(name, units, amounts, expected, tmp_path):
    place = PLACE | {"time": HOURS[0] + H * np.arange(len(amounts))}
    source = read(tmp_path / "a.nc", dataset(MAP, place, name, np.array(amounts)[:, None, None], units=units))
    if isinstance(expected, str):
        assert source.names == [name] and expected in " ".join(source.notes)
        return
    found = {}
    for time in source.times:
        with contextlib.suppress(HourUnavailable):
            found[round((time - HOURS[0]) / H)] = float(source.load(time)["RAIN"][1, 1])
    assert found == pytest.approx(expected, abs=1e-5)


def test_rain_is_that_of_the_hour_over_files_too(tmp_path):
    for n, amount in enumerate(SUM):
        for folder, lead in (("hours", {}), ("runs", {"step": H})):
            (tmp_path / folder).mkdir(exist_ok=True)
            data = dataset(coordinates=PLACE | {"time": HOURS[n : n + 1]} | lead, name="tp", values=amount, units="mm")
            data.to_netcdf(tmp_path / folder / f"{n}.nc")
    hours, runs = (read(tmp_path / folder) for folder in ("hours", "runs"))
    assert [hours.load(t)["RAIN"][0, 0] for t in hours.times] == [1, 3, 0] and hours.times[0] == HOURS[1]
    assert [runs.load(t)["RAIN"][0, 0] for t in runs.times] == SUM and runs.forecast_hour == 1


def test_leftovers_of_a_mac_are_passed_over_and_a_zip_is_named(tmp_path):
    path = tmp_path / "wrfout_d01_2024-05-20_00:00:00"
    dataset().to_netcdf(path)
    (tmp_path / "._a.nc").write_bytes(b"\0\5\26\7 Mac OS X")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    source = read(tmp_path)
    assert len(source.times) == 4 and "passed over 2 hidden files" in source.notes[0]
    with zipfile.ZipFile(tmp_path / "era5.nc", "w") as packed:
        packed.write(path)
    assert "netCDF4" not in refused(lambda: read(tmp_path / "era5.nc"), "a zip file", "unzip it")


@pytest.mark.parametrize("zarr_format, words", [(2, "_ARRAY_DIMENSIONS"), (3, "dimension_names")])
def test_arrays_without_dimension_names_are_refused_with_the_fix(zarr_format, words, tmp_path):
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("T2M", data=np.zeros((4, 4, 6), "f4"))
    assert "complete" not in refused(lambda: read(tmp_path / "s.zarr"), "T2M", words)


@pytest.mark.parametrize("scheme, package", [("gs", "gcsfs"), ("s3", "s3fs"), ("abfs", "adlfs"), ("https", "aiohttp")])
def test_the_package_of_a_remote_store_is_named(scheme, package, monkeypatch):
    monkeypatch.setattr(xr, "open_zarr", mock.Mock(side_effect=ImportError(f"Install {package}")))
    refused(lambda: read(f"{scheme}://bucket/x.zarr"), f"pip install {package}")


def test_a_store_on_a_read_only_disk_gets_its_verdict(seven_store, monkeypatch, command):
    monkeypatch.setattr(check_store, "write_sidecar", mock.Mock(side_effect=OSError(errno.EROFS, "Read-only")))
    code, out, _ = command(check_store, seven_store)
    assert code == 0 and "sound" in out

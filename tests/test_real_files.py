"""Real NetCDF files of four kinds of models and of radar are read without an option."""

import numpy as np
import pytest
import xarray as xr

from tests.test_other_people import read

STATE = {"T2M": (279, 300), "D2M": (250, 300), "U10": (-9, 9), "V10": (-9, 9), "RAIN": (0, 2), "CAPE": (0, 50)}  # means
FOUR = ["T2M", "D2M", "U10", "V10"]
REALS = {  # variables, rows, first latitude, first and last longitude, what winds follow
    "arome_nw_25h.nc": (["RAIN"], 227, (46.246, -5.842, 2.008), ""),
    "arpege_nw_25h.nc": (FOUR, 58, (46.196, -5.842, 2.058), "earth"),
    "arpege_se_25h.nc": (FOUR, 53, (41.05, 2, 9.9), "earth"),
    "era5_plains_25h.nc": (FOUR[1:], 121, (25, -108, -91), "earth"),
    "era5_uk_t2m_744h.nc": (["T2M"], 33, (50, -10, 2), ""),
    "mrms_conus_rain_72h.nc": (["RAIN"], 1166, (20.035, -129.985, -60.025), ""),
    "nldas_washita_120h.nc": (FOUR, 41, None, "unknown"),
    "ukv_rotated_pole_13h.nc": (["CAPE"], 200, (51.18866, -4.88271, 0.87313), ""),  # by the formula of the rotation
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REALS)
def test_real_files_are_read_without_an_option(name, real):
    variables, rows, corners, winds = REALS[name]
    source = read(real / name, end="2016-09-20" if name.startswith("mrms") else "")
    assert source.names == variables and source.grid.shape[0] == rows and source.grid.winds == winds
    if corners:  # our first row is the southernmost, also in the files from north to south
        found = source.grid.latitude[0, 0], source.grid.longitude[0, 0], source.grid.longitude[-1, -1]
        assert found == pytest.approx(corners, abs=1e-3) and not source.grid.north_first
    for variable, field in source.load(source.times[-1]).items():
        assert STATE[variable][0] <= np.nanmean(field) <= STATE[variable][1]


@pytest.mark.real_data
def test_the_rain_of_a_real_run_is_that_of_each_hour(real):
    """AROME's sums fall by half a millimetre where GRIB rounded them, and lack the first hour."""
    total = xr.open_dataset(real / "arome_se_25h.nc").tp.sortby("latitude").values
    source = read(real / "arome_se_25h.nc")
    hours = [source.load(t)["RAIN"] for t in source.times[1:]]
    assert np.allclose(hours, np.maximum(np.diff(total[1:], axis=0), 0), atol=1e-4)

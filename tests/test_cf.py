"""Stores follow the CF conventions: exported with a plain to_netcdf, the checker of IOOS finds no error in them."""

import io
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
import xarray as xr

from data.grid import Grid
from data.metadata import coordinates_of
from infer_iterative import Config, forecast, main
from tests.conftest import SEVEN, hour, small_grid, weather, write_store
from tests.model_files import write_checkpoint

REGULAR = Grid(
    (12, 16), ("latitude", "longitude"), *np.meshgrid(50 - 0.1 * np.arange(12), 0.25 * np.arange(16), indexing="ij")
)


def errors_of(dataset: xr.Dataset, path) -> str:
    """What compliance-checker says about a NetCDF file that xarray writes without a warning."""
    runner = pytest.importorskip("compliance_checker.runner")
    runner.CheckSuite.load_all_available_checkers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.to_netcdf(path)
    with redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sound, _ = runner.ComplianceChecker.run_checker(str(path), ["cf:1.11"], 0, "lenient", output_format="text")
    return "" if sound and "Errors" not in said.getvalue() else said.getvalue()


@pytest.mark.filterwarnings("ignore:The ioos_sos checker")
@pytest.mark.parametrize("grid", [small_grid(), REGULAR], ids=["lambert", "regular"])
def test_training_and_forecast_stores_are_sound_netcdf_files(grid, tmp_path):
    store = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)], SEVEN, grid)
    best = write_checkpoint(tmp_path / "best.pt", store, list(SEVEN))
    main(Config(str(best), str(store), ["latest"], 2.0, out=str(tmp_path / "f.zarr")))
    written = xr.open_zarr(tmp_path / "f.zarr")
    assert errors_of(xr.open_zarr(store).isel(time=slice(0, 2)), tmp_path / "s.nc") == ""
    assert errors_of(written, tmp_path / "f.nc") == "" == errors_of(forecast(best, store, hours=2), tmp_path / "m.nc")
    assert written.T2M.encoding["coordinates"].split()[-1] == "height_2m" and float(written.height_10m) == 10
    assert "height" not in written.REFC.encoding["coordinates"] and written.attrs["history"]


@pytest.mark.parametrize("values", [[1.5], 50 - 0.1 * np.arange(9), 0.1 + 3e3 * np.arange(1799), [0, 1, 3.0]], ids=str)
def test_coordinates_keep_their_bits(values, tmp_path):
    grid = Grid((len(values), 1), y=np.array(values, float), x=np.zeros(1))
    xr.Dataset(coords=coordinates_of(grid)).to_zarr(tmp_path / "s.zarr")
    assert np.array_equal(xr.open_zarr(tmp_path / "s.zarr").y, values)

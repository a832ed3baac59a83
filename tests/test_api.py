"""A forecast in memory."""

import numpy as np
import pytest
import xarray as xr
from forecaster import forecast

import infer_iterative
from tests.conftest import SEVEN
from tests.model_files import write_checkpoint

TIMES = ["2024-05-20T05", "2024-05-21T07"]


@pytest.fixture(scope="module")
def best(seven_store, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt", seven_store, list(SEVEN))


def test_a_forecast_in_memory_is_the_store_that_the_script_writes(best, seven_store, tmp_path):
    cfg = infer_iterative.Config(str(best), str(seven_store), TIMES, 3.0, out=str(tmp_path / "f.zarr"))
    infer_iterative.main(cfg)
    written, made = xr.open_zarr(tmp_path / "f.zarr").load(), forecast(best, seven_store, TIMES, 3)
    xr.testing.assert_identical(written, made)
    assert not np.allclose(made.T2M[:, 1], made.T2M[:, 0])  # the model does something


def test_a_boundary_store_gives_the_edge_here_too(best, seven_store, tmp_path):
    cfg = infer_iterative.Config(str(best), str(seven_store), TIMES[:1], 2.0, out=str(tmp_path / "f.zarr"))
    cfg.boundary = str(seven_store)
    infer_iterative.main(cfg)
    made = forecast(best, seven_store, np.datetime64(TIMES[0]), 2, str(seven_store))
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "f.zarr").load(), made)
    assert "perfect boundary" in made.attrs["boundary"]


def test_initial_times_that_are_computed_together_are_those_computed_one_by_one(best, seven_store, tmp_path):
    times = [*TIMES, "2024-05-20T20"]  # three in batches of two; the sun and the boundary are those of each
    cfg = infer_iterative.Config(str(best), str(seven_store), times, 3.0, batch_size=2, out=str(tmp_path / "f.zarr"))
    cfg.boundary = str(seven_store)
    infer_iterative.main(cfg)
    together, single = xr.open_zarr(tmp_path / "f.zarr").load(), forecast(best, seven_store, times, 3, cfg.boundary)
    xr.testing.assert_identical(together, forecast(best, seven_store, times, 3, cfg.boundary, batch_size=2))
    for n in SEVEN:  # rounding apart: a thousandth of the standard deviation
        near = 1e-3 * float(single[n].std())
        assert abs(together[n] - single[n]).max() < near and abs(single[n][0] - single[n][1]).max() > 100 * near


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"init_time": "2030-01-01"}, "no 2030-01-01T00:00, expected a time of the store"),
        ({"init_time": "2024-05-20T00"}, "expected it because the model sees the last 2 times"),
        ({"init_time": []}, "expected at least one time"),
        ({"init_time": "soon"}, "expected an ISO time"),
        ({"batch_size": 0}, "batch_size: got 0, expected at least 1"),
        ({"hours": 1.5}, "expected a positive multiple of the model's step of 1 hours"),
    ],
)
def test_what_the_store_lacks_is_refused(best, seven_store, wrong, message):
    with pytest.raises(ValueError, match=message):
        forecast(best, seven_store, **wrong)

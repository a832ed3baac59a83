"""A forecast in memory: the one that the script writes, from a checkpoint or from exported weights."""

import numpy as np
import pytest
import xarray as xr

import infer_iterative
from infer_iterative import forecast, load_model
from tests.conftest import SEVEN
from tests.model_files import write_checkpoint
from training.checkpoint import load_checkpoint

TIMES = ["2024-05-20T05", "2024-05-21T07", "2024-05-20T20"]


@pytest.fixture(scope="module")
def best(seven_store, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt", seven_store, list(SEVEN))


@pytest.mark.parametrize("boundary", [False, True])
def test_a_forecast_in_memory_is_the_store_that_the_script_writes(boundary, best, seven_store, tmp_path):
    edge = str(seven_store) if boundary else ""
    constants = {"boundary": edge, "batch_size": 2, "out": str(tmp_path / "f.zarr")}
    infer_iterative.main(infer_iterative.Config(str(best), str(seven_store), TIMES, 3.0, **constants))
    written, made = xr.open_zarr(tmp_path / "f.zarr").load(), forecast(best, seven_store, TIMES, 3, edge, batch_size=2)
    xr.testing.assert_identical(written, made)
    assert ("perfect boundary" in made.attrs.get("boundary_kind", "")) == boundary


def test_initial_times_together_give_the_forecasts_of_each_alone(best, seven_store):
    model = load_model(best)
    together = forecast(model, seven_store, TIMES, 3, str(seven_store), batch_size=2)
    for time in TIMES:  # sun and boundary are those of each
        alone = forecast(model, seven_store, np.datetime64(time), 3, str(seven_store))
        for n in SEVEN:  # rounding apart: a thousandth of the standard deviation
            near, one = 1e-3 * float(together[n].std()), together[n].sel(init_time=[np.datetime64(time)])
            assert abs(one - alone[n]).max() < near and abs(alone[n][0, 1] - alone[n][0, 0]).max() > 100 * near


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"init_time": "2030-01-01"}, "no 2030-01-01, expected a time of the store"),
        ({"init_time": "2024-05-20T00"}, "expected it because the model sees the last 2 times"),
        ({"init_time": []}, "init_time: got nothing, expected ISO times"),
        ({"init_time": "soon"}, "expected an ISO time"),
        ({"batch_size": 0}, "batch_size: got 0, expected at least 1"),
        ({"hours": 1.5}, "expected a positive multiple of the model's step of 1 hours"),
    ],
)
def test_what_the_store_lacks_is_refused(best, seven_store, wrong, message):
    with pytest.raises(ValueError, match=message):
        forecast(best, seven_store, **wrong)


def test_safetensors_weights_load_and_give_the_same_bits(best, seven_store, tmp_path):
    pytest.importorskip("safetensors")
    from training.weights import save_weights

    save_weights(load_checkpoint(best), tmp_path / "model.safetensors", {}, {})
    a, b = (forecast(p, seven_store, TIMES, 2) for p in (best, tmp_path / "model.safetensors"))
    assert all(np.array_equal(a[n], b[n]) for n in SEVEN)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-100])
    for name, message in (("cut", "cannot be read as weights"), ("none", "no such file")):
        with pytest.raises(ValueError, match=rf"{name}\.safetensors: {message}.*expected .*Fix: "):
            load_model(tmp_path / f"{name}.safetensors")

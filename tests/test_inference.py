"""Forecasts as a store and in memory, and the untrained model as persistence, through the whole path."""

import json
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import infer_iterative
from data.forcing import Forcing
from data.normalise import clip_physical
from data.store import Store
from tests.conftest import SEVEN, hour, weather, write_store
from tests.model_files import train, write_checkpoint
from training.checkpoint import load_checkpoint, save_checkpoint


def infer(checkpoint, store, times, hours, out, **constants) -> xr.Dataset:
    """The forecast that the script writes, opened as a user would, without a warning."""
    cfg = infer_iterative.Config(str(checkpoint), str(store), times, hours, out=str(out), **constants)
    assert infer_iterative.main(cfg) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(out)


@pytest.fixture(scope="module")
def checkpoints(seven_store, tmp_path_factory):
    """best.pt of random weights, and untrained.pt: the same with zeros at the outputs, as a training begins."""
    folder = tmp_path_factory.mktemp("run")
    checkpoint = load_checkpoint(write_checkpoint(folder / "best.pt", seven_store, list(SEVEN)))
    for name in ("head.weight", "head.bias", "flow.weight", "flow.bias"):
        checkpoint["ema"][name].zero_()
    save_checkpoint(checkpoint, folder / "untrained.pt")
    return folder


@pytest.fixture(scope="module")
def forecast(checkpoints, seven_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("forecast") / "forecast.zarr"
    return infer(checkpoints / "untrained.pt", seven_store, ["2024-05-20T01", "2024-05-21T05"], 24.0, out)


def test_the_untrained_forecast_is_persistence_of_the_clipped_analysis_for_24_hours(forecast, seven_store):
    store = Store(seven_store)
    for init in forecast.init_time.values:
        analysis = clip_physical(torch.from_numpy(store.load(init, list(SEVEN))), SEVEN).numpy()
        for c, name in enumerate(SEVEN):
            fields = forecast[name].sel(init_time=init).values
            assert fields.shape[0] == 25
            assert np.array_equal(fields[0], analysis[c])
            # the places of cells are rounded in the transport, at every step alike
            assert np.abs(fields - analysis[c]).max() < 0.005 * analysis[c].std(), name


def test_the_store_describes_itself_and_is_plotted_in_one_line(forecast):
    assert forecast.spatial_ref.attrs["grid_mapping_name"] == "lambert_conformal_conic"
    assert len(forecast.attrs["checkpoint_sha256"]) == 64
    assert json.loads(forecast.attrs["split"])["train"][0] == "2024-05-20T00:00"
    assert json.loads(forecast.attrs["constants"])["base_features"] == 4
    assert "torch" in json.loads(forecast.attrs["versions"])
    assert forecast.REFC.isel(init_time=[0]).sel(lead_time="3h").plot() is not None


def test_each_step_is_given_the_sun_of_its_own_time(checkpoints, seven_store, tmp_path, monkeypatch):
    asked, original = [], Forcing.__call__
    monkeypatch.setattr(Forcing, "__call__", lambda s, t: asked.append(t) or original(s, t))
    infer(checkpoints / "best.pt", seven_store, ["2024-05-20T22"], 4.0, tmp_path / "f.zarr")
    assert asked == [hour(22), hour(23), hour(24), hour(25)]


def test_a_forecast_keeps_names_dimensions_and_row_order(tmp_path):
    """ERA5-like: other names, 1-D coordinates, rows from north to south."""
    times = np.arange(hour(0), hour(48), np.timedelta64(1, "h").astype("timedelta64[ns]"))
    data = np.stack([weather("T2M", t) for t in times])
    coordinates = {"time": times, "latitude": np.linspace(55, 50, 12), "longitude": np.linspace(350, 357.5, 16)}
    path = tmp_path / "era5.zarr"
    xr.Dataset({"t2m": (("time", "latitude", "longitude"), data)}, coordinates).to_zarr(path, zarr_format=2)
    assert train(path, tmp_path / "run") == 0
    out = infer(tmp_path / "run" / "best.pt", path, ["latest"], 2.0, tmp_path / "f.zarr")
    assert out.t2m.dims == ("init_time", "lead_time", "latitude", "longitude")
    assert np.allclose(out.t2m[0, 0], data[-1]) and out.init_time.values[0] == times[-1]
    assert out.latitude.values[0] == 55


def test_masked_cells_are_announced_stay_missing_and_the_rest_is_forecast(tmp_path, capsys):
    def field(name, time):
        out = weather(name, time)
        out[:4, :5] = np.nan
        return out

    path = write_store(tmp_path / "s.zarr", field, [hour(n) for n in range(40)], ["REFC"])
    assert train(path, tmp_path / "run", epochs=5, validate_every=5) == 0  # the last is one of roll-outs
    assert "REFC: 10.4% of the cells have no data in any hour" in capsys.readouterr().out  # 20 of 192
    refc = infer(tmp_path / "run" / "best.pt", path, ["latest"], 3.0, tmp_path / "f.zarr").REFC
    assert refc[..., :4, :5].isnull().all()
    assert refc.notnull().sum() == 4 * (12 * 16 - 20) and refc.min() >= 0


def test_a_lead_of_five_minutes(tmp_path):
    times = [hour(n / 12) for n in range(60)]
    path = write_store(tmp_path / "s.zarr", lambda n, t: weather(n, hour(0) + 12 * (t - hour(0))), times)
    assert (
        train(path, tmp_path / "run", lead="5min", rollout_hours=0.25, epochs=5, validate_every=5) == 0
    )  # the last is one of roll-outs
    out = infer(tmp_path / "run" / "best.pt", path, [str(times[30])], 0.25, tmp_path / "f.zarr")
    assert list(out.lead_time.values / np.timedelta64(1, "m")) == [0, 5, 10, 15]
    assert load_checkpoint(tmp_path / "run" / "best.pt")["lead"] == "5min"
    with pytest.raises(ValueError, match=r"a positive multiple of the model's step of 0\.0833"):
        infer(tmp_path / "run" / "best.pt", path, ["latest"], 0.1, tmp_path / "g.zarr")


def test_a_forecast_from_training_hours_says_so(checkpoints, seven_store, tmp_path, capsys):
    infer(checkpoints / "best.pt", seven_store, ["2024-05-20T05", "2024-05-22T10"], 1.0, tmp_path / "f.zarr")
    assert "note: 1 of them lie in the training hours (2024-05-20T00:00 to " in capsys.readouterr().out


def test_test_hours_have_truth_for_the_whole_forecast(checkpoints, seven_store, tmp_path, capsys):
    out = infer(checkpoints / "best.pt", seven_store, ["test"], 24.0, tmp_path / "f.zarr")
    split = json.loads(out.attrs["split"])
    assert "the test part is only" in capsys.readouterr().out  # 60 hours leave 6 for the test
    assert out.init_time.values[0] >= np.datetime64(split["test"][0])
    assert out.valid_time.values.max() <= np.datetime64(split["test"][1])


# ---- in memory

TIMES = ["2024-05-20T05", "2024-05-21T07", "2024-05-20T20"]


@pytest.mark.parametrize("boundary", [False, True])
def test_a_forecast_in_memory_is_the_store_that_the_script_writes(boundary, checkpoints, seven_store, tmp_path):
    best, edge = checkpoints / "best.pt", str(seven_store) if boundary else ""
    written = infer(best, seven_store, TIMES, 3.0, tmp_path / "f.zarr", boundary=edge, batch_size=2).load()
    made = infer_iterative.forecast(best, seven_store, TIMES, 3, edge, batch_size=2)
    xr.testing.assert_identical(written, made)
    assert ("perfect boundary" in made.attrs.get("boundary_kind", "")) == boundary


def test_initial_times_together_give_the_forecasts_of_each_alone(checkpoints, seven_store):
    model = infer_iterative.load_model(checkpoints / "best.pt")
    together = infer_iterative.forecast(model, seven_store, TIMES, 3, str(seven_store), batch_size=2)
    for time in TIMES:  # sun and boundary are those of each
        alone = infer_iterative.forecast(model, seven_store, np.datetime64(time), 3, str(seven_store))
        for n in SEVEN:  # rounding apart: a thousandth of the standard deviation
            near, one = 1e-3 * float(together[n].std()), together[n].sel(init_time=[np.datetime64(time)])
            assert abs(one - alone[n]).max() < near and abs(alone[n][0, 1] - alone[n][0, 0]).max() > 100 * near

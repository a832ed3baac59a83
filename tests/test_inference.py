"""The forecast store, and the untrained model as persistence through the whole path."""

import json
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import forecaster
import infer_iterative
import train_deterministic
from data.normalise import clip_physical
from data.store import Store
from tests.conftest import SEVEN, SIZES, hour, weather, write_store
from training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def untrained(seven_store, tmp_path_factory):
    """A run, and beside its best.pt an untrained.pt: the same with its heads back at zero, as they start."""
    run_dir = tmp_path_factory.mktemp("run")
    cfg = train_deterministic.Config(zarr=str(seven_store), run_dir=str(run_dir), epochs=1, **SIZES)
    train_deterministic.main(cfg)
    checkpoint = load_checkpoint(run_dir / "best.pt")
    for name in ("head.weight", "head.bias", "flow_head.weight", "flow_head.bias"):
        checkpoint["ema"][name].zero_()
    save_checkpoint(checkpoint, run_dir / "untrained.pt")
    return run_dir


@pytest.fixture(scope="module")
def forecast(untrained, seven_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("forecast") / "forecast.zarr"
    times = ["2024-05-20T01", "2024-05-21T05"]
    cfg = infer_iterative.Config(str(untrained / "untrained.pt"), str(seven_store), times, 24.0, out=str(out))
    assert infer_iterative.main(cfg) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a plain open gives no warning
        return xr.open_zarr(out)


def test_the_untrained_forecast_is_persistence_of_the_clipped_analysis_for_24_hours(forecast, seven_store):
    store = Store(seven_store)
    for init in forecast.init_time.values:
        analysis = clip_physical(torch.from_numpy(store.load(init, list(SEVEN))), SEVEN).numpy()
        for c, name in enumerate(SEVEN):
            fields = forecast[name].sel(init_time=init).values
            assert fields.shape[0] == 25
            assert np.array_equal(fields[0], analysis[c])
            assert np.allclose(fields, analysis[c], rtol=2e-6, atol=2e-4), name  # rounding of the transforms


def test_times_are_those_of_the_fields_and_not_of_the_clock(forecast):
    assert list(forecast.init_time.values) == [np.datetime64("2024-05-20T01"), np.datetime64("2024-05-21T05")]
    assert forecast.lead_time.values[-1] == np.timedelta64(24, "h")
    assert (forecast.valid_time == forecast.init_time + forecast.lead_time).all()
    assert forecast.valid_time.values[1, -1] == np.datetime64("2024-05-22T05")


def test_the_store_describes_itself(forecast, seven_store, untrained):
    truth = xr.open_zarr(seven_store)
    assert np.array_equal(forecast.latitude, truth.latitude) and np.array_equal(forecast.longitude, truth.longitude)
    assert forecast.spatial_ref.attrs["grid_mapping_name"] == "lambert_conformal_conic"
    assert forecast.T2M.attrs["units"] == "K" and forecast.T2M.dims == ("init_time", "lead_time", "y", "x")
    assert len(forecast.attrs["checkpoint_sha256"]) == 64
    assert json.loads(forecast.attrs["split"])["train"][0] == "2024-05-20T00:00"
    assert json.loads(forecast.attrs["constants"])["base_features"] == 4
    assert "torch" in json.loads(forecast.attrs["versions"])


def test_one_line_in_a_notebook_plots_it(forecast):
    assert forecast.REFC.isel(init_time=[0]).sel(lead_time="3h").plot() is not None


def test_each_step_is_told_its_own_valid_time(untrained, seven_store, tmp_path, monkeypatch):
    asked = []
    original = forecaster.Forcing.__call__
    monkeypatch.setattr(forecaster.Forcing, "__call__", lambda s, t: asked.append(t) or original(s, t))
    cfg = infer_iterative.Config(str(untrained / "best.pt"), str(seven_store), ["2024-05-20T22"], 4.0)
    cfg.out = str(tmp_path / "f.zarr")
    infer_iterative.main(cfg)
    assert asked == [hour(22), hour(23), hour(24), hour(25)]


def test_a_forecast_keeps_names_dimensions_and_row_order(tmp_path):
    """ERA5-like: other names, 1-D coordinates, rows from north to south."""
    times = np.arange(hour(0), hour(48), np.timedelta64(1, "h").astype("timedelta64[ns]"))
    data = np.stack([weather("T2M", t) for t in times])
    coordinates = {"time": times, "latitude": np.linspace(55, 50, 12), "longitude": np.linspace(350, 357.5, 16)}
    path = tmp_path / "era5.zarr"
    xr.Dataset({"t2m": (("time", "latitude", "longitude"), data)}, coordinates).to_zarr(path, zarr_format=2)
    train_deterministic.main(
        train_deterministic.Config(zarr=str(path), run_dir=str(tmp_path / "run"), epochs=1, **SIZES)
    )
    cfg = infer_iterative.Config(
        str(tmp_path / "run/best.pt"), str(path), ["latest"], 2.0, out=str(tmp_path / "f.zarr")
    )
    infer_iterative.main(cfg)
    out = xr.open_zarr(tmp_path / "f.zarr")
    assert out.t2m.dims == ("init_time", "lead_time", "latitude", "longitude")
    assert np.allclose(out.t2m[0, 0], data[-1]) and out.init_time.values[0] == times[-1]
    assert out.latitude.values[0] == 55


def test_masked_cells_stay_missing_and_the_rest_is_forecast(tmp_path):
    def field(name, time):
        out = weather(name, time)
        out[:4, :5] = np.nan
        return out

    path = write_store(tmp_path / "s.zarr", field, [hour(n) for n in range(40)], ["REFC"])
    train_deterministic.main(
        train_deterministic.Config(zarr=str(path), run_dir=str(tmp_path / "run"), epochs=1, **SIZES)
    )
    cfg = infer_iterative.Config(
        str(tmp_path / "run/best.pt"), str(path), ["latest"], 3.0, out=str(tmp_path / "f.zarr")
    )
    infer_iterative.main(cfg)
    refc = xr.open_zarr(tmp_path / "f.zarr").REFC
    assert refc[..., :4, :5].isnull().all()
    assert refc.notnull().sum() == 4 * (12 * 16 - 20) and refc.min() >= 0


def test_a_failed_forecast_leaves_the_old_one_in_place(untrained, seven_store, tmp_path, monkeypatch, capsys):
    out = tmp_path / "f.zarr"
    cfg = infer_iterative.Config(str(untrained / "best.pt"), str(seven_store), ["latest"], 2.0, out=str(out))
    infer_iterative.main(cfg)
    assert "stays until this one is complete" not in capsys.readouterr().out
    before = xr.open_zarr(out).load()

    def broken(*_):
        raise RuntimeError("the power went out")

    monkeypatch.setattr(forecaster, "denormalise", broken)
    with pytest.raises(RuntimeError):
        infer_iterative.main(cfg)
    assert f"note: the forecast that is in {out} stays until this one is complete" in capsys.readouterr().out
    assert xr.open_zarr(out).load().equals(before)
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]


def test_a_forecast_from_training_hours_says_so(untrained, seven_store, tmp_path, capsys):
    times, out = ["2024-05-20T05", "2024-05-22T10"], str(tmp_path / "f.zarr")
    infer_iterative.main(infer_iterative.Config(str(untrained / "best.pt"), str(seven_store), times, 1.0, out=out))
    assert "note: 1 of them lie in the training hours (2024-05-20T00:00 to " in capsys.readouterr().out


def test_test_hours_have_truth_for_the_whole_forecast(untrained, seven_store, tmp_path, capsys):
    cfg = infer_iterative.Config(
        str(untrained / "best.pt"), str(seven_store), ["test"], 24.0, out=str(tmp_path / "f.zarr")
    )
    infer_iterative.main(cfg)
    out = xr.open_zarr(tmp_path / "f.zarr")
    split = json.loads(out.attrs["split"])
    assert "the test part is only" in capsys.readouterr().out  # 60 hours leave 6 for the test
    assert out.init_time.values[0] >= np.datetime64(split["test"][0])
    assert out.valid_time.values.max() <= np.datetime64(split["test"][1])

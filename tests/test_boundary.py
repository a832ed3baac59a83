"""Boundary data: the strip's weights by the formula, and forecasts whose edge is that of the boundary store."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

import infer_iterative
import train_deterministic
from data.boundary import Boundary, davies
from data.normalise import Statistics
from data.store import Store
from tests.conftest import TINY, hour, small_grid, weather, write_store
from tests.model_files import train

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
NAMES = ("T2M", "U10")
STATISTICS = Statistics(NAMES, torch.tensor([290.0, 0.0]), torch.tensor([4.0, 3.0]), torch.tensor([1.0, 1.0]))
EDGE = np.ones((12, 16), bool)
EDGE[1:-1, 1:-1] = False  # 12 x 16 cells: a strip of one cell
INNER = ~EDGE


def test_the_weights_follow_the_formula():
    weight = davies((100, 130))  # 8 % of 100: 8 cells
    for d in range(8):
        for cell in (weight[d, 60], weight[-1 - d, 60], weight[50, d], weight[50, -1 - d], weight[d, d]):
            assert cell.item() == pytest.approx(math.cos(math.pi * d / 16) ** 2, abs=1e-6)
    assert (weight[0] == 1).all() and (weight[:, -1] == 1).all()
    assert (weight[8:-8, 8:-8].abs() < 1e-6).all()


@pytest.mark.parametrize("shape,cells", [((1059, 1799), 25), ((100, 130), 8), ((12, 16), 1), ((5, 400), 1)])
def test_the_strip_is_25_cells_wide_or_8_percent_of_the_shorter_side(shape, cells):
    row = davies(shape)[shape[0] // 2]
    assert int((row[: shape[1] // 2] > 1e-6).sum()) == cells


@pytest.fixture
def store(tmp_path):
    return Store(write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(4)], NAMES))


def test_another_grid_a_missing_variable_and_a_missing_hour_are_refused(store, tmp_path):
    moved = small_grid()
    moved.latitude = moved.latitude + 1
    other = write_store(tmp_path / "moved.zarr", weather, [hour(0)], NAMES, moved)
    with pytest.raises(ValueError, match=r"boundary: got .*moved.zarr.*Fix: interpolate"):
        Boundary(str(other), store, STATISTICS, None)
    poor = write_store(tmp_path / "poor.zarr", weather, [hour(0)], ("T2M",))
    with pytest.raises(ValueError, match="got no variable 'U10'"):
        Boundary(str(poor), store, STATISTICS, None)
    edge = Boundary(store.path, store, STATISTICS, None)
    edge.refuse_missing(np.array([hour(0), hour(1)]), LEAD, 2, "x")
    with pytest.raises(ValueError, match=r"s.zarr has no 2024-05-20T04:00, .* \(1 of 4 are missing\). Fix: less"):
        edge.refuse_missing(np.array([hour(0), hour(2)]), LEAD, 2, "less")


# ---- the commands


def persistent(monkeypatch, store, run_dir, **constants):
    """best.pt of a run that never learns: its forecasts are persistence."""
    monkeypatch.setattr(train_deterministic.Optimizer, "step", lambda self, *_: self.clear())
    assert train(store, run_dir, **constants) == 0
    return run_dir / "best.pt"


def test_a_forecast_has_the_edge_of_the_boundary_store_at_every_step(tmp_path, monkeypatch, command):
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)], NAMES)
    outer = write_store(tmp_path / "b.zarr", lambda n, t: weather(n, t) + 2, [hour(n) for n in range(20, 50)], NAMES)
    best, out = persistent(monkeypatch, path, tmp_path / "run"), tmp_path / "f.zarr"
    arguments = ("--checkpoint", best, "--zarr", path, "--out", out, "--init_time", hour(36), "--boundary", outer)
    code, _, err = command(infer_iterative, *arguments, "--hours", 4)
    assert code == 0, err
    forecast = xr.open_zarr(out)
    assert forecast.attrs["boundary"] == str(outer)
    for name in NAMES:
        for k in range(1, 5):
            field = forecast[name][0, k].values
            assert np.allclose(field[EDGE], weather(name, hour(36 + k))[EDGE] + 2, atol=1e-3), (name, k)
            assert np.allclose(field[INNER], weather(name, hour(36))[INNER], atol=1e-3), (name, k)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    code, _, err = command(infer_iterative, *arguments, "--hours", 14)  # to hour 50; the store ends with 49
    assert code == 2 and err.count("\n") == 1
    assert "b.zarr has no 2024-05-22T02:00" in err and "Fix: fewer --hours" in err
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_training_refuses_a_boundary_store_that_ends_too_early(tmp_path, command):
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)], NAMES)
    short = write_store(tmp_path / "b.zarr", weather, [hour(n) for n in range(20)], NAMES)
    arguments = ("--zarr", path, "--run_dir", tmp_path / "run", "--boundary", short, "--epochs", 5, *TINY)
    code, _, err = command(train_deterministic, *arguments)
    assert code == 2 and err.count("\n") == 1 and "b.zarr has no 2024-05-20T20:00" in err and "Fix: " in err
    assert not (tmp_path / "run").exists()


# ---- roll-out training, with and without a boundary

SLOPE = 1 + 0.5 * np.random.default_rng(0).normal(size=(12, 16)).clip(-1.5, 1.5)


def rising(name: str, time: np.datetime64) -> np.ndarray:
    """Each cell warms by a steady amount of its own, SLOPE K an hour: k hours of persistence are wrong by k SLOPE."""
    return 250 + SLOPE * float((time - hour(0)) / np.timedelta64(1, "h"))


@pytest.mark.parametrize("boundary", [False, True])
def test_the_last_epochs_train_every_lead_from_the_models_own_forecasts(boundary, tmp_path, monkeypatch):
    path = write_store(tmp_path / "s.zarr", rising, [hour(n) for n in range(40)])
    errors, loss = [], train_deterministic.WeatherLoss.__call__

    def spy(self, error, *rest):
        errors.append(-error[0, 0].numpy())
        return loss(self, error, *rest)

    monkeypatch.setattr(train_deterministic.WeatherLoss, "__call__", spy)
    best = persistent(monkeypatch, path, tmp_path / "run", epochs=5, rollout_epochs=1, validate_every=5, noise=0.0,
                      flip=False, boundary=str(path) if boundary else "")  # fmt: skip
    checkpoint = torch.load(best, weights_only=True)
    pairs, change = checkpoint["split"]["pairs"]["train"], checkpoint["statistics"]["T2M"]["change_std"]
    late = np.array(errors) * change / SLOPE  # hours by which each cell of the prediction is late
    steps = 3 * -(-pairs // 3)  # roll-outs of three hours, with as many gradients as an epoch of pairs
    assert np.allclose(late[-4 * pairs - steps : -steps], 1, atol=1e-3)  # four epochs of pairs
    leads = late[-steps:, INNER].mean(axis=1).round()
    assert leads.tolist() == [1, 2, 3] * (steps // 3) and np.allclose(late[-steps:, INNER], leads[:, None], atol=1e-3)
    # the edge of a forecast of k - 1 hours is the truth: only the last hour is missing in it
    assert np.allclose(late[-steps:, EDGE], 1 if boundary else leads[:, None], atol=1e-3)

"""The linear regression: it finds the coefficients that made a record, and carries the daily cycle on by itself."""

from dataclasses import replace
from unittest import mock

import numpy as np
import torch

import train_deterministic
from forecaster import forecast, load_model
from models.regression import PRIOR, fit_regression, regress
from models.rollout import rollout
from models.unet import ResidualUNet
from tests.conftest import SIZES, hour, weather, write_store
from training.checkpoint import load_checkpoint


def pairs_of(series: torch.Tensor, history: int):
    """(states, target) of a series (N, C, H, W), as training reads them."""
    for now in range(history, len(series) - 1):
        yield series[None, now - history : now + 1], series[None, now + 1]


def made(coefficients: torch.Tensor, scale: torch.Tensor, hours: int = 400) -> torch.Tensor:
    """A series (N, 2, 4, 5) whose change is coefficients (C, 2) times (state, last change), and a little noise."""
    torch.manual_seed(0)
    series = [torch.randn(2, 4, 5), torch.randn(2, 4, 5)]
    a, b, unit = coefficients[:, 0, None, None], coefficients[:, 1, None, None], scale[:, None, None]
    for _ in range(hours):
        now, before = series[-1], series[-2]
        series.append(now + unit * (a * now + b * (now - before) / unit + 0.5 * torch.randn_like(now)))
    return torch.stack(series)


def test_it_finds_the_coefficients_that_made_a_record():
    coefficients, scale = torch.tensor([[-0.4, 0.3], [-0.2, -0.5]]), torch.tensor([0.5, 0.8])
    weights = fit_regression(pairs_of(made(coefficients, scale), 1), scale)
    of_change, of_state = -weights[:, 0] * scale, weights.sum(dim=1)
    found = torch.stack([of_state, of_change], dim=1)
    assert weights.shape == (2, 2) and (found - coefficients).abs().max() < 0.03


def test_it_is_ridge_regression_as_numpy_has_it():
    """One variable, few hours: least squares with two rows more, which say `no change`."""
    scale, series = (
        torch.tensor([0.5, 0.8]),
        made(torch.tensor([[-0.4, 0.3], [-0.2, -0.5]]), torch.tensor([0.5, 0.8]), 6),
    )
    weights = fit_regression(pairs_of(series, 2), scale)
    x = series[:, 1].double().reshape(len(series), -1).numpy()  # the second variable
    now, unit, cells = np.arange(2, len(x) - 1), 0.8, x.shape[1]
    terms = [x[now], (x[now] - x[now - 1]) / unit, (x[now - 1] - x[now - 2]) / unit]
    rows = np.stack([t.ravel() for t in terms], axis=1) / np.sqrt(cells)
    change = ((x[now + 1] - x[now]) / unit).ravel() / np.sqrt(cells)
    rows, change = np.vstack([rows, np.sqrt(PRIOR) * np.eye(3)]), np.append(change, np.zeros(3))
    a = np.linalg.lstsq(rows, change, rcond=None)[0]
    expected = [-a[2] / unit, (a[2] - a[1]) / unit, a[0] + a[1] / unit]
    np.testing.assert_allclose(weights[1], expected, rtol=1e-5)


def test_cells_that_are_missing_in_every_hour_do_not_count():
    coefficients, scale = torch.tensor([[-0.4, 0.3], [-0.2, -0.5]]), torch.tensor([0.5, 0.8])
    series, valid = made(coefficients, scale, 50), torch.ones(2, 4, 5, dtype=torch.bool)
    whole = fit_regression(pairs_of(series[..., :3], 1), scale)
    valid[..., 3:] = False
    spoilt = series.masked_fill(~valid, 0.0)
    torch.testing.assert_close(fit_regression(pairs_of(spoilt, 1), scale, valid), whole)
    valid[1] = False  # a variable that is missing everywhere stays as it is
    assert not fit_regression(pairs_of(series.masked_fill(~valid, 0.0), 1), scale, valid)[1].any()


def test_the_model_with_nothing_but_a_day_of_history_goes_on_with_the_daily_cycle():
    hours = torch.arange(24 * 12)
    day = torch.sin(2 * np.pi * hours / 24) + 0.4 * torch.sin(4 * np.pi * hours / 24 + 1)
    series = (day[:, None, None, None] + torch.linspace(-1, 1, 8)).expand(-1, 1, 8, 8).contiguous()
    scale = (series[1:] - series[:-1]).std().reshape(1)
    model = ResidualUNet(1, 0, 8, base_features=4, levels=1, blocks=1, history=24, scale=scale, regression=True)
    model.regression.copy_(fit_regression(pairs_of(series[: 24 * 10], 24), scale))
    states = series[None, 24 * 10 - 25 : 24 * 10]
    forcing, limit = (torch.zeros(1, 0, 8, 8), torch.zeros(1, 8)), lambda x: (x, torch.zeros(1, 1))
    steps = rollout(model, states, lambda k: forcing, scale[:, None, None], limit, 24)
    after = torch.cat([state for state, _ in steps])
    error, persistence = (x - series[24 * 10 : 24 * 11] for x in (after, series[None, 24 * 10 - 1][0]))
    assert error.std() < 0.1 * persistence.std()


def test_each_state_has_its_weight():
    states, weights = torch.randn(2, 3, 2, 4, 5), torch.randn(2, 3)
    torch.testing.assert_close(regress(states, weights), torch.einsum("btchw,ct->bchw", states, weights))


def test_a_run_fits_it_keeps_it_and_forecasts_with_it(tmp_path, monkeypatch):
    """At rates that train nothing, the forecast is that of the regression; a run that goes on has the same one."""
    monkeypatch.setattr(train_deterministic, "save_loss_curves", lambda log, path: None)
    store = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)])
    constants = {"zarr": str(store), "run_dir": str(tmp_path / "run"), "regression": True, "lr": 1e-12, "muon_lr": 0.0}
    first = train_deterministic.Config(**SIZES | constants | {"epochs": 1, "rollout_epochs": 0})
    assert train_deterministic.main(first) == 0
    before = load_checkpoint(tmp_path / "run" / "last.pt")
    with mock.patch.object(train_deterministic, "fit_regression", side_effect=AssertionError("fitted twice")):
        assert train_deterministic.main(replace(first, epochs=2)) == 0
    model = load_model(tmp_path / "run" / "best.pt", "cpu")
    weights = model.network.regression
    assert torch.equal(weights, before["ema"]["regression"]) and weights.abs().min() > 0
    field = lambda n: torch.from_numpy(weather("T2M", hour(n)))  # noqa: E731
    mean, std, scale = (float(getattr(model.statistics, k).flatten()[0]) for k in ("mean", "std", "scale"))
    last, now = ((field(n) - mean) / std for n in (30, 31))
    expected = (now + scale * (last * weights[0, 0] + now * weights[0, 1])) * std + mean
    found = forecast(model, store, hour(31), hours=1).T2M.values[0, 1]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - field(31).numpy()).max() > 0.05

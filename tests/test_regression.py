"""The linear regression: it finds the coefficients that made a record, and carries the daily cycle on by itself."""

import numpy as np
import torch

from models.regression import PRIOR, fit_regression, regress
from models.rollout import rollout
from models.unet import ResidualUNet


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

"""The linear regression: it finds the coefficients that made a record, and continues the daily cycle by itself."""

import numpy as np
import pytest
import torch

from models.regression import PRIOR, fit_regression
from models.rollout import rollout
from models.unet import ResidualUNet

COEFFICIENTS, SCALE = torch.tensor([[-0.4, 0.3], [-0.2, -0.5]]), torch.tensor([0.5, 0.8])[:, None, None]


def pairs_of(series: torch.Tensor, history: int):
    """(states (T, C, H, W), target (C, H, W)) of a series (N, C, H, W), as training gives them."""
    for now in range(history, len(series) - 1):
        yield series[now - history : now + 1], series[now + 1]


def made(hours: int = 400) -> torch.Tensor:
    """A series (N, 2, 4, 5) whose change is COEFFICIENTS (C, 2) times (state, last change), and a little noise."""
    torch.manual_seed(0)
    series = [torch.randn(2, 4, 5), torch.randn(2, 4, 5)]
    a, b = COEFFICIENTS[:, 0, None, None], COEFFICIENTS[:, 1, None, None]
    for _ in range(hours):
        now, before = series[-1], series[-2]
        series.append(now + SCALE * (a * now + b * (now - before) / SCALE + 0.5 * torch.randn_like(now)))
    return torch.stack(series)


def test_it_finds_the_coefficients_that_made_a_record():
    weights = fit_regression(pairs_of(made(), 1), SCALE)
    of_change, of_state = -weights[:, 0] * SCALE.flatten(), weights.sum(dim=1)
    assert weights.shape == (2, 2)
    assert (torch.stack([of_state, of_change], dim=1) - COEFFICIENTS).abs().max() < 0.03


def test_it_is_ridge_regression_as_numpy_has_it():
    """One variable, few hours: least squares with a few rows more, which say `no change`."""
    series = made(6)
    weights = fit_regression(pairs_of(series, 2), SCALE)
    x = series[:, 1].double().reshape(len(series), -1).numpy()  # the second variable
    now, unit, cells = np.arange(2, len(x) - 1), 0.8, x.shape[1]
    terms = [x[now], (x[now] - x[now - 1]) / unit, (x[now - 1] - x[now - 2]) / unit]
    rows = np.stack([t.ravel() for t in terms], axis=1) / np.sqrt(cells)
    change = ((x[now + 1] - x[now]) / unit).ravel() / np.sqrt(cells)
    rows, change = np.vstack([rows, np.sqrt(PRIOR) * np.eye(3)]), np.append(change, np.zeros(3))
    a = np.linalg.lstsq(rows, change, rcond=None)[0]
    np.testing.assert_allclose(weights[1], [-a[2] / unit, (a[2] - a[1]) / unit, a[0] + a[1] / unit], rtol=1e-5)


def test_masked_cells_do_not_count():
    series, valid = made(50), torch.ones(2, 4, 5, dtype=torch.bool)
    whole = fit_regression(pairs_of(series[..., :3], 1), SCALE)
    valid[..., 3:] = False
    torch.testing.assert_close(fit_regression(pairs_of(series.masked_fill(~valid, 7.0), 1), SCALE, valid), whole)
    valid[1] = False  # a variable that is masked everywhere stays as it is
    assert not fit_regression(pairs_of(series, 1), SCALE, valid)[1].any()


def test_a_model_with_a_day_of_history_and_nothing_else_continues_the_daily_cycle():
    hours = torch.arange(24 * 12)
    day = torch.sin(2 * np.pi * hours / 24) + 0.4 * torch.sin(4 * np.pi * hours / 24 + 1)
    series = (day[:, None, None, None] + torch.linspace(-1, 1, 8)).expand(-1, 1, 8, 8).contiguous()
    scale = (series[1:] - series[:-1]).std().reshape(1, 1, 1)
    model = ResidualUNet(1, 0, 8, base_features=4, levels=1, history=24, scale=scale, regression=True)
    model.regression.copy_(fit_regression(pairs_of(series[: 24 * 10], 24), scale))
    states, forcing = series[None, 24 * 10 - 25 : 24 * 10], (torch.zeros(1, 0, 8, 8), torch.zeros(1, 8))
    after = torch.cat(list(rollout(model, states, lambda k: forcing, scale, lambda x, k: x, 24)))
    error, persistence = (x - series[24 * 10 : 24 * 11] for x in (after, series[24 * 10 - 1]))
    assert error.std() < 0.1 * persistence.std()


def test_the_regression_is_part_of_the_checkpoint_only_where_it_is_asked_for():
    with_it, without = (ResidualUNet(1, 0, 8, base_features=4, regression=r).state_dict() for r in (True, False))
    assert with_it.keys() - without.keys() == {"regression"}
    with pytest.raises(RuntimeError, match="regression"):
        ResidualUNet(1, 0, 8, base_features=4, regression=True).load_state_dict(without)

"""Boundary data: the strip's weights by the formula, and forecasts whose edge is that of the boundary store."""

import math

import numpy as np
import pytest
import torch

from data.boundary import Boundary, davies
from data.forcing import CLOCK_FEATURES, Forcing
from data.normalise import Statistics, denormalise, limiter
from data.store import Store
from models.rollout import rollout
from models.unet import ResidualUNet
from tests.conftest import hour, small_grid, weather, write_store

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
NAMES = ("T2M", "U10")
STATISTICS = Statistics(NAMES, torch.tensor([290.0, 0.0]), torch.tensor([4.0, 3.0]), torch.tensor([1.0, 1.0]))
EDGE = np.ones((12, 16), bool)
EDGE[1:-1, 1:-1] = False  # 12 x 16 cells: a strip of one cell


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


def test_every_step_of_a_forecast_has_the_edge_of_the_boundary_store_at_its_time(store, tmp_path):
    """An untrained model is persistence, so the cells inside stay those of the analysis."""
    warmer = write_store(tmp_path / "b.zarr", lambda n, t: weather(n, t) + 2, [hour(n) for n in range(9)], NAMES)
    edge, times = Boundary(str(warmer), store, STATISTICS, None), np.array([hour(1), hour(3)])
    forcing, limit = Forcing(store.grid, LEAD, NAMES, None), limiter(STATISTICS)
    model = ResidualUNet(2, len(forcing.names), CLOCK_FEATURES, 4, 1, 0, STATISTICS.scale)
    states = Boundary(store.path, store, STATISTICS, None).fields(times)[:, None]
    finish = lambda x, k: edge.nudge(limit(x)[0], edge.fields(times + (k + 1) * LEAD))  # noqa: E731
    forecast = rollout(model, states, lambda k: forcing(times + k * LEAD), STATISTICS.scale, finish, 4)
    for k, state in enumerate(forecast):
        for b, start in enumerate((1, 3)):
            for field, name in zip(denormalise(state[b], STATISTICS), NAMES, strict=True):
                np.testing.assert_allclose(field[EDGE], weather(name, hour(start + k + 1))[EDGE] + 2, atol=1e-3)
                np.testing.assert_allclose(field[~EDGE], weather(name, hour(start))[~EDGE], atol=1e-3)


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

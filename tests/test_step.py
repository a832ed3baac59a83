"""One training step (train_deterministic.learn): what network and loss are given, and which operations run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from data.boundary import davies
from data.forcing import CLOCK_FEATURES, Forcing
from data.normalise import Statistics, limiter
from losses.weather import TERMS, WeatherLoss
from models.unet import ResidualUNet
from tests.conftest import hour, small_grid
from train_deterministic import Config, Parts, learn
from training.optimizer import Optimizer
from training.schedule import Batch, generator

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
NAMES = ("REFC", "T2M", "U10")
STATISTICS = Statistics(
    NAMES, torch.tensor([5.0, 290.0, 0.0]), torch.tensor([8.0, 4.0, 3.0]), torch.tensor([4.0, 1.0, 1.5])
)
SCALE = STATISTICS.scale
MASK = torch.zeros(3, 12, 16, dtype=torch.bool)
MASK[0, :, :3] = True


class Rising(torch.nn.Module):
    """Stands in for the network: adds `rise` to each field, and keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.rise, self.seen = torch.nn.Parameter(torch.tensor([0.5, 1.0, 1.5])), []

    def forward(self, states, forcing, clock):
        self.seen.append((states.clone(), forcing.clone(), clock.clone()))
        return self.rise[:, None, None].expand_as(states[:, -1]).clone()


def parts(network=None, mask=MASK, edge=None, loss=None, **constants) -> Parts:
    cfg = Config(**{"flip": False, "noise": 0.0, "base_features": 4, "levels": 1, **constants})
    forcing = Forcing(small_grid(), LEAD, NAMES, mask)
    torch.manual_seed(0)
    model = ResidualUNet(3, len(forcing.names), CLOCK_FEATURES, cfg.base_features, cfg.levels, cfg.history, SCALE, True)
    torch.nn.init.normal_(model.head.weight, std=0.05)
    optimizer = Optimizer(model, 0.001, 0.0, 1.0, torch.float32)
    if network is not None:
        optimizer = SimpleNamespace(network=network, collect=lambda: None)
    loss = loss or WeatherLoss(cfg.loss_weights, cfg.detail)
    return Parts(cfg, optimizer, loss, forcing, limiter(STATISTICS, mask), STATISTICS, mask, edge, LEAD)


def tensors(batch: Batch, size=1, edge=None) -> tuple:
    g = torch.Generator().manual_seed(1)
    draw = lambda: torch.randn(size, 3, 12, 16, generator=g).masked_fill(MASK, 0.0)  # noqa: E731
    times = np.array([hour(n) for n in range(size)])
    edges = [draw() for _ in range(batch.skip + batch.steps - 1)] if edge else []
    return times, torch.stack([draw(), draw()], dim=1), [draw() for _ in range(batch.steps)], edges


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
        self.names.append(f"{function} {shapes}")
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("batch", [Batch((0,), 0, 1, 1.0), Batch((0,), 1, 2, 0.5)])
def test_every_step_has_the_same_operations_and_none_waits_for_the_device(batch):
    """So a step can be captured as a graph: no draw changes a shape or a choice, and no value is read back."""
    weight = davies((12, 16))
    edge = SimpleNamespace(nudge=lambda state, other: state + weight * (other - state))
    setup, given, found = parts(edge=edge, flip=True, noise=0.05), tensors(batch, edge=edge), []
    for draw in range(13):
        with Operations() as seen:
            learn(setup, batch, given, generator(0, draw))
        found.append(seen.names)
    assert len(found[0]) > 300 and all(names == found[1] for names in found[1:])  # the first fills tables
    assert not [n for n in found[1] if "_local_scalar_dense" in n or "nonzero" in n]
    from_python = sum("lift_fresh" in n for n in found[1])
    assert from_python == 2 * (batch.skip + batch.steps)  # sun and clock, which are sent without a wait


def test_the_gradient_of_the_networks_output_is_that_of_the_loss_times_the_share():
    network, batch = Rising(), Batch((0,), 0, 1, 0.25)
    given = tensors(batch)
    given[1][:, :, 0].abs_()  # no reflectivity below 0, where no gradient passes
    setup = parts(network)
    sums = learn(setup, batch, given, generator(0))
    pred = given[1][:, -1] / SCALE + network.rise.detach()[:, None, None]
    value, terms, slope = setup.loss(pred - given[2][0] / SCALE, given[2][0] / SCALE, ~MASK)
    torch.testing.assert_close(network.rise.grad, 0.25 * slope.sum(dim=(0, 2, 3)))
    torch.testing.assert_close(sums, torch.stack([torch.ones(()), value, *(terms[n].mean() for n in TERMS)]))


def test_a_roll_out_is_clipped_reset_in_masked_cells_and_compared_with_the_truth_of_its_hour():
    network, batch, compared = Rising(), Batch((0,), 1, 2, 0.5), []
    loss = WeatherLoss((0.4, 0.3, 0.2, 0.1), 12.0)
    times, states, truth, _ = tensors(batch)

    def spy(error, target, valid, lead):
        compared.append(((error + target) * SCALE, target * SCALE, valid, lead))
        return loss(error, target, valid, lead)

    states[:, :, 1] = 12.4  # 339.6 K: two steps of 1 K would pass 340 K
    learn(parts(network, loss=spy), batch, (times, states, truth, []), generator(0))
    step = SCALE * network.rise.detach()[:, None, None]
    limit, state = limiter(STATISTICS, MASK), states[:, -1]
    for k, (seen, forcing, clock) in enumerate(network.seen):
        torch.testing.assert_close(seen[:, -1], state)
        assert not seen[:, -1][:, MASK].any()
        expected = Forcing(small_grid(), LEAD, NAMES, MASK)(times + k * LEAD)
        assert torch.equal(forcing, expected[0]) and torch.equal(clock, expected[1])
        state = limit(state + step)[0]  # what the loss sees, and the next step
        if k >= batch.skip:
            pred, target, valid, lead = compared[k - batch.skip]
            torch.testing.assert_close(target, truth[k - batch.skip])
            torch.testing.assert_close(pred[:, ~MASK], state[:, ~MASK])
            assert torch.equal(valid, ~MASK) and lead == k + 1
    assert len(network.seen) == 3 and len(compared) == 2 and state[0, 1].max() == 12.5


def test_beyond_a_bound_no_gradient_leads_further_out():
    network, batch = Rising(), Batch((0,), 0, 1, 1.0)
    upward = torch.where(torch.arange(16) < 4, -1.0, 1.0).expand(1, 3, 12, 16)  # descent raises a quarter of the cells
    terms = {n: torch.zeros(3) for n in TERMS}
    times, states, truth, _ = tensors(batch)
    states[:, :, 1] = 12.4  # with the rise beyond 340 K
    given = (times, states, truth, [])
    learn(parts(network, None, loss=lambda *_: (torch.zeros(()), terms, upward.clone())), batch, given, generator(0))
    assert network.rise.grad[1:].tolist() == [12 * 12.0, 12 * (12.0 - 4.0)]  # T2M, and U10 inside its bounds


def test_the_edge_of_a_roll_out_is_drawn_to_the_boundary_of_its_hour():
    network, batch, asked = Rising(), Batch((0,), 0, 3, 1 / 3), []

    def nudge(state, other):
        asked.append(other)
        return other

    edge = SimpleNamespace(nudge=nudge)
    given = tensors(batch, edge=edge)
    learn(parts(network, edge=edge), batch, given, generator(0))
    assert len(asked) == 2
    for k in range(2):
        assert torch.equal(network.seen[k + 1][0][:, -1], given[3][k])


def test_mirrors_turn_states_truth_forcing_and_mask_alike():
    batch, orientations, compared = Batch((0,), 0, 2, 0.5), set(), []
    loss = WeatherLoss((0.4, 0.3, 0.2, 0.1), 12.0)

    def spy(error, target, valid, lead):
        compared.append((target * SCALE, valid))
        return loss(error, target, valid, lead)

    for draw in range(16):
        network, given = Rising(), tensors(batch)
        compared.clear()
        learn(parts(network, loss=spy, flip=True), batch, given, generator(draw))
        options = [[d for d, flip in ((-2, y), (-1, x)) if flip] for y in (0, 1) for x in (0, 1)]
        turned = lambda x, dims: x.flip(dims) * torch.tensor([1, 1, -1 if -1 in dims else 1])[:, None, None]  # noqa: E731
        dims = next(d for d in options if torch.allclose(turned(given[1], d), network.seen[0][0]))
        orientations.add(tuple(dims))
        terrain = parts().forcing.names.index("orography")
        for k in range(2):
            torch.testing.assert_close(compared[k][0], turned(given[2][k], dims))
            assert torch.equal(compared[k][1], ~MASK.flip(dims))
            fields = parts().forcing(given[0] + k * LEAD)[0]
            assert torch.equal(network.seen[k][1][:, terrain], fields[:, terrain].flip(dims))
    assert len(orientations) == 4


def test_input_noise_has_the_stated_size_and_spares_masked_cells_and_the_truth():
    batch, differences = Batch((0,) * 8, 0, 1, 1.0), []
    for noise in (0.0, 0.1):
        network = Rising()
        learn(parts(network, noise=noise), batch, tensors(batch, 8), generator(0))
        differences.append(network.seen[0][0])
    found = differences[1] - differences[0]
    assert not found[:, :, MASK].any()
    for c in range(3):
        assert found[:, :, c][..., ~MASK[c]].std().item() == pytest.approx(0.1 * SCALE[c].item(), rel=0.05)

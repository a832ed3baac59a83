"""The network: persistence at the start, transport by a known flow, and artefacts that its design rules out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from losses.weather import WeatherLoss
from models.layers import Unfold, advect
from models.rollout import forecast_step, rollout
from models.unet import ResidualUNet


def net(channels=3, forcing=2, trained=True, seed=0, **size) -> ResidualUNet:
    torch.manual_seed(seed)
    model = ResidualUNet(channels, forcing, 8, **{"base_features": 8, "levels": 2, **size})
    if trained:  # outputs that are not zero, as after training
        nn.init.normal_(model.head.weight, std=0.1)
        nn.init.normal_(model.flow.weight, std=0.03)
    return model


def inputs(shape, channels=3, forcing=2, batch=2, history=1) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    states = torch.randn(batch, 1 + history, channels, *shape)
    return states, torch.randn(batch, forcing, *shape), torch.randn(batch, 8)


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(9, 9), (13, 8), (17, 40), (3, 5)])
def test_an_untrained_model_is_persistence_and_a_trained_one_keeps_the_shape(levels, shape):
    states, *rest = inputs(shape)
    after = forecast_step(net(trained=False, levels=levels), states, *rest, torch.ones(3, 1, 1))
    assert (after - states[:, -1]).abs().max() < 2e-5  # in units of the change, for fields of as much detail
    out = net(levels=levels)(states, *rest)
    assert out.shape == (2, 3, *shape) and out.isfinite().all() and out.std() > 0.01


def test_channels_come_out_in_the_order_in_which_they_went_in():
    model = net(trained=False)
    with torch.no_grad():
        model.head.bias[1] = 5.0
    out = model(*inputs((8, 8)))
    assert torch.allclose(out[:, 1], torch.tensor(5.0)) and out[:, [0, 2]].abs().max() < 2e-5


def test_the_residual_is_in_units_of_the_change():
    one = lambda states, forcing, clock: torch.ones_like(states[:, -1])  # noqa: E731
    after = forecast_step(one, torch.full((1, 1, 2, 4, 4), 3.0), None, None, torch.tensor([0.5, 2.0])[:, None, None])
    assert after[0, 0].unique().tolist() == [3.5] and after[0, 1].unique().tolist() == [5.0]


def test_the_changes_before_now_reach_the_network_in_units_of_the_change():
    model = net(1, 0, scale=torch.tensor([0.5]), levels=1)
    states = torch.zeros(1, 2, 1, 8, 8)
    states[:, 1] = 2.0
    now, joined = model.read(states, torch.zeros(1, 0, 8, 8), torch.float32)
    assert now.unique().tolist() == [2.0] and joined.shape[1] == 8  # a multiple of eight, filled with zeros
    assert [joined[0, c].unique().tolist() for c in range(3)] == [[2.0], [4.0], [0.0]]


def test_a_case_depends_neither_on_its_batch_nor_on_how_large_the_domain_is():
    assert not [m for m in net().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.GroupNorm)]
    model, (states, forcing, clock) = net(levels=1, base_features=4), inputs((128, 128))
    with torch.no_grad():
        together = model(states, forcing, clock)[:1]
        assert torch.allclose(together, model(states[:1], forcing[:1], clock[:1]), atol=1e-4)
        crop, middle = slice(16, 112), slice(44, 52)
        part = model(states[:1, ..., crop, crop], forcing[:1, :, crop, crop], clock[:1])
    assert torch.allclose(together[..., crop, crop][..., middle, middle], part[..., middle, middle], atol=1e-4)


def test_a_uniform_field_stays_uniform_inside():
    """Nothing in the input tells cells apart, so a pattern in the output would come from the sampling."""
    with torch.no_grad():
        out = net(base_features=4, levels=1)(*(torch.ones(1, *s) for s in ((2, 3, 128, 128), (2, 128, 128), (8,))))
    inside = out[..., 56:72, 56:72]
    assert out.abs().max() > 0.01 and (inside - inside[..., :1, :1]).abs().max() < 1e-5


def test_the_head_cannot_make_a_wave_of_two_cells():
    """Whatever one feature writes, each row and each column of it has no part of the wavelength of two cells."""
    torch.manual_seed(0)
    head, features = Unfold(4, 3), torch.zeros(1, 4, 5, 5)
    nn.init.normal_(head.weight)
    features[:, :, 2, 2] = torch.randn(4)
    out = head(features)
    sign = (-1.0) ** torch.arange(10)
    assert out.abs().max() > 0.1
    assert (out @ sign).abs().max() < 1e-5 and (sign @ out).abs().max() < 1e-5


def test_clock_and_forcing_reach_the_output():
    model, (states, forcing, clock) = net(), inputs((16, 16))
    out = model(states, forcing, clock)
    assert not torch.allclose(out, model(states, forcing, clock + 1), atol=1e-3)
    assert not torch.allclose(out, model(states, forcing + 1, clock), atol=1e-3)


# ---- transport


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_the_model_moves_a_blob_by_the_flow_that_it_gives(levels):
    model = net(2, 0, trained=False, levels=levels, scale=torch.tensor([0.5, 2.0]))
    with torch.no_grad():
        model.flow.bias[2:4] = torch.tensor([4.0, -3.0])  # of the second channel
    states = torch.zeros(1, 2, 2, 21, 24)
    states[:, :, :, 8:12, 6:10] = 1.0
    after = forecast_step(model, states, torch.zeros(1, 0, 21, 24), torch.zeros(1, 8), model.scale)
    expected = states[:, -1].clone()
    expected[:, 1] = expected[:, 1].roll((-3, 4), (-2, -1))
    assert torch.allclose(after, expected, atol=1e-4)


def test_a_wave_moved_by_half_a_cell_keeps_its_height():
    x = torch.arange(48.0)
    wave = lambda x: torch.cos(2 * torch.pi * x / 8)  # noqa: E731
    flow = torch.zeros(1, 2, 12, 48)
    flow[:, 0] = 0.5
    moved = advect(wave(x).expand(1, 1, 12, 48), flow)
    assert (moved[0, 0, 6, 4:-4] - wave(x - 0.5)[4:-4]).abs().max() < 0.03  # bilinear: 0.08


def test_the_model_learns_where_things_go():
    """A field that moves by 2 cells a step, in two frames."""
    model = net(1, 0, trained=False, base_features=8, levels=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        long = F.avg_pool2d(torch.randn(4, 1, 32, 44), 5, 1, 2) * 5
        frames = [long[..., 8 - 2 * k : 40 - 2 * k] for k in range(3)]
        states = torch.stack(frames[:2], dim=1)
        pred = forecast_step(model, states, torch.zeros(4, 0, 32, 32), torch.zeros(4, 8), torch.ones(1, 1, 1))
        loss = (pred - frames[2]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.3 * (frames[1] - frames[2]).square().mean()


# ---- memory and speed


def test_lean_gives_the_output_and_the_gradient_of_fast():
    found = []
    for lean in (False, True):
        model = net(lean=lean)
        states, *rest = inputs((17, 20))
        out = model(states.requires_grad_(), *rest)
        out.square().mean().backward()
        found.append([out.detach(), states.grad, *(p.grad for p in model.parameters())])
    for fast, lean in zip(*found, strict=True):
        assert torch.allclose(fast, lean, rtol=1e-5, atol=1e-6 * fast.abs().max().item())


@pytest.mark.filterwarnings("ignore:Dynamo detected")
def test_forward_and_loss_compile_to_one_graph():
    """With the backend aot_eager: inductor compiles the same graph, in minutes on a CPU."""
    model, loss = net(levels=1, base_features=4), WeatherLoss((0.4, 0.3, 0.2, 0.1), 12.0)
    states, *rest = inputs((17, 20))
    target = torch.randn(2, 3, 17, 20)

    def step(states, forcing, clock, target):
        pred = model(states, forcing, clock)
        return pred, loss(pred.detach() - target, target)

    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        pred, (value, _, gradient) = compiled(states, *rest, target)
        pred.backward(gradient)
    found = [value, gradient, *(p.grad.clone() for p in model.parameters())]
    model.zero_grad()
    pred, (value, _, gradient) = step(states, *rest, target)
    pred.backward(gradient)
    for a, b in zip(found, [value, gradient, *(p.grad for p in model.parameters())], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


# ---- roll-outs


def test_a_rollout_feeds_each_finished_state_and_its_own_forcing_to_the_next_step():
    seen = []

    def double(states, forcing, clock):
        seen.append((states[0, :, 0, 0, 0].tolist(), forcing.item()))
        return states[:, -1]

    start = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1)
    forcing_at = lambda k: (torch.tensor(10.0 + k), None)  # noqa: E731
    finish = lambda state, k: state.clamp(max=7.0) + 0.5 * k  # noqa: E731
    states = [s.item() for s in rollout(double, start, forcing_at, torch.ones(1, 1, 1), finish, 3)]
    assert states == [4.0, 7.5, 8.0]
    assert seen == [([1.0, 2.0], 10.0), ([2.0, 4.0], 11.0), ([4.0, 7.5], 12.0)]

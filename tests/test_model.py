"""The network: shapes, persistence at the start, and artefacts that its design rules out."""

import numpy as np
import pytest
import torch
from torch import nn

from models.rollout import push, rollout, rollout_step
from models.unet import ResidualUNet
from models.warp import warp


def net(channels=3, forcing=2, trained=True, **size) -> ResidualUNet:
    torch.manual_seed(0)
    model = ResidualUNet(channels, forcing, 8, **{"base_features": 8, "levels": 2, "blocks": 1, **size})
    if trained:  # heads that are not zero, as after training
        nn.init.normal_(model.head.weight, std=0.1)
        nn.init.normal_(model.flow_head.weight, std=0.03)
    return model.eval()


@pytest.mark.parametrize("shape", [(8, 8), (8, 31), (9, 9), (13, 8), (17, 40), (33, 49), (64, 64)])
def test_output_has_the_shape_of_the_state(shape):
    out = net()(torch.randn(2, 2, 3, *shape), torch.randn(2, 2, *shape), torch.randn(2, 8))
    assert out.shape == (2, 3, *shape) and out.isfinite().all() and out.std() > 0


def test_the_full_domain_is_odd_both_ways_and_fits():
    model = net(1, 0, base_features=1, levels=3, history=0)
    with torch.no_grad():
        out = model(torch.randn(1, 1, 1, 1059, 1799), torch.zeros(1, 0, 1059, 1799), torch.zeros(1, 8))
    assert out.shape == (1, 1, 1059, 1799)


def test_channels_come_out_in_the_order_they_went_in():
    model = net(trained=False)
    nn.init.constant_(model.head.bias, 0.0)
    with torch.no_grad():
        model.head.bias[1] = 5.0  # only channel 1 changes
    out = model(torch.randn(1, 2, 3, 8, 8), torch.randn(1, 2, 8, 8), torch.randn(1, 8))
    assert (out[:, 1] == 5).all() and (out[:, [0, 2]] == 0).all()


def test_an_untrained_step_is_exactly_persistence():
    states = torch.randn(2, 2, 3, 11, 14)
    after = rollout_step(net(trained=False), states, torch.randn(2, 2, 11, 14), torch.randn(2, 8), torch.ones(3, 1, 1))
    assert torch.equal(after, states[:, -1])


def test_the_tendency_is_in_units_of_the_change():
    class One(nn.Module):
        def forward(self, states, forcing, clock):
            return torch.ones_like(states[:, -1])

    scale = torch.tensor([0.1, 2.0])[:, None, None]
    after = rollout_step(One(), torch.zeros(1, 1, 2, 4, 4), None, None, scale)
    assert after[0, 0].unique().tolist() == pytest.approx([0.1]) and after[0, 1].unique().tolist() == [2.0]


def test_no_layer_mixes_the_batch_or_the_domain():
    assert not [m for m in net().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.GroupNorm)]
    model = net()
    state, forcing, clock = torch.randn(2, 2, 3, 16, 16), torch.randn(2, 2, 16, 16), torch.randn(2, 8)
    together, alone = model(state, forcing, clock)[:1], model(state[:1], forcing[:1], clock[:1])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_crop_gives_the_same_in_its_middle():
    """Statistics of the whole domain would make the middle depend on how large the domain is. (The place where a field
    is read during transport is rounded to about 1e-5 cells, and differently on another domain.)"""
    model = net(levels=0)
    state, forcing, clock = torch.randn(1, 2, 3, 96, 96), torch.randn(1, 2, 96, 96), torch.randn(1, 8)
    crop = slice(16, 80)
    whole = model(state, forcing, clock)[..., crop, crop][..., 20:-20, 20:-20]
    part = model(state[..., crop, crop], forcing[..., crop, crop], clock)[..., 20:-20, 20:-20]
    assert torch.allclose(whole, part, atol=1e-4)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("offset", [(0, 0), (1, 3), (6, 2), (7, 7)])
def test_an_offset_moves_the_coarse_cells_and_not_the_fields(offset, lean):
    """What the network is given is the same as with the padding put on by hand and taken off again."""
    model = net(lean=lean)
    state, forcing, clock = torch.randn(2, 2, 3, 42, 45), torch.randn(2, 2, 42, 45), torch.randn(2, 8)
    top, left = offset
    pad = lambda x: torch.nn.functional.pad(x, (left, 0, top, 0), mode="replicate")  # noqa: E731
    by_hand = model(torch.stack([pad(s) for s in state.unbind(1)], dim=1), pad(forcing), clock)[..., top:, left:]
    found = model(state, forcing, clock, offset=offset)
    inside = slice(4, -4)  # the refinement at full resolution repeats the edge where it is
    assert torch.allclose(found[..., inside, inside], by_hand[..., inside, inside], atol=1e-4)
    assert offset == (0, 0) or not torch.allclose(found, model(state, forcing, clock), atol=1e-2)


def test_a_uniform_field_stays_uniform():
    """No frame from zero padding and no checkerboard from upsampling: nothing in the input tells cells apart."""
    out = net()(torch.ones(1, 2, 3, 40, 48), torch.ones(1, 2, 40, 48), torch.randn(1, 8))
    spread = (out - out.mean(dim=(-2, -1), keepdim=True)).abs().max()
    assert out.abs().max() > 0.01 and spread < 1e-5


def test_the_clock_reaches_the_output():
    model = net()
    state, forcing = torch.randn(1, 2, 3, 16, 16), torch.randn(1, 2, 16, 16)
    assert not torch.allclose(model(state, forcing, torch.zeros(1, 8)), model(state, forcing, torch.ones(1, 8)))


def test_a_rollout_asks_for_each_steps_own_forcing_and_clips_between_steps():
    asked = []

    class Up(nn.Module):
        def forward(self, states, forcing, clock):
            return torch.ones_like(states[:, -1])

    def forcing_at(k):
        asked.append(k)
        return torch.zeros(1, 0, 4, 4), torch.zeros(1, 8)

    def limit(state):
        return state.clamp(max=2.5), (state > 2.5).float().mean(dim=(-2, -1))

    steps = list(rollout(Up(), torch.zeros(1, 1, 1, 4, 4), forcing_at, torch.ones(1, 1, 1), limit, 4))
    assert asked == [0, 1, 2, 3]
    assert [s.mean().item() for s, _ in steps] == [1.0, 2.0, 2.5, 2.5]
    assert np.allclose([c.item() for _, c in steps], [0, 0, 1, 1])


def test_a_blob_is_carried_by_a_known_flow():
    field = torch.zeros(1, 2, 12, 16)
    field[0, :, 5, 6] = 1.0
    flow = torch.zeros(1, 2, 2, 12, 16)
    flow[:, 0, 0], flow[:, 1, 0] = 3.0, -2.0  # the first field goes 3 cells along x and 2 back along y
    moved = warp(field, flow)
    assert moved[0, 0, 3, 9] == pytest.approx(1.0, abs=1e-5) and moved[0, 0].sum() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(moved[0, 1], field[0, 1])


def test_a_wave_moved_by_half_a_cell_keeps_its_height():
    x = torch.arange(48.0)
    field = torch.cos(2 * torch.pi * x / 8).expand(1, 1, 12, 48)
    flow = torch.zeros(1, 2, 1, 12, 48)
    flow[:, 0] = 0.5
    expected = torch.cos(2 * torch.pi * (x - 0.5) / 8)
    assert (warp(field, flow)[0, 0, 6, 4:-4] - expected[4:-4]).abs().max() < 0.03  # bilinear: 0.08


def test_standing_still_is_exact_and_still_has_a_gradient():
    field = torch.randn(1, 1, 9, 11)
    flow = torch.zeros(1, 2, 1, 9, 11, requires_grad=True)
    moved = warp(field, flow)
    assert torch.equal(moved, field)
    moved.square().sum().backward()
    assert flow.grad.abs().max() > 0.1


def test_the_model_can_learn_where_things_go():
    """A field moved by 2 cells per step, in two frames: the flow is found, and the change is not painted in place."""
    torch.manual_seed(0)
    model = net(1, 0, trained=False, base_features=8, levels=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        long = torch.nn.functional.avg_pool2d(torch.randn(4, 1, 32, 44), 5, 1, 2) * 5
        frames = [long[..., 8 - 2 * k : 40 - 2 * k] for k in range(3)]
        pred = rollout_step(
            model, torch.stack(frames[:2], 1), torch.zeros(4, 0, 32, 32), torch.zeros(4, 8), torch.ones(1, 1, 1)
        )
        loss = (pred - frames[2]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    persistence = (frames[1] - frames[2]).square().mean()
    assert loss < 0.3 * persistence


def test_push_drops_the_oldest_state():
    states = torch.arange(3.0).view(1, 3, 1, 1, 1)
    assert push(states, torch.full((1, 1, 1, 1), 9.0)).flatten().tolist() == [1.0, 2.0, 9.0]

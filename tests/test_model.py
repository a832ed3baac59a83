"""The network: shapes, persistence at the start, and artefacts that its design rules out."""

import numpy as np
import pytest
import torch
from torch import nn

from models.rollout import rollout, rollout_step
from models.unet import ResidualUNet


def net(channels=3, forcing=2, trained=True, **size) -> ResidualUNet:
    torch.manual_seed(0)
    model = ResidualUNet(channels, forcing, 8, **{"base_features": 8, "levels": 3, "blocks": 1, **size})
    if trained:  # a head that is not zero, as after training
        nn.init.normal_(model.head.weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize("shape", [(8, 8), (8, 31), (9, 9), (13, 8), (17, 40), (33, 49), (64, 64)])
def test_output_has_the_shape_of_the_state(shape):
    out = net()(torch.randn(2, 3, *shape), torch.randn(2, 2, *shape), torch.randn(2, 8))
    assert out.shape == (2, 3, *shape) and out.isfinite().all() and out.std() > 0


def test_the_full_domain_is_odd_both_ways_and_fits():
    model = net(1, 0, base_features=1, levels=3)
    with torch.no_grad():
        assert model(torch.randn(1, 1, 1059, 1799), torch.zeros(1, 0, 1059, 1799), torch.zeros(1, 8)).shape[-2:] == (
            1059,
            1799,
        )


def test_channels_come_out_in_the_order_they_went_in():
    model = net(trained=False)
    nn.init.constant_(model.head.bias, 0.0)
    with torch.no_grad():
        model.head.bias[1] = 5.0  # only channel 1 changes
    out = model(torch.randn(1, 3, 8, 8), torch.randn(1, 2, 8, 8), torch.randn(1, 8))
    assert (out[:, 1] == 5).all() and (out[:, [0, 2]] == 0).all()


def test_an_untrained_step_is_exactly_persistence():
    state = torch.randn(2, 3, 11, 14)
    after = rollout_step(net(trained=False), state, torch.randn(2, 2, 11, 14), torch.randn(2, 8), torch.ones(3, 1, 1))
    assert torch.equal(after, state)


def test_the_tendency_is_in_units_of_the_change():
    class One(nn.Module):
        def forward(self, state, forcing, clock):
            return torch.ones_like(state)

    scale = torch.tensor([0.1, 2.0])[:, None, None]
    after = rollout_step(One(), torch.zeros(1, 2, 4, 4), None, None, scale)
    assert after[0, 0].unique().tolist() == pytest.approx([0.1]) and after[0, 1].unique().tolist() == [2.0]


def test_no_layer_mixes_the_batch_or_the_domain():
    assert not [m for m in net().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.GroupNorm)]
    model = net()
    state, forcing, clock = torch.randn(2, 3, 16, 16), torch.randn(2, 2, 16, 16), torch.randn(2, 8)
    together, alone = model(state, forcing, clock)[:1], model(state[:1], forcing[:1], clock[:1])
    assert torch.allclose(together, alone, atol=1e-6)


def test_a_crop_gives_the_same_in_its_middle():
    """Statistics of the whole domain would make the middle depend on how large the domain is."""
    model = net(levels=1)
    state, forcing, clock = torch.randn(1, 3, 96, 96), torch.randn(1, 2, 96, 96), torch.randn(1, 8)
    crop = slice(16, 80)
    whole = model(state, forcing, clock)[..., crop, crop][..., 20:-20, 20:-20]
    part = model(state[..., crop, crop], forcing[..., crop, crop], clock)[..., 20:-20, 20:-20]
    assert torch.allclose(whole, part, atol=1e-5)


def test_a_uniform_field_stays_uniform():
    """No frame from zero padding and no checkerboard from upsampling: nothing in the input tells cells apart."""
    out = net()(torch.ones(1, 3, 40, 48), torch.ones(1, 2, 40, 48), torch.randn(1, 8))
    spread = (out - out.mean(dim=(-2, -1), keepdim=True)).abs().max()
    assert out.abs().max() > 0.01 and spread < 1e-5


def test_the_clock_reaches_the_output():
    model = net()
    state, forcing = torch.randn(1, 3, 16, 16), torch.randn(1, 2, 16, 16)
    assert not torch.allclose(model(state, forcing, torch.zeros(1, 8)), model(state, forcing, torch.ones(1, 8)))


def test_a_rollout_asks_for_each_steps_own_forcing_and_clips_between_steps():
    asked = []

    class Up(nn.Module):
        def forward(self, state, forcing, clock):
            return torch.ones_like(state)

    def forcing_at(k):
        asked.append(k)
        return torch.zeros(1, 0, 4, 4), torch.zeros(1, 8)

    def limit(state):
        return state.clamp(max=2.5), (state > 2.5).float().mean(dim=(-2, -1))

    steps = list(rollout(Up(), torch.zeros(1, 1, 4, 4), forcing_at, torch.ones(1, 1, 1), limit, 4))
    assert asked == [0, 1, 2, 3]
    assert [s.mean().item() for s, _ in steps] == [1.0, 2.0, 2.5, 2.5]
    assert np.allclose([c.item() for _, c in steps], [0, 0, 1, 1])

"""Muon and AdamW as one optimizer, with a copy of the network in half precision, clipping and averaged weights."""

import pytest
import torch

from models.unet import ResidualUNet
from training.optimizer import MUON, Muon, Optimizer

F32, BF16 = torch.float32, torch.bfloat16


def net(features: int = 4) -> ResidualUNet:
    torch.manual_seed(0)
    model = ResidualUNet(2, 1, 8, base_features=features, levels=1)
    for layer in (model.head, model.flow):  # not zero, so that every parameter has a gradient
        torch.nn.init.normal_(layer.weight, std=0.05)
    return model


def optimizer(model: ResidualUNet, dtype=F32, clip: float = 1.0) -> Optimizer:
    return Optimizer(model, lr=0.001, weight_decay=0.01, clip=clip, dtype=dtype)


def backward(network: ResidualUNet, n: int) -> None:
    g = torch.Generator().manual_seed(n)
    states, fields = torch.randn(2, 2, 2, 16, 16, generator=g), torch.randn(2, 1, 16, 16, generator=g)
    network(states, fields, torch.randn(2, 8, generator=g)).square().mean().backward()


def train(both: Optimizer, steps: range) -> list[float]:
    norms = []
    for n in steps:
        backward(both.network, n)
        both.collect()
        norms.append(float(both.clip_gradients()))
        both.step(1 / (1 + n), 0.5)
    return norms


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_every_parameter_is_trained_by_exactly_one(dtype):
    model = net()
    both, before = optimizer(model, dtype), [p.detach().clone() for p in model.parameters()]
    held = [id(p) for part in both.parts.values() for group in part.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in model.parameters()}
    train(both, range(2))
    for (name, p), old, copy in zip(model.named_parameters(), before, both.network.parameters(), strict=True):
        assert not torch.equal(p, old), f"{name} has not moved"
        assert p.dtype == F32 and not p.grad.any(), "the gradient is forgotten after the step"
        assert copy.dtype == dtype and torch.equal(copy, p.to(dtype)), "the network has the new weights"


def test_muon_has_the_matrices_between_hidden_features_and_no_other():
    model = net()
    names = {id(p): n for n, p in model.named_parameters()}
    chosen = {names[id(p)] for p in optimizer(model).parts["muon"].param_groups[0]["params"]}
    inner = ("encoder", "decoder", "down", "up", "bottom", "mix")
    assert chosen == {n for n, p in model.named_parameters() if n.startswith(inner) and p.ndim == 4}
    assert len(chosen) == 15  # encoder, decoder and four blocks of two convolutions, one down, one up, mix


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16), (6, 4, 3, 3)])
def test_muon_agrees_with_torch_up_to_the_rounding_of_its_bfloat16(shape):
    g = torch.Generator().manual_seed(0)
    ours, theirs = torch.nn.Parameter(torch.ones(shape)), torch.nn.Parameter(torch.ones(shape).flatten(1))
    mine = Muon([ours], 0.1, 0.01)
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        before = ours.detach().clone(), theirs.detach().clone()
        ours.grad = torch.randn(shape, generator=g)
        theirs.grad = ours.grad.flatten(1).clone()
        mine.step(), reference.step()
        moved, expected = (ours.detach() - before[0]).flatten(1), theirs.detach() - before[1]
        assert (moved - expected).norm() < 0.04 * expected.norm()


def test_the_gradient_of_the_half_precision_copy_is_that_of_float32_within_three_percent():
    model = net(16)
    both = optimizer(model, BF16)
    for n in range(4):  # accumulated in float32
        backward(both.network, n)
        both.collect()
    half = torch.cat([p.grad.flatten().clone() for p in model.parameters()])
    both.clear()
    for n in range(4):
        backward(model, n)
    full = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert 1e-5 < (half - full).norm() / full.norm() < 0.03


def test_the_gradient_is_clipped_and_its_norm_before_is_returned():
    model, unclipped = net(), net()
    for both in (optimizer(model, clip=1e-3), optimizer(unclipped, clip=1e9)):
        backward(both.network, 0)
        norm = torch.cat([p.grad.flatten() for p in both.weights]).norm().item()
        momentum = next(iter(both.parts["muon"].param_groups[0]["params"]))
        gradient = momentum.grad.clone()
        assert both.clip_gradients().item() == pytest.approx(norm, rel=1e-5)
        both.step(1.0, 0.5)
        share = min(1.0, both.clip / norm)
        torch.testing.assert_close(both.parts["muon"].state[momentum]["momentum"], 0.05 * share * gradient)


def test_learning_rates_follow_the_factor():
    both = optimizer(net())
    for n in range(3):
        train(both, range(n, n + 1))
        assert both.parts["adamw"].param_groups[0]["lr"] == pytest.approx(0.001 / (1 + n))
        assert both.parts["muon"].param_groups[0]["lr"] == pytest.approx(MUON * 0.001 / (1 + n))


def test_the_average_of_the_weights_follows_its_decay():
    model = net()
    both, first = optimizer(model), model.head.weight.detach().clone()
    backward(model, 0)
    both.step(1.0, 0.9)
    torch.testing.assert_close(both.ema.head.weight, 0.9 * first + 0.1 * model.head.weight.detach())
    assert not any(p.requires_grad for p in both.ema.parameters())


def test_the_norm_of_a_gradient_that_is_not_finite_tells_and_it_can_be_forgotten():
    both = optimizer(net())
    for value in (torch.inf, torch.nan):
        backward(both.network, 1)
        both.model.mix.weight.grad[0, 0, 0, 0] = value
        assert not both.clip_gradients().isfinite()
        both.clear()
        assert not any(p.grad.any() for p in both.weights)


def test_a_resumed_optimizer_goes_on_bit_by_bit(tmp_path):
    whole, cut, again = (optimizer(net(), BF16) for _ in range(3))
    train(whole, range(6))
    train(cut, range(3))
    torch.save((cut.model.state_dict(), cut.ema.state_dict(), cut.state_dict()), tmp_path / "state.pt")
    again.load(*torch.load(tmp_path / "state.pt", weights_only=True))
    assert train(again, range(3, 6))
    for a, b in ((whole.model, again.model), (whole.ema, again.ema), (whole.network, again.network)):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))

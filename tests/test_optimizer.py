"""Muon and AdamW as one optimizer: every parameter has exactly one of them, and a resumed one goes on bit by bit."""

import pytest
import torch

from models.unet import ResidualUNet
from training.optimizer import Muon, Optimizers


def net() -> ResidualUNet:
    torch.manual_seed(0)
    model = ResidualUNet(2, 1, 8, base_features=4, levels=1, blocks=1)
    for head in (model.head, model.flow_head):  # not zero, so that every parameter has a gradient
        torch.nn.init.normal_(head.weight, std=0.1)
    return model


def optimizers(model: ResidualUNet, muon_lr: float = 0.01) -> Optimizers:
    both = Optimizers(model, model.hidden_matrices(), 0.001, muon_lr, 0.01)
    both.schedule(lambda n: 1 / (1 + n))
    return both


def learn(model: ResidualUNet, both: Optimizers, steps: range) -> None:
    for n in steps:
        g = torch.Generator().manual_seed(n)
        states, fields = torch.randn(2, 2, 2, 16, 16, generator=g), torch.randn(2, 1, 16, 16, generator=g)
        model(states, fields, torch.randn(2, 8, generator=g)).square().mean().backward()
        both.step()


@pytest.mark.parametrize("muon_lr,parts", [(0.01, {"adamw", "muon"}), (0.0, {"adamw"})])
def test_every_parameter_is_trained_by_exactly_one(muon_lr, parts):
    model = net()
    both = optimizers(model, muon_lr)
    assert set(both.parts) == parts
    held = [id(p) for part in both.parts.values() for group in part.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in model.parameters()}
    before = [p.detach().clone() for p in model.parameters()]
    learn(model, both, range(2))
    for (name, p), old in zip(model.named_parameters(), before, strict=True):
        assert not torch.equal(p, old), f"{name} has not moved"
        assert p.grad is None, "the gradient is forgotten after the step"


def test_muon_has_the_matrices_between_hidden_features_and_no_other():
    model = net()
    names = {id(p): n for n, p in model.named_parameters()}
    chosen = {names[id(p)] for g in optimizers(model).parts["muon"].param_groups for p in g["params"]}
    assert all(model.get_parameter(n).ndim == 2 and n.endswith("weight") for n in chosen)
    rooms = ("encoder", "decoder", "down", "up", "refine")
    assert chosen == {n for n, p in model.named_parameters()
                      if n.startswith(rooms) and p.ndim == 2 and ".clock." not in n}  # fmt: skip
    assert len(chosen) == 10  # three blocks of two convolutions, one down, one up, two of the refinement


def test_an_update_of_muon_is_nearly_orthogonal():
    """All singular values of the step are about the same, whatever those of the gradient are."""
    model = net()
    both = optimizers(model)
    weight = model.encoder[1][0].conv1.weight
    old = weight.detach().clone()
    learn(model, both, range(1))
    values = torch.linalg.svdvals(weight.detach() - old * (1 - 0.01 * 0.01))  # without the weight decay
    assert values.max() / values.min() < 2


def test_both_learning_rates_follow_the_schedule():
    model = net()
    both = optimizers(model)
    for n in range(3):
        assert both.lr == pytest.approx(0.001 / (1 + n))
        assert both.parts["muon"].param_groups[0]["lr"] == pytest.approx(0.01 / (1 + n))
        learn(model, both, range(n, n + 1))


@pytest.mark.parametrize("muon_lr", [0.01, 0.0])
def test_a_restored_optimizer_goes_on_bit_by_bit(muon_lr, tmp_path):
    whole, cut = net(), net()
    both = optimizers(whole, muon_lr)
    learn(whole, both, range(6))
    both = optimizers(cut, muon_lr)
    learn(cut, both, range(3))
    torch.save((cut.state_dict(), *both.state_dict()), tmp_path / "state.pt")
    weights, state, schedule = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = net()
    resumed.load_state_dict(weights)
    again = optimizers(resumed, muon_lr)
    again.load_state_dict(state, schedule)
    learn(resumed, again, range(3, 6))
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_muon_agrees_with_torch_up_to_the_rounding_of_its_bfloat16(shape):
    g = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    mine = Muon([ours], 0.1, 0.01)
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        before = ours.detach().clone(), theirs.detach().clone()
        ours.grad = torch.randn(shape, generator=g)
        theirs.grad = ours.grad.clone()
        mine.step(), reference.step()
        moved, expected = ours.detach() - before[0], theirs.detach() - before[1]
        assert (moved - expected).norm() < 0.04 * expected.norm()

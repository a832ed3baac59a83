"""Lean and fast are the same model; lean on the full domain stays below 1 GB; a run over its limit does not begin."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, hour, weather, write_store

import models.unet
import train_deterministic
from benchmarks import memory, speed
from models import layers
from models.layers import ChannelNorm, Conv, _Modulate, repeat_edge
from training.log import loss_sums
from training.schedule import Task

WIDTHS = {"base_features": 8, "levels": 2, "blocks": 1}


def test_a_lean_step_on_the_full_domain_peaks_below_one_gigabyte():
    constants = train_deterministic.Config(season=0.0)  # the defaults: batch 1, base 40
    peaks = memory.counted((1059, 1799), "lean", constants)
    assert constants.memory == "lean" and constants.base_features == 40 and peaks["parameters"] > 1.5e6
    # not a count of nothing: two states and a target in float32, five copies of the weights, the encoder's features
    assert peaks["training"] > 3 * 7 * 1059 * 1799 * 4 + 5 * 4 * peaks["parameters"] + 6 * 40 * 530 * 900 * 2
    assert peaks["training"] < 1.0e9 and peaks["fine_tuning"] < 1.0e9 and peaks["roll_out"] < 1.0e9


def test_the_count_is_that_of_storages_that_are_alive():
    with memory.Count() as count:
        a = torch.zeros(1000)
        b = a.view(10, 100)  # the same storage
        c = torch.zeros(500)
        del c
        d = a + 1
    assert count.alive == 8000 and count.peak == 8000 and b.shape == (10, 100) and len(d) == 1000
    assert count.operations == 3 and count.moved == 4000 + 2000 + 8000  # a, c, d with what it read; no view
    with count:
        count.reset()
        torch.zeros(3000)
        assert count.peak == 20000 and count.alive == 8000 and (count.operations, count.moved) == (1, 12000)


def step(mode: str, monkeypatch, precision) -> tuple:
    """Loss and gradients of one pair and one chain, with weights whose zeros are filled."""
    monkeypatch.setattr(models.unet, "BAND", 16)  # several bands, the last of them short
    monkeypatch.setattr(
        memory.train_step,
        "training_autocast",
        lambda d, half: torch.autocast("cpu", precision, enabled=precision != torch.float32),
    )
    torch.manual_seed(0)
    made = memory.Step((50, 70), mode, train_deterministic.Config(**WIDTHS, season=0.0), memory.Count())
    for p in made.model.parameters():
        if not p.abs().sum():
            torch.nn.init.normal_(p, std=0.02)
    sums, rng = loss_sums(made.learn.loss.weights, "cpu"), torch.Generator().manual_seed(1)
    data = torch.randn(2, 2, 7, 50, 70), [torch.randn(2, 7, 50, 70) for _ in range(3)], []
    times = np.repeat(memory.START, 2)
    made.learn(times, Task((0, 1), 1, 2, 0.5), (data[0], data[1], []), rng, sums)
    return sums, torch.cat([p.grad.flatten() for p in made.model.parameters()])


@pytest.mark.parametrize("precision,near", [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_lean_has_the_loss_and_the_gradients_of_fast(precision, near, monkeypatch):
    (lean, lean_gradient), (fast, fast_gradient) = (step(m, monkeypatch, precision) for m in ("lean", "fast"))
    assert lean.tolist() == pytest.approx(fast.tolist(), rel=near) and fast.all()  # samples, loss, every term
    assert (lean_gradient - fast_gradient).norm() < near * fast_gradient.norm() and fast_gradient.norm() > 0.01


def test_the_frugal_layers_are_their_formulas():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    norm, gain, shift = ChannelNorm(3), *(torch.randn(2, 3, 1, 1, requires_grad=True) for _ in range(2))
    norm.weight.data.uniform_(0.5, 2)
    weight = norm.weight[:, None, None]
    plain = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6) * weight
    torch.testing.assert_close(norm(x), plain, rtol=1e-6, atol=1e-7)
    for ours, theirs, inputs in (
        (norm(x), plain, (x, norm.weight)),
        (_Modulate.apply(x, gain, shift), F.silu(x * (1 + gain) + shift), (x, gain, shift)),
    ):
        mix = torch.randn_like(theirs)
        expected = torch.autograd.grad((theirs * mix).sum(), inputs, retain_graph=True)
        for a, b in zip(torch.autograd.grad((ours * mix).sum(), inputs), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sides", [(1, 1, 1, 1), (0, 3, 0, 5), (2, 0, 4, 1), (0, 0, 0, 0)])
def test_the_edge_is_repeated_and_its_gradient_adds_up(sides):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(repeat_edge(x, *sides), F.pad(x, sides, mode="replicate"))
    assert torch.equal(layers.spread(x, *sides, 3), F.pad(x, sides, mode="replicate"))
    assert torch.autograd.gradcheck(lambda x: repeat_edge(x, *sides), x)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (4, 2)])
def test_a_convolution_by_eights_is_the_same_one(monkeypatch, kernel, stride):
    """As on a GPU: channels last in memory, and zeros up to a multiple of eight of them."""
    conv, found = Conv(5, 7, kernel, stride).double(), []
    x = torch.randn(2, 5, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for eights in (False, True):
        monkeypatch.setattr(layers, "by_eights", lambda x, eights=eights: eights)
        leaf = x.clone().requires_grad_()
        y = conv(leaf)
        found.append((y, *torch.autograd.grad(y.sin().sum(), [leaf, *conv.parameters()])))
    assert repeat_edge(x, 1, 1, 1, 1, 8).shape == (2, 8, 12, 14)
    assert repeat_edge(x, 1, 1, 1, 1, 8).is_contiguous(memory_format=torch.channels_last)
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


def test_the_rehearsal_changes_nothing_and_refuses_what_does_not_fit(tmp_path, command, monkeypatch):
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)], ("T2M", "U10"))
    arguments = ("--zarr", path, "--epochs", 2, "--rollout_epochs", 1, *TINY)
    code, out, err = command(train_deterministic, *arguments, "--run_dir", tmp_path / "a", "--memory_gb", 0.001)
    assert code == 2 and err.count("\n") == 1 and "memory_gb: got a peak of" in err and "Fix: --memory lean" in err
    assert "memory: lean, peak" in out and not (tmp_path / "a").exists()
    assert command(train_deterministic, *arguments, "--run_dir", tmp_path / "b")[0] == 0
    monkeypatch.setattr(train_deterministic, "rehearse", lambda *_: None)
    assert command(train_deterministic, *arguments, "--run_dir", tmp_path / "c")[0] == 0
    b, c = (torch.load(tmp_path / n / "last.pt", weights_only=True) for n in "bc")
    for key in ("model", "ema"):
        assert all(torch.equal(b[key][k], c[key][k]) for k in b[key])
    logs = [[json.loads(x) for x in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in "bc"]
    assert [r["loss"] for r in logs[0]] == [r["loss"] for r in logs[1]]
    code, out, _ = command(
        train_deterministic, *arguments, "--run_dir", tmp_path / "b", "--epochs", 3, "--memory", "fast"
    )
    assert code == 0 and "resumed at step" in out


def test_the_speed_of_each_mode_and_form_is_written(tmp_path, capsys):
    forms, out = ("plain", "channels_first"), str(tmp_path / "s.json")
    speed.main(speed.Config((24, 32), base_features=4, repeats=1, forms=forms, precision="bfloat16", json=out))
    told = json.loads((tmp_path / "s.json").read_text())
    assert list(told["results"]) == [f"{m} {f}" for m in ("lean", "fast") for f in forms]
    for row in told["results"].values():
        assert row["pairs_per_s"] > 0 and min(row["seconds"].values()) > 0 and row["warm_up_seconds"] > 0
    assert told["results"]["lean plain"]["of_the_time_of_the_first_row"] == 1 and told["precision"] == "bfloat16"
    assert "fast channels_first: " in capsys.readouterr().out

"""The peers' UNets see what ours sees, start where it starts, have its size, and a missing library is one line."""

import itertools
import json

import pytest
import torch
from torch import nn

from benchmarks import memory, peer_models, peers
from benchmarks.peer_models import KINDS, Kind, Peer

CHANNELS, FORCING, CLOCK = 7, 5, 8


def fields(height, width):
    torch.manual_seed(0)
    return torch.randn(2, 2, CHANNELS, height, width), torch.randn(2, FORCING, height, width), torch.randn(2, CLOCK)


@pytest.fixture
def stub(monkeypatch) -> str:
    """A peer that needs no library."""

    def convolutions(inputs, outputs, widths, checkpointed):
        sizes = (inputs, widths[0], widths[0], outputs)
        net = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes)))
        return net, [net[0], net[2]]

    monkeypatch.setitem(KINDS, "stub", Kind("three convolutions", convolutions, "torch"))
    return "stub"


@pytest.mark.parametrize("fold", [1, 2])
def test_a_peer_sees_now_changes_forcing_and_clock_on_any_grid(monkeypatch, fold):
    states, forcing, clock = fields(11, 13)  # no multiple of the coarsest cell: padded and cropped
    scale = torch.arange(1.0, 8.0)[:, None, None]
    uniform = clock[:, :, None, None].expand(-1, -1, 11, 13)
    expected = torch.cat([states[:, 1], (states[:, 1] - states[:, 0]) / scale, forcing, uniform], dim=1)

    class Identity(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x

    monkeypatch.setitem(KINDS, "identity", Kind("", lambda *_: (Identity(), []), "torch", fold))
    monkeypatch.setattr(peer_models, "matched", lambda *_: [])
    peer = Peer(CHANNELS, FORCING, CLOCK, scale=scale, kind="identity")
    torch.testing.assert_close(peer(states, forcing, clock), expected, rtol=0, atol=0)


def test_memory_and_speed_are_given_as_ratios_to_ours(command, stub, tmp_path, monkeypatch):
    file, ours = tmp_path / "p.json", memory.ResidualUNet
    monkeypatch.setattr(peers, "FULL", (32, 48))
    code, out, err = command(peers, "--peers", stub, "--shape", 16, 24, "--base_features", 8, "--repeats", 1,
                             "--json", file)  # fmt: skip
    assert code == 0, err
    result = json.loads(file.read_text())
    assert result["speed"]["fast"]["of_fast"] == result["memory"]["lean"]["of_lean"] == 1
    took = {n: result["speed"][n]["seconds"] for n in ("fast", stub)}
    assert result["speed"][stub]["of_fast"] == pytest.approx(took[stub] / took["fast"])
    peaks = {n: result["memory"][n]["training"] for n in ("lean", stub)}
    assert result["memory"][stub]["of_lean"] == peaks[stub] / peaks["lean"]
    assert result["networks"]["three convolutions"]["parameters"] != result["networks"]["ours, fast"]["parameters"]
    assert "three convolutions, its checkpointing" in out and memory.ResidualUNet is ours


def test_a_missing_library_and_an_unknown_peer_are_one_line(command, monkeypatch):
    monkeypatch.setattr(peer_models.importlib.util, "find_spec", lambda name: None)
    code, out, err = command(peers)
    assert code == 2 and err.count("\n") == 1 and "no package monai and no diffusers" in err
    assert "Fix: .venv/bin/python -m pip install -r requirements-peers.txt" in err and not out
    code, _, err = command(peers, "--peers", "monay")
    assert code == 2 and "got monay" in err and "Fix: --peers monai" in err


@pytest.mark.parametrize("kind", ["monai", "diffusers", "diffusers_2x2"])
def test_a_library_s_unet_has_our_size_and_starts_as_persistence(kind):
    pytest.importorskip(KINDS[kind].package, reason="pip install -r requirements-peers.txt")
    states, forcing, clock = fields(19, 21)
    gradients, sizes = [], []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        peer = Peer(CHANNELS, FORCING, CLOCK, kind=kind, checkpointed=checkpointed)
        sizes.append(sum(p.numel() for p in peer.parameters()))
        assert peer(states, forcing, clock).abs().max() < 1e-5  # 0 up to the rounding of x + conv(x)
        torch.manual_seed(2)
        for p in peer.parameters():
            nn.init.normal_(p, std=0.05)
        peer(states, forcing, clock).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in peer.parameters() if p.grad is not None]))
        assert all(m.grad.abs().sum() > 0 for m in peer.hidden_matrices())
    ours = sum(p.numel() for p in memory.ResidualUNet(CHANNELS, FORCING, CLOCK).parameters())
    assert all(abs(n / ours - 1) < 0.1 for n in sizes)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4 * float(gradients[0].abs().max()))

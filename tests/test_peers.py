"""The peers' UNets get what ours gets, start where it starts, have its size, and a missing library is one line."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import memory, peer_models, peers
from benchmarks.peer_models import KINDS, Kind, Peer
from benchmarks.peer_rows import Setting, standing_for_ours

CHANNELS, FORCING, CLOCK = 7, 5, 8


class Chosen(nn.Module):
    """Gives back some of its input channels."""

    def __init__(self, channels: slice):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        return x[:, self.channels]


def convolutions(inputs, outputs, widths, checkpointed):
    net = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in ((inputs, widths[0]), (widths[0],) * 2,
                                                                     (widths[0], outputs))))  # fmt: skip
    return net, [net[0], net[2]]


def fields(height, width):
    torch.manual_seed(0)
    return (torch.randn(2, 2, CHANNELS, height, width), torch.randn(2, FORCING, height, width), torch.randn(2, CLOCK))


def chosen(monkeypatch, channels: slice, fold: int = 1) -> Peer:
    cells = fold**2
    part = slice(channels.start * cells, channels.stop * cells)
    monkeypatch.setitem(KINDS, "part", Kind("", lambda *_: (Chosen(part), []), "torch", fold))
    monkeypatch.setattr(peer_models, "matched", lambda *_: [])
    return Peer(CHANNELS, FORCING, CLOCK, scale=torch.arange(1.0, 8.0), kind="part")


@pytest.fixture
def stub(monkeypatch) -> str:
    """A peer that needs no library."""
    monkeypatch.setitem(KINDS, "stub", Kind("three convolutions", convolutions, "torch"))
    return "stub"


@pytest.mark.parametrize("fold", [1, 2])
def test_a_peer_sees_now_changes_forcing_and_clock_on_any_grid(monkeypatch, fold):
    states, forcing, clock = fields(11, 13)  # no multiple of the coarsest cell: padded and cropped
    scale = torch.arange(1.0, 8.0)[:, None, None]
    expected = {
        0: states[:, 1],
        7: (states[:, 1] - states[:, 0]) / scale,
        14: F.pad(forcing, (0, 0, 0, 0, 0, 2)),  # five of forcing, two of the clock after them
        20: clock[:, 1:, None, None].expand(-1, -1, 11, 13),
    }
    expected[14][:, 5:] = clock[:, :2, None, None]
    for first, field in expected.items():
        peer = chosen(monkeypatch, slice(first, first + CHANNELS), fold)
        torch.testing.assert_close(peer(states, forcing, clock), field, rtol=0, atol=0)


def test_muon_takes_the_hidden_weights_of_a_peer_as_matrices(stub):
    peers_of = {muon: Peer(CHANNELS, FORCING, CLOCK, 8, 1, 1, kind=stub, muon=muon) for muon in (True, False)}
    peer, plain = peers_of[True], peers_of[False]
    width = peer.widths[0]
    assert [tuple(m.shape) for m in peer.hidden_matrices()] == [(width, 9 * width)] and not plain.hidden_matrices()
    names = dict(plain.named_parameters())
    for name, p in peer.named_parameters():
        p.data.copy_(names[name.replace("parametrizations.weight.original", "weight")].reshape(p.shape))
    torch.testing.assert_close(peer(*fields(8, 8)), plain(*fields(8, 8)), rtol=0, atol=0)


def test_the_network_and_precision_of_a_row_hold_while_it_is_trained(stub):
    cfg, row = peers.Config(peers=(stub,)), peers.rows_of((stub,))[stub]
    before = memory.ResidualUNet
    with standing_for_ours(cfg, row, Setting(half=True)):
        assert isinstance(memory.ResidualUNet(CHANNELS, FORCING, CLOCK, 8, 1, 1), Peer)
        with memory.train_step.training_autocast(torch.device("cpu"), False):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert memory.ResidualUNet is before


def test_speed_is_given_as_a_ratio_to_ours(stub, tmp_path, capsys):
    file = tmp_path / "p.json"
    peers.main(peers.Config((stub,), ("speed",), (16, 24), base_features=8, repeats=1, json=str(file)))
    out = json.loads(file.read_text())
    assert out["grid"] == [16, 24] and out["device"] and out["torch"] == torch.__version__
    speed = out["speed"]["16 x 24"]
    assert speed["fast"]["fast_is_ahead_by"] == 1
    took = {n: speed[n]["seconds"][0] for n in ("fast", stub)}
    assert speed[stub]["fast_is_ahead_by"] == pytest.approx(took[stub] / took["fast"])
    assert "three convolutions, its checkpointing" in capsys.readouterr().out
    about = {k: out[k] for k in ("device", "networks")}
    assert peers.earlier(str(file), about) == {"speed": out["speed"]}
    assert peers.earlier(str(file), about | {"device": "another"}) == {}


def test_what_is_counted_of_a_row_is_its_own_network(stub, monkeypatch):
    def parameters(shape, mode, constants):  # in the place of the true count, which takes seconds a row
        number = sum(p.numel() for p in memory.ResidualUNet(CHANNELS, FORCING, CLOCK, 8, 1, 1).parameters())
        return dict.fromkeys((*memory.KINDS, "parameters"), number)

    monkeypatch.setattr(memory, "counted", parameters)
    peer = Peer(CHANNELS, FORCING, CLOCK, 8, 1, 1, kind=stub)
    count = peers.counts(peers.Config((stub,)), peers.rows_of((stub,)), torch.device("cpu"))
    assert count["lean"]["of_lean"] == 1 and count[stub]["training"] == sum(p.numel() for p in peer.parameters())
    assert count[stub]["of_lean"] == count[stub]["training"] / count["lean"]["training"] != 1


def test_a_missing_library_and_an_unknown_peer_are_one_line(command, monkeypatch):
    monkeypatch.setattr(peer_models.importlib.util, "find_spec", lambda name: None)
    code, out, err = command(peers)
    assert code == 2 and err.count("\n") == 1 and "no package monai and no diffusers" in err
    assert "Fix: .venv/bin/python -m pip install -r requirements-peers.txt" in err and not out
    code, _, err = command(peers, "--peers", "monay")
    assert code == 2 and "got monay" in err and "Fix: monai" in err


@pytest.mark.parametrize("kind", ["monai", "diffusers", "diffusers_2x2"])
def test_a_library_s_unet_has_our_size_and_starts_as_persistence(kind):
    pytest.importorskip(KINDS[kind].package, reason="pip install -r requirements-peers.txt")
    states, forcing, clock = fields(19, 21)
    results, parameters = {}, []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        peer = Peer(CHANNELS, FORCING, CLOCK, kind=kind, checkpointed=checkpointed)
        parameters.append(sum(p.numel() for p in peer.parameters()))
        assert peer(states, forcing, clock).abs().max() < 1e-5  # 0 up to the rounding of x + conv(x)
        torch.manual_seed(2)
        for p in peer.parameters():
            nn.init.normal_(p, std=0.05)
        peer(states, forcing, clock).square().sum().backward()
        results[checkpointed] = torch.cat([p.grad.flatten() for p in peer.parameters() if p.grad is not None])
        assert all(m.ndim == 2 and m.grad.abs().sum() > 0 for m in peer.hidden_matrices())
    ours = sum(p.numel() for p in memory.ResidualUNet(CHANNELS, FORCING, CLOCK).parameters())
    assert all(abs(n / ours - 1) < 0.1 for n in parameters)
    torch.testing.assert_close(results[True], results[False], rtol=1e-4, atol=1e-4 * float(results[False].abs().max()))

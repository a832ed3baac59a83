"""The UNets of MONAI and diffusers in the place of models.unet.ResidualUNet.

Each sees what ours sees (the state now, the changes up to it, forcing, and the clock as uniform fields), gives the
change over one step in units of its standard deviation, and starts as persistence. Widths are chosen so that it has as
many parameters as ours, in multiples of 8, which kernels like; its coarsest cells are those of ours.
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.layers import repeat_edge
from models.unet import ResidualUNet

UNIT = 8  # widths are multiples of it, and group norms have as many groups
BLOCKS = 2  # of theirs on every level: what both libraries offer first


# --- the networks: (net (B, inputs, H, W) -> (B, outputs, H, W), its convolutions at the input and the output) ---


def monai(inputs: int, outputs: int, widths: list[int], checkpointed: bool) -> tuple[nn.Module, list]:
    """Residual UNet with strides of 2 from its first layer on; BLOCKS convolutions in each of its residual units."""
    from monai.networks.nets.unet import CheckpointUNet, UNet

    kind = CheckpointUNet if checkpointed else UNet
    net = kind(2, inputs, outputs, [*widths, widths[-1]], [2] * len(widths), num_res_units=BLOCKS)
    first, last = (getattr(net.model[i], "module", net.model[i]) for i in (0, 2))
    # its last unit is x + convolution(x): that is nothing while the convolution is minus the identity
    head = last[1].conv.unit0.conv
    with torch.no_grad():
        head.weight.copy_(-nn.init.dirac_(torch.empty_like(head.weight)))
        head.bias.zero_()
    ends = [m for m in first.modules() if isinstance(m, nn.Conv2d) and m.in_channels == inputs]
    return net, [*ends, *(m for m in last.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))]


def diffusers(inputs: int, outputs: int, widths: list[int], checkpointed: bool) -> tuple[nn.Module, list]:
    """Its UNet of image diffusion without attention, whose cost grows with the square of the domain, at time step 0."""
    from diffusers import UNet2DModel

    net = UNet2DModel(
        in_channels=inputs, out_channels=outputs, block_out_channels=tuple(widths), layers_per_block=BLOCKS,
        down_block_types=("DownBlock2D",) * len(widths), up_block_types=("UpBlock2D",) * len(widths),
        norm_num_groups=UNIT, add_attention=False,
    )  # fmt: skip
    if checkpointed:
        net.enable_gradient_checkpointing()
    nn.init.zeros_(net.conv_out.weight)
    nn.init.zeros_(net.conv_out.bias)
    return net, [net.conv_in, net.conv_out]


@dataclass(frozen=True)
class Kind:
    """How a library's UNet is used."""

    text: str
    build: Callable
    package: str
    fold: int = 1  # cells on a side that are folded into channels before it, and unfolded after it
    above: int = 0  # levels that it has above those on cells of 2 x 2


KINDS = {
    "monai": Kind("MONAI UNet", monai, "monai"),
    "diffusers": Kind("diffusers UNet2DModel", diffusers, "diffusers", above=1),
    "diffusers_2x2": Kind("diffusers UNet2DModel on cells of 2 x 2", diffusers, "diffusers", fold=2),
}


class Peer(nn.Module):
    """The UNet of another library with the arguments and the forward of ResidualUNet.

    forward(states (B, T, C, H, W), forcing (B, F, H, W), clock (B, K)) -> (B, C, H, W), in units of `scale`. The input
    is padded by repeating its edge to a multiple of the coarsest cell. `lean` is, as in ResidualUNet, what the learner
    asks: whether the loss goes channel by channel. checkpointed: compute again in the backward pass, as the library
    itself offers it. channels_last: the layout of the input in memory. muon: for the weights between hidden features,
    as in ours; else they are AdamW's.
    """

    def __init__(self, channels: int, forcing: int, clock: int, base_features: int = 40, levels: int = 2,
                 blocks: int = 4, history: int = 1, scale: Tensor | None = None, lean: bool = False,
                 regression: bool = False, *,
                 kind: str, checkpointed: bool = False, channels_last: bool = False, muon: bool = True):  # fmt: skip
        super().__init__()
        assert not regression, "peers forecast by their network alone"
        self.lean, self.kind, self.multiple, self.muon = lean, KINDS[kind], 2 ** (levels + 1), muon
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("scale", torch.ones(channels) if scale is None else scale.flatten().clone())
        self.widths = matched(kind, channels, forcing, clock, base_features, levels, blocks, history)
        inputs = channels * (1 + history) + forcing + clock
        self.net, ends = network(self.kind, inputs, channels, self.widths, checkpointed)
        self.hidden = [m for m in self.net.modules()
                       if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m not in ends]  # fmt: skip
        for m in self.hidden if muon else []:
            parametrize.register_parametrization(m, "weight", AsMatrix(m.weight.shape))

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights between hidden features, which Muon trains, as ours: matrices (outputs, inputs * kernel)."""
        return [m.parametrizations.weight.original for m in self.hidden] if self.muon else []

    def forward(self, states: Tensor, forcing: Tensor, clock: Tensor) -> Tensor:
        now, (H, W), device = states[:, -1], states.shape[-2:], states.device.type
        changes = (states[:, 1:] - states[:, :-1]) / self.scale[:, None, None]
        parts = [now, changes.flatten(1, 2), forcing, clock[:, :, None, None].expand(-1, -1, H, W)]
        if torch.is_autocast_enabled(device):  # as in ResidualUNet: cast before they are joined
            parts = [part.to(torch.get_autocast_dtype(device)) for part in parts]
        x = repeat_edge(torch.cat(parts, dim=1), 0, -W % self.multiple, 0, -H % self.multiple)
        if self.kind.fold > 1:
            x = F.pixel_unshuffle(x, self.kind.fold)
        x = x.contiguous(memory_format=self.layout)
        x = self.net(x, x.new_zeros(len(x)), return_dict=False)[0] if self.kind.build is diffusers else self.net(x)
        if self.kind.fold > 1:
            x = F.pixel_shuffle(x, self.kind.fold)
        return x[..., :H, :W].float()


class AsMatrix(nn.Module):
    """Keep a weight as a matrix: the form in which Muon takes it."""

    def __init__(self, shape: torch.Size):
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)


def network(kind: Kind, inputs: int, outputs: int, widths: list[int], checkpointed: bool):
    cells = kind.fold**2
    return kind.build(inputs * cells, outputs * cells, widths, checkpointed)


@functools.cache
def matched(kind: str, channels: int, forcing: int, clock: int, base_features: int, levels: int, blocks: int,
            history: int) -> list[int]:  # fmt: skip
    """The widths, by level, with which a peer has the number of parameters nearest to that of ours."""
    inputs, depth = channels * (1 + history) + forcing + clock, levels + 1 + KINDS[kind].above

    def count(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    with torch.device("meta"):
        wanted = count(ResidualUNet(channels, forcing, clock, base_features, levels, blocks, history))
        best: tuple[float, list[int]] | None = None
        for base in range(UNIT, 1000):
            widths = [UNIT * round(base * min(2**i, 4) / UNIT) for i in range(depth)]
            size = count(network(KINDS[kind], inputs, channels, widths, False)[0])
            if best is None or abs(size - wanted) < best[0]:
                best = abs(size - wanted), widths
            if size > wanted:
                break
    return best[1]


# --- the packages ---


def refuse_missing(packages: list[str]) -> None:
    """ValueError where one of the optional packages is not installed."""
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ValueError(
            f"peers: got no package {' and no '.join(missing)}, expected {' and '.join(packages)}. "
            "Fix: .venv/bin/python -m pip install -r requirements-peers.txt"
        )


def versions(packages: list[str]) -> dict[str, str]:
    return {p: importlib.metadata.version(p) for p in packages}


def packages_of(kinds: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(KINDS[k].package for k in kinds))

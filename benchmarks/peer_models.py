"""The UNets of MONAI and diffusers in the place of models.unet.ResidualUNet.

Each sees what ours sees: the state now, the changes before it, forcing, and the clock as uniform fields. It gives the
change over one step in units of `scale` and starts as persistence. Its widths are multiples of 8, chosen so that it has
as many parameters as ours. Its coarsest cells are those of ours.
"""

import functools
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import frame, join, precision
from models.unet import ResidualUNet

UNIT = 8  # widths are multiples of it, and group norms have as many groups
BLOCKS = 2  # residual blocks of a level: the default of both libraries


def monai(inputs: int, outputs: int, widths: list[int], checkpointed: bool) -> tuple[nn.Module, list]:
    """Residual UNet with strides of 2 from its first layer on, and its convolutions at the input and the output."""
    from monai.networks.nets.unet import CheckpointUNet, UNet

    kind = CheckpointUNet if checkpointed else UNet
    net = kind(2, inputs, outputs, [*widths, widths[-1]], [2] * len(widths), num_res_units=BLOCKS)
    first, last = (getattr(net.model[i], "module", net.model[i]) for i in (0, 2))
    # its last unit is x + convolution(x): zero if the convolution is minus the identity
    head = last[1].conv.unit0.conv
    with torch.no_grad():
        head.weight.copy_(F.pad(-torch.eye(outputs)[:, :, None, None], [k // 2 for k in head.kernel_size * 2]))
        head.bias.zero_()
    ends = [m for m in first.modules() if isinstance(m, nn.Conv2d) and m.in_channels == inputs]
    return net, [*ends, *(m for m in last.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))]


def diffusers(inputs: int, outputs: int, widths: list[int], checkpointed: bool) -> tuple[nn.Module, list]:
    """UNet of image diffusion at time step 0, without attention, whose cost grows with the square of the domain."""
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

    `lean` only says how the loss is computed. checkpointed: recompute in the backward pass, as the library offers it.
    """

    def __init__(
        self, channels: int, forcing: int, clock: int, base_features: int = 40, levels: int = 2, history: int = 1,
        scale: Tensor | None = None, lean: bool = False, regression: bool = False, *, kind: str,
        checkpointed: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.kind, self.multiple = KINDS[kind], 2 ** (levels + 1)  # sides of the input: multiples of the coarsest cell
        self.register_buffer("scale", torch.ones(channels, 1, 1) if scale is None else scale.reshape(-1, 1, 1).clone())
        inputs = channels * (1 + history) + forcing + clock
        self.widths = matched(kind, channels, forcing, clock, base_features, levels, history)
        self.net, ends = network(self.kind, inputs, channels, self.widths, checkpointed)
        convolutions = [m for m in self.net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        self.hidden = [m for m in convolutions if m not in ends]

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights between hidden features, which Muon trains, as in ours."""
        return [m.weight for m in self.hidden]

    def forward(self, states: Tensor, forcing: Tensor, clock: Tensor) -> Tensor:
        H, W = states.shape[-2:]
        changes = ((states[:, 1:] - states[:, :-1]) / self.scale).flatten(1, 2)
        parts = [states[:, -1], changes, forcing, clock[:, :, None, None].expand(-1, -1, H, W)]
        channels, dtype = sum(p.shape[1] for p in parts), precision(next(self.parameters()))
        x = join([frame(p, self.multiple) for p in parts], channels, dtype)
        if self.kind.fold > 1:
            x = F.pixel_unshuffle(x, self.kind.fold)
        x = self.net(x, x.new_zeros(len(x)), return_dict=False)[0] if self.kind.build is diffusers else self.net(x)
        if self.kind.fold > 1:
            x = F.pixel_shuffle(x, self.kind.fold)
        return x[..., :H, :W].float()


def network(kind: Kind, inputs: int, outputs: int, widths: list[int], checkpointed: bool) -> tuple[nn.Module, list]:
    cells = kind.fold**2
    return kind.build(inputs * cells, outputs * cells, widths, checkpointed)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@functools.cache
def matched(kind: str, channels: int, forcing: int, clock: int, base: int, levels: int, history: int) -> list[int]:
    """The widths, by level, with which a peer has the number of parameters nearest to that of ours."""
    inputs, depth, best = channels * (1 + history) + forcing + clock, levels + 1 + KINDS[kind].above, (math.inf, [])
    with torch.device("meta"):
        wanted = parameters(ResidualUNet(channels, forcing, clock, base, levels, history))
        for first in range(UNIT, 1000):
            widths = [UNIT * round(first * min(2**i, 4) / UNIT) for i in range(depth)]
            size = parameters(network(KINDS[kind], inputs, channels, widths, False)[0])
            best = min(best, (abs(size - wanted), widths))
            if size > wanted:
                break
    return best[1]


def check_packages(kinds) -> dict[str, str]:
    """The versions of the packages of some kinds; ValueError if one is not installed."""
    packages = list(dict.fromkeys(KINDS[k].package for k in kinds))
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ValueError(
            f"peers: got no package {' and no '.join(missing)}, expected {' and '.join(packages)}. "
            "Fix: .venv/bin/python -m pip install -r requirements-peers.txt"
        )
    return {p: importlib.metadata.version(p) for p in packages}

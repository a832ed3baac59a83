"""Augmentation of training pairs: mirrors that keep the physics. They work on normalised fields, because the winds,
whose sign a mirror changes, are normalised without a mean (data/statistics.py)."""

import torch
from torch import Tensor

from data.variables import lookup


def draw_flips(generator: torch.Generator) -> Tensor:
    """Whether to mirror along (y, x): (2,) bool, each with probability 1/2."""
    return torch.rand(2, generator=generator, device=generator.device) < 0.5


def state_parity(names: tuple[str, ...], device: torch.device | str = "cpu") -> Tensor:
    """(2, C): the sign of each variable under a mirror along y and along x, -1 for the wind along that axis."""
    signs = [[float(lookup(n).parity_y) for n in names], [float(lookup(n).parity_x) for n in names]]
    return torch.tensor(signs, device=device)


def mirror(x: Tensor, flips: Tensor, parity: Tensor) -> Tensor:
    """Fields (..., C, H, W) mirrored along the axes that flips (2,) names, each channel times its parity (2, C).

    Indices do it, so that the operations are the same for every draw and nothing waits for the device.
    """
    for axis in (0, 1):
        cells = torch.arange(x.shape[axis - 2], device=x.device)
        x = x.index_select(axis - 2, torch.where(flips[axis], cells.flip(0), cells))
    sign = torch.where(flips[:, None], parity, 1.0).prod(dim=0)
    return x * sign[:, None, None]

"""Augmentation of training pairs: mirrors that keep the physics. They work on normalised fields, because the winds,
whose sign a mirror changes, are normalised without a mean (data/normalise.py)."""

from functools import lru_cache

import torch
from torch import Tensor

from data.variables import lookup


class Mirror:
    """A mirror along y, x, both or neither: mirror(x, parity) -> fields (..., C, H, W) mirrored, each channel times its
    sign, with parity (2, C) for a mirror along y and along x.

    Indices do it, so that the operations are the same for every draw and nothing waits for the device.
    flips (2,) bool on the device.
    """

    def __init__(self, flips: Tensor, shape: tuple[int, int]):
        self.flips = flips
        cells = [torch.arange(n, device=flips.device) for n in shape]
        self.rows, self.columns = (torch.where(f, c.flip(0), c) for f, c in zip(flips, cells, strict=True))

    def __call__(self, x: Tensor, parity: Tensor) -> Tensor:
        sign = torch.where(self.flips[:, None], parity, 1.0).prod(dim=0)
        return x[..., self.rows[:, None], self.columns] * sign[:, None, None]


def draw_flips(generator: torch.Generator) -> Tensor:
    """Whether to mirror along (y, x): (2,) bool, each with probability 1/2."""
    return torch.rand(2, generator=generator, device=generator.device) < 0.5


@lru_cache(maxsize=4)  # a tensor made of Python's numbers waits for the device
def state_parity(names: tuple[str, ...], device: torch.device | str = "cpu") -> Tensor:
    """(2, C): the sign of each variable under a mirror along y and along x, -1 for the wind along that axis."""
    signs = [[float(lookup(n).parity_y) for n in names], [float(lookup(n).parity_x) for n in names]]
    return torch.tensor(signs, device=device)

"""Augmentation of training pairs: mirrors that keep the physics, and small noise."""

import torch
from torch import Tensor

from data.variables import lookup


def mirror(fields: Tensor, axis: str, parity: Tensor) -> Tensor:
    """Mirror (..., C, H, W) along "x" (west-east) or "y"; each channel is multiplied by its parity (C,)."""
    flipped = fields.flip(-1 if axis == "x" else -2)
    return flipped * parity.to(fields)[:, None, None]


def state_parity(names: tuple[str, ...], axis: str) -> Tensor:
    """(C,) signs of the variables under a mirror: -1 for the wind component along the axis, else 1."""
    return torch.tensor([float(lookup(n).parity_x if axis == "x" else lookup(n).parity_y) for n in names])


def random_mirror(state, target, forcing, mask, names, forcing_parity, generator):
    """Mirror a batch along x, y, both or neither, each with probability 1/2.

    In normalised units a change of sign of the field is a change of sign of the state only where the mean
    is zero, so this acts on physical fields: state, target (B, C, H, W) in store units, forcing (B, F, H, W),
    mask (C, H, W) or None. Returns the four.
    """
    for axis in ("x", "y"):
        if torch.rand((), generator=generator) < 0.5:
            parity = state_parity(names, axis)
            state, target = mirror(state, axis, parity), mirror(target, axis, parity)
            forcing = mirror(forcing, axis, forcing_parity)
            mask = None if mask is None else mask.flip(-1 if axis == "x" else -2)
    return state, target, forcing, mask


def add_noise(state: Tensor, scale: Tensor, amount: float, mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """White noise of `amount` standard deviations of the one-lead change on a normalised state (B, C, H, W);
    none on masked cells. `scale` (C, 1, 1) is that standard deviation in units of the state."""
    noise = torch.randn(state.shape, generator=generator, device=generator.device).to(state) * (amount * scale)
    return state + (noise if mask is None else noise.masked_fill(mask, 0.0))

"""Augmentation of training pairs: mirrors that keep the physics, shifts of the model's own grid, and small noise."""

import numpy as np
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


def random_axes(generator: torch.Generator) -> str:
    """Along which axes to mirror a batch: "", "x", "y" or "xy", each axis with probability 1/2."""
    return "".join(axis for axis in "xy" if torch.rand((), generator=generator, device=generator.device) < 0.5)


def mirror_state(fields: Tensor, axes: str, names: tuple[str, ...]) -> Tensor:
    """Fields (..., C, H, W) of the variables `names` in store units mirrored along `axes`, winds with their sign.

    Physical fields, because a change of sign of the field is one of the state only where the mean is zero."""
    for axis in axes:
        fields = mirror(fields, axis, state_parity(names, axis))
    return fields


def mirror_forcing(fields: Tensor, axes: str, parity: Tensor) -> Tensor:
    """Forcing (B, F, H, W) mirrored along `axes`; parity (F,) is that of either mirror."""
    for axis in axes:
        fields = mirror(fields, axis, parity)
    return fields


def random_offset(multiple: int, *counters: int) -> tuple[int, int]:
    """How many cells (y, x) to add above and to the left of a domain whose coarse cells are `multiple` wide; by these
    counters alone, and on the host, because a GPU would have to be waited for."""
    return tuple(np.random.default_rng(counters).integers(multiple, size=2).tolist())


def season_shift(batch: int, days: float, generator: torch.Generator) -> np.ndarray:
    """(B,) timedelta64 by which the day of the year that is told is off, `days` standard deviation."""
    drawn = torch.randn(batch, generator=generator, device=generator.device).cpu().numpy() * days
    return (drawn * 86400).astype("timedelta64[s]")


def add_noise(state: Tensor, scale: Tensor, amount: float, mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """White noise of `amount` standard deviations of the one-lead change on normalised states (..., C, H, W);
    none on masked cells. `scale` (C, 1, 1) is that standard deviation in units of the state."""
    noise = torch.randn(state.shape, generator=generator, device=generator.device).to(state) * (amount * scale)
    return state + (noise if mask is None else noise.masked_fill(mask, 0.0))

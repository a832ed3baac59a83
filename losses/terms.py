"""L1, MSE and gradient terms: pure functions of an error, one value per channel.

error (B, C, H, W); valid (C, H, W) bool, True for cells that count, or None for all. A channel without a valid cell
gives 0.
"""

import torch
from torch import Tensor


def l1(error: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean absolute error, (C,)."""
    return masked_mean(error.abs(), valid)


def mse(error: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared error, (C,)."""
    return masked_mean(error.square(), valid)


def gradient(error: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean absolute error of the differences between neighbouring cells, (C,), averaged over both directions."""
    rows, columns = (None if valid is None else valid.narrow(a, 1, valid.shape[a] - 1)
                     & valid.narrow(a, 0, valid.shape[a] - 1) for a in (-2, -1))  # fmt: skip
    return (masked_mean(error.diff(dim=-2).abs(), rows) + masked_mean(error.diff(dim=-1).abs(), columns)) / 2


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of (B, C, H, W) over batch and valid cells, (C,)."""
    if valid is None:
        return x.mean(dim=(0, 2, 3))
    count = valid.sum(dim=(1, 2)).clamp(min=1) * x.shape[0]
    return torch.where(valid, x, 0.0).sum(dim=(0, 2, 3)) / count

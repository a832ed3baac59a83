"""L1, MSE and gradient terms: pure functions of (pred, target), one value per channel.

pred, target: (B, C, H, W). valid: (C, H, W) bool, True where a cell counts, or None for everywhere; a channel
without a valid cell gives 0.
"""

import torch
from torch import Tensor


def l1(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean absolute error, (C,)."""
    return masked_mean((pred - target).abs(), valid)


def mse(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared error, (C,)."""
    return masked_mean((pred - target).square(), valid)


def gradient(pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean |d(pred) - d(target)|, (C,), with d the difference of neighbouring cells in y and in x; a
    difference counts where both of its cells do. The mean of the two directions."""
    error = pred - target  # d is linear
    terms = []
    for axis in (-2, -1):
        n = error.shape[axis] - 1
        both = None
        if valid is not None:
            both = valid.narrow(axis, 0, n) & valid.narrow(axis, 1, n)
        terms.append(masked_mean((error.narrow(axis, 1, n) - error.narrow(axis, 0, n)).abs(), both))
    return (terms[0] + terms[1]) / 2


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of (B, C, H, W) over batch and valid cells, (C,)."""
    if valid is None:
        return x.mean(dim=(0, 2, 3))
    cells = valid.sum(dim=(1, 2)).clamp(min=1) * x.shape[0]
    return torch.where(valid, x, 0.0).sum(dim=(0, 2, 3)) / cells

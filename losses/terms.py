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
    return sum(masked_mean(error.diff(dim=dim).abs(), both_valid(valid, dim)) for dim in (-2, -1)) / 2


@torch.no_grad()
def backward(error: Tensor, weights: dict[str, Tensor], valid: Tensor | None = None) -> Tensor:
    """The gradient (B, C, H, W) to the error of the sum over channels of the terms times their weights (C,).

    Written out, because autograd would keep the fields three times and pass over them twice as often.
    """
    share = {n: w[:, None, None] for n, w in weights.items()}
    count = cells(error, valid)
    out = torch.sign(error).mul_(share["l1"] / count).addcmul_(error, 2 * share["mse"] / count)
    for dim in (-2, -1):
        step, both = error.diff(dim=dim), both_valid(valid, dim)
        step = step.sign_().mul_(share["gradient"] / (2 * cells(step, both)))
        step = step if both is None else step.masked_fill_(~both, 0.0)
        out.narrow(dim, 1, step.shape[dim]).add_(step)
        out.narrow(dim, 0, step.shape[dim]).sub_(step)
    return out


def both_valid(valid: Tensor | None, dim: int) -> Tensor | None:
    """Whether a cell and the next along `dim` are both valid."""
    n = 0 if valid is None else valid.shape[dim] - 1
    return None if valid is None else valid.narrow(dim, 1, n) & valid.narrow(dim, 0, n)


def cells(x: Tensor, valid: Tensor | None) -> Tensor | int:
    """How many values of a channel of (B, C, H, W) count, (C, 1, 1) or a number."""
    return x.numel() // x.shape[1] if valid is None else x.shape[0] * valid.sum((1, 2), keepdim=True).clamp(min=1)


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of (B, C, H, W) over batch and valid cells, (C,)."""
    if valid is None:
        return x.mean(dim=(0, 2, 3))
    return torch.where(valid, x, 0.0).sum(dim=(0, 2, 3)) / cells(x, valid).flatten()

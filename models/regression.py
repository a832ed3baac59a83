"""Linear regression of each variable's change on its own last hours, by least squares.

    change over one step / scale = a_0 x(t) + sum over k of a_k [x(t - k + 1) - x(t - k)] / scale

The coefficients are the same in every cell. With a day of history they hold the daily cycle of the day before.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

PRIOR = 2.0  # pairs without change that are added to those seen (ridge regression, Hoerl and Kennard 1970)


def fit_regression(pairs: Iterable[tuple[Tensor, Tensor]], scale: Tensor, valid: Tensor | None = None) -> Tensor:
    """Weights (C, T): the change of a variable in units of `scale` (C, 1, 1) is the sum over its T last states times
    these. pairs: states (T, C, H, W) and the state (C, H, W) one step later, normalised; valid (C, H, W): the cells
    that count, None for all."""
    gram = moment = 0.0
    for states, target in pairs:
        steps = (states[1:] - states[:-1]).flip(0) / scale
        terms = torch.cat([states[-1:], steps]).double().movedim(0, 1)  # (C, T, H, W)
        change = ((target - states[-1]) / scale).double()
        weight = torch.ones_like(change) if valid is None else valid.double()
        share = weight / weight.sum(dim=(1, 2), keepdim=True).clamp(min=1)
        gram = gram + torch.einsum("cthw,cshw,chw->cts", terms, terms, share)
        moment = moment + torch.einsum("cthw,chw,chw->ct", terms, change, share)
    fitted = torch.linalg.solve(gram + PRIOR * torch.eye(gram.shape[-1], device=gram.device), moment)
    weights = torch.zeros_like(fitted)  # from coefficients of the state and of its changes to one for each state
    weights[:, -1] = fitted[:, 0]
    for k in range(1, fitted.shape[1]):
        step = fitted[:, k] / scale.flatten()
        weights[:, -k] += step
        weights[:, -k - 1] -= step
    return weights.float()


def regress(states: Tensor, weights: Tensor) -> Tensor:
    """The change (B, C, H, W) of states (B, T, C, H, W) by the weights (C, T)."""
    return torch.einsum("btchw,ct->bchw", states, weights)

"""Linear autoregression of each variable on its own last hours: the change that needs no network.

    change over one step / scale = a_0 x(t) + sum over k of a_k [x(t - k + 1) - x(t - k)] / scale

The same few coefficients for every cell, by least squares. With a day of history it has the daily cycle of the day
before, with one hour the trend and the way back to the mean; what is not linear, and what has to do with other
variables or other places, is left to the network.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

PRIOR = 2.0  # hours without change that are added to those seen: few hours prove little


def fit_regression(pairs: Iterable[tuple[Tensor, Tensor]], scale: Tensor, valid: Tensor | None = None) -> Tensor:
    """The weights (C, T) of ResidualUNet's `regression`: the change of a variable in units of `scale` (C,) is the sum
    over its T last states times these.

    pairs: states (1, T, C, H, W), in order of time, and the state (1, C, H, W) a step later, normalised, 0 where
    valid (C, H, W) is False (None: all count). Every pair counts the same; PRIOR times the unit matrix is added to
    their covariances (ridge regression, Hoerl and Kennard 1970)."""
    gram = moment = 0.0
    for states, target in pairs:
        terms, change = _terms(states, scale), (target - states[:, -1]) / scale[:, None, None]
        terms, change = terms[0].double().flatten(2), change[0].double().flatten(1)  # (C, T, cells), (C, cells)
        if valid is not None:
            counted = valid.flatten(1)
            share = counted.sum(dim=1).clamp(min=1)[:, None] / counted.shape[1]
            terms = terms * (counted / share)[:, None].sqrt()
            change = change * (counted / share).sqrt()
        cells = change.shape[-1]
        gram = gram + terms @ terms.mT / cells
        moment = moment + (terms @ change[..., None]) / cells
    fitted = torch.linalg.solve(gram + PRIOR * torch.eye(gram.shape[-1], device=gram.device), moment)[..., 0]
    # from coefficients of the present state and the changes before it to one for each state
    weights = torch.zeros_like(fitted)
    weights[:, -1] = fitted[:, 0]
    for k in range(1, fitted.shape[1]):
        weights[:, -k] += fitted[:, k] / scale
        weights[:, -k - 1] -= fitted[:, k] / scale
    return weights.float()


def regress(states: Tensor, weights: Tensor) -> Tensor:
    """The change (B, C, H, W) of states (B, T, C, H, W) by the weights (C, T), in units of the scale they are fitted
    with."""
    change = states[:, 0] * weights[:, 0, None, None]
    for hour in range(1, states.shape[1]):
        change = change.addcmul(states[:, hour], weights[:, hour, None, None])
    return change


def _terms(states: Tensor, scale: Tensor) -> Tensor:
    """(B, C, T, H, W): the present state, then the changes up to it, the last one first, in units of `scale`."""
    changes = (states[:, 1:] - states[:, :-1]).flip(1) / scale[:, None, None]
    return torch.cat([states[:, -1:], changes], dim=1).transpose(1, 2)

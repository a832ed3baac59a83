"""WeatherLoss: 0.4 L1 + 0.3 spectral + 0.2 MSE + 0.1 gradient."""

import torch
from torch import Tensor, nn

from losses.smooth import smooth
from losses.spectral import SpectralLoss
from losses.terms import gradient, l1, mse

WEIGHTS = {"l1": 0.4, "spectral": 0.3, "mse": 0.2, "gradient": 0.1}


class WeatherLoss(nn.Module):
    """The weighted sum of the four terms, averaged over channels with equal weight.

    Each term is divided by its value for persistence, where `set_reference` was given some, so that the weights are
    those of the terms: a model that is persistence has a loss of 1. L1, MSE and gradient compare fields smoothed by
    a Gaussian of `width` cells: where the detail of a scale cannot be placed, these three make it disappear, and the
    spectral term, which wants the right amount of it, is left alone there.

    forward(pred, target, valid=None, width=0.0): fields (B, C, H, W) in units in which every channel changes by about
    1 per step (the standard deviation of the change), valid (C, H, W) bool or None; channels without a valid cell do
    not count. Returns (loss, terms): a scalar, and per term its unweighted values (C,), detached, as divided.
    """

    def __init__(self, spacing: tuple[float, float] = (1.0, 1.0), weights: dict[str, float] = WEIGHTS):
        super().__init__()
        self.weights, self.spectral = dict(weights), SpectralLoss(spacing)
        self.reference: dict[str, Tensor] = {}

    def set_reference(self, terms: list[dict[str, Tensor]]) -> None:
        """Take the mean of these terms (of persistence, over some pairs) as the unit of each term and channel."""
        for name in self.weights:
            mean = torch.stack([t[name] for t in terms]).mean(dim=0)
            self.reference[name] = torch.where(mean > 0, mean, 1.0)

    def forward(
        self, pred: Tensor, target: Tensor, valid: Tensor | None = None, width: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        error = pred - target
        if width > 0:
            error = smooth(error if valid is None else torch.where(valid, error, 0.0), width)
        zero = torch.zeros_like(error)
        terms = {name: term(error, zero, valid) for name, term in (("l1", l1), ("mse", mse), ("gradient", gradient))}
        terms["spectral"] = self.spectral(pred, target, valid)
        terms = {name: terms[name] / self.reference.get(name, 1.0) for name in self.weights}
        total = sum(weight * terms[name] for name, weight in self.weights.items())
        counted = total if valid is None else total[valid.any(dim=-1).any(dim=-1)]
        return counted.mean(), {name: value.detach() for name, value in terms.items()}

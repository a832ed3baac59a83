"""WeatherLoss: 0.4 L1 + 0.3 spectral + 0.2 MSE + 0.1 gradient."""

from collections.abc import Iterable

import torch
from torch import Tensor

from losses.spectral import spectral
from losses.terms import gradient, l1, mse

TERMS = ("l1", "spectral", "mse", "gradient")


class WeatherLoss:
    """The weighted sum of the four terms, averaged over channels.

    Each term of each channel is divided by its value for persistence (`calibrate`), so that the weights mean what they
    say and an untrained model has a loss of 1. Fields are (B, C, H, W) in units of the standard deviation of the
    change over one step. detail: weight of amplitude errors relative to phase errors in the spectral term.
    groups: in how many groups of channels the spectral term is computed, to hold fewer spectra at a time.
    """

    def __init__(self, weights: tuple[float, ...], detail: float, groups: int = 1):
        self.weights, self.detail, self.groups = dict(zip(TERMS, weights, strict=True)), detail, groups
        self.unit: dict[str, Tensor] = {}

    def calibrate(self, pairs: Iterable[tuple[Tensor, Tensor]], valid: Tensor | None = None) -> None:
        """Take the mean of each term over (persistence, truth) pairs as its unit."""
        found = [self(now, then, valid)[1] for now, then in pairs]
        self.unit = {n: torch.stack([terms[n] for terms in found]).mean(dim=0).clamp(min=1e-9) for n in TERMS}

    @torch.no_grad()
    def __call__(self, pred: Tensor, target: Tensor, valid: Tensor | None = None) -> tuple[Tensor, dict, Tensor]:
        """The loss (), its terms (C,) before weights and units, and its gradient (B, C, H, W) to pred.

        The gradient comes at once, so that nothing of the loss is in memory while the network goes backward.
        valid (C, H, W): the cells that count, None for all.
        """
        error = pred - target if valid is None else (pred - target).masked_fill_(~valid, 0.0)
        counted = torch.ones(error.shape[1], device=error.device) if valid is None else valid.any(dim=-1).any(dim=-1)
        share = {n: w * counted / counted.sum() / self.unit.get(n, 1.0) for n, w in self.weights.items()}
        with torch.enable_grad():
            leaf = error.detach().requires_grad_()
            terms = {"l1": l1(leaf, valid), "mse": mse(leaf, valid), "gradient": gradient(leaf, valid)}
            (out,) = torch.autograd.grad(sum((share[n] * t).sum() for n, t in terms.items()), leaf)
        size = -(-error.shape[1] // self.groups)
        parts = zip(error.split(size, 1), target.split(size, 1), share["spectral"].split(size), out.split(size, 1),
                    strict=True)  # fmt: skip
        values = []
        for e, t, weight, place in parts:
            value, of_error = spectral(e, t, self.detail, weight)
            values.append(value)
            place.add_(of_error)
        terms = {n: t.detach() for n, t in terms.items()} | {"spectral": torch.cat(values)}
        if valid is not None:
            out.masked_fill_(~valid, 0.0)
        return sum((share[n] * terms[n]).sum() for n in TERMS), terms, out

"""WeatherLoss: 0.4 L1 + 0.3 spectral + 0.2 MSE + 0.1 gradient."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from losses.spectral import power_by_octave, spectral
from losses.terms import backward, gradient, l1, mse

TERMS = ("l1", "spectral", "mse", "gradient")


class WeatherLoss:
    """The weighted sum of the four terms, averaged over channels.

    Each term of each channel is divided by its value for persistence at the same lead (`calibrate`), so that the
    weights mean what they say at every lead of a roll-out, and an untrained model has a loss of 1. Fields are
    (B, C, H, W) in units of the standard deviation of the change over one step. detail: weight of amplitude errors
    relative to phase errors in the spectral term. groups: in how many groups of channels the spectral term is computed,
    to hold fewer spectra at a time.
    """

    def __init__(self, weights: tuple[float, ...], detail: float, groups: int = 1):
        self.weights, self.detail, self.groups = dict(zip(TERMS, weights, strict=True)), detail, groups
        self.usual: Tensor | None = None  # (C, octaves), see losses/spectral.py
        self.shares: dict[int, dict[str, Tensor]] = {}  # by calibrated lead: the weight of each term and channel, (C,)

    @torch.no_grad()
    def set_usual(self, fields: Iterable[Tensor]) -> None:
        """Take the mean power of true fields (B, C, H, W) as the usual power of detail."""
        self.usual = torch.stack([power_by_octave(f) for f in fields]).mean(dim=0)

    @torch.no_grad()
    def calibrate(self, lead: int, pairs: Iterable[tuple[Tensor, Tensor]], valid: Tensor | None = None) -> None:
        """Take the mean of each term over (persistence, truth) pairs `lead` steps apart as its unit. Channels without
        a valid cell do not count."""
        found = [self(now - then, then, valid)[1] for now, then in pairs]
        units = {n: torch.stack([terms[n] for terms in found]).mean(dim=0).clamp(min=1e-9) for n in TERMS}
        counted = torch.ones_like(units["l1"]) if valid is None else valid.flatten(1).any(dim=1).float()
        self.shares[lead] = {n: w * counted / counted.sum() / units[n] for n, w in self.weights.items()}

    def share(self, lead: int, channels: int, device) -> dict[str, Tensor]:
        """The weights at a lead: those of the last calibrated lead up to it; the plain ones without any."""
        if self.shares:
            return self.shares[max((k for k in self.shares if k <= lead), default=min(self.shares))]
        return {n: torch.full((channels,), w / channels, device=device) for n, w in self.weights.items()}

    @torch.no_grad()
    def __call__(
        self, error: Tensor, target: Tensor, valid: Tensor | None = None, lead: int = 1
    ) -> tuple[Tensor, dict, Tensor]:
        """The loss () of error = pred - target, its terms (C,) before weights and units, and its gradient (B, C, H, W)
        to pred.

        The gradient is computed here and not by pred's autograd, so that nothing of the loss is in memory while the
        network goes backward.

        valid (C, H, W): the cells that count, None for all. lead: steps since the initial time.
        """
        share = self.share(lead, error.shape[1], error.device)
        error = error if valid is None else error.masked_fill(~valid, 0.0)
        terms = {"l1": l1(error, valid), "mse": mse(error, valid), "gradient": gradient(error, valid)}
        out = backward(error, share, valid)
        values, size = [], math.ceil(error.shape[1] / self.groups)
        for first in range(0, error.shape[1], size):
            group = slice(first, first + size)
            usual = None if self.usual is None else self.usual[group]
            value, of_error = spectral(error[:, group], target[:, group], self.detail, share["spectral"][group], usual)
            values.append(value)
            out[:, group].add_(of_error)
        out = out if valid is None else out.masked_fill_(~valid, 0.0)
        terms["spectral"] = torch.cat(values)
        return torch.stack([(share[n] * t).sum() for n, t in terms.items()]).sum(), terms, out

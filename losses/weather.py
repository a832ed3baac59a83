"""WeatherLoss: 0.4 L1 + 0.3 spectral + 0.2 MSE + 0.1 gradient."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from losses.smooth import smooth
from losses.spectral import SpectralLoss, counted
from losses.terms import gradient, l1, mse

LEAST = 1e-4  # smallest unit of a spectral band, as a share of the channel's largest
EVERY = slice(None)  # all channels
EDGE, SHARE = 25, 0.08
WEIGHTS = {"l1": 0.4, "spectral": 0.3, "mse": 0.2, "gradient": 0.1}


class WeatherLoss(nn.Module):
    """The weighted sum of the four terms, averaged over channels with equal weight.

    Each term of each channel, and each band of the spectral term, is divided by its value for persistence, where
    `set_reference` was given some: then the weights are those of the terms, a model that is persistence has a loss of
    1, and the finest band counts like the others. L1, MSE and gradient compare fields smoothed by a Gaussian of
    `width` cells: where detail cannot be placed these three make it disappear, so it is left to the spectral term,
    which wants the right amount of it. That term's windows do not see the outermost cells, where what comes in is not
    known: in L1, MSE and gradient the errors of the EDGE outermost cells (SHARE of the shorter side, where that is
    less) are multiplied by `edge_weight`.

    forward(pred, target, valid=None, width=0.0): fields (B, C, H, W) in units in which every channel changes by about
    1 per step (the standard deviation of the change), valid (C, H, W) bool or None; channels without a valid cell do
    not count. `channels` says which ones the fields are, where they are not all; `since`, for the amount of change in
    the spectral term, is the forecast a step earlier and what `change` gives for the truth. Returns (loss, terms): a
    scalar, and per term its unweighted values (C,), detached, as divided.
    """

    def __init__(
        self, spacing: tuple[float, float] = (1.0, 1.0), amplitude: float = 1.0, weights: dict[str, float] = WEIGHTS,
        lean: bool = False, later: float | None = None, edge_weight: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        self.edge_weight = edge_weight
        self.weights, self.spectral = dict(weights), SpectralLoss(spacing, amplitude, lean, later)
        self.reference: dict[float, dict[str, Tensor]] = {}

    @torch.no_grad()
    def set_reference(self, pairs: list[tuple[Tensor, Tensor]], valid: Tensor | None, width: float) -> None:
        """Take the mean of the terms over these pairs (persistence, target) as the unit of the terms at `width`."""
        self.reference.pop(width, None)
        for _ in range(2):  # once for the size of the spectral unit, and again with the floor that is a share of it
            every = [self.terms(now, target, valid, width) for now, target in pairs]
            unit = self.reference.get(width, {})
            means = {n: torch.stack([t[n] for t in every]).mean(dim=0) * unit.get(n, 1.0) for n in every[0]}
            # a band without weather in it must not count like the others
            weakest = LEAST * means["spectral"].amax(dim=-1, keepdim=True)
            means["spectral"] = torch.maximum(means["spectral"], weakest)
            self.reference[width] = {n: torch.where(m > 0, m, 1.0) for n, m in means.items()}

    def terms(
        self, pred: Tensor, target: Tensor, valid: Tensor | None, width: float, channels: slice = EVERY,
        since: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The terms (C,), and (C, bands) for the spectral one, divided by the reference of this width. The fields are
        those of `channels` alone."""
        unit = {n: u[channels] for n, u in self.reference.get(width, {}).items()}
        error = pred - target
        if width > 0:
            error = smooth(error if valid is None else torch.where(valid, error, 0.0), width)
        if self.edge_weight != 1:
            error = error * edge_weights(error.shape[-2:], self.edge_weight, error.device)
        zero = torch.zeros_like(error)
        terms = {
            n: term(error, zero, valid) / unit.get(n, 1.0)
            for n, term in (("l1", l1), ("mse", mse), ("gradient", gradient))
        }
        return terms | {"spectral": self.spectral(pred, target, valid, unit.get("spectral"), since)}

    @torch.no_grad()
    def change(self, before: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """The power of the truth's change over one step, by band, for `since`."""
        return self.spectral.power(counted(target - before, valid))

    def forward(
        self, pred: Tensor, target: Tensor, valid: Tensor | None = None, width: float = 0.0, channels: slice = EVERY,
        since: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        terms = self.terms(pred, target, valid, width, channels, since)
        bands = terms["spectral"]
        terms["spectral"] = bands.mean(dim=-1) if width in self.reference else bands.sum(dim=-1)
        total = sum(weight * terms[name] for name, weight in self.weights.items())
        counted = total if valid is None else total[valid.any(dim=-1).any(dim=-1)]
        return counted.mean(), {name: terms[name].detach() for name in self.weights}


@lru_cache(maxsize=4)
def edge_weights(shape: tuple[int, int], weight: float, device: torch.device) -> Tensor:
    """(H, W): `weight` in the outermost cells, 1 inside."""
    width = max(1, min(EDGE, int(SHARE * min(shape))))
    out = torch.full(shape, weight, device=device)
    out[width:-width, width:-width] = 1.0
    return out

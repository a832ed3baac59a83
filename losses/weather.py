"""WeatherLoss: 0.4 L1 + 0.3 spectral + 0.2 MSE + 0.1 gradient."""

from torch import Tensor, nn

from losses.spectral import SpectralLoss
from losses.terms import gradient, l1, mse

WEIGHTS = {"l1": 0.4, "spectral": 0.3, "mse": 0.2, "gradient": 0.1}


class WeatherLoss(nn.Module):
    """The weighted sum of the four terms, averaged over channels with equal weight.

    forward(pred, target, valid=None): fields (B, C, H, W) in units in which every channel changes by about 1 per
    step (the standard deviation of the change), valid (C, H, W) bool or None; channels without a valid cell do not
    count. Returns (loss, terms): a scalar, and per term its unweighted values (C,), detached.
    """

    def __init__(self, spacing: tuple[float, float] = (1.0, 1.0), weights: dict[str, float] = WEIGHTS):
        super().__init__()
        self.weights = dict(weights)
        self.functions = {"l1": l1, "spectral": SpectralLoss(spacing), "mse": mse, "gradient": gradient}

    def forward(self, pred: Tensor, target: Tensor, valid: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        terms = {name: self.functions[name](pred, target, valid) for name in self.weights}
        total = sum(weight * terms[name] for name, weight in self.weights.items())
        counted = total if valid is None else total[valid.any(dim=-1).any(dim=-1)]
        return counted.mean(), {name: value.detach() for name, value in terms.items()}

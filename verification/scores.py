"""Scores of one field against its truth, as sums that add over cases before any ratio or root is taken.

Every `*_sums` function takes (y, x) fields, numpy or torch, and returns numbers or arrays that add key by key over
cases. The functions below them turn sums into a score, element by element if the sums carry an axis of bootstrap draws,
and NaN if there is nothing to divide by (a CSI without an event). `scored` (y, x) is True where a cell counts, None for
all of them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def error_sums(forecast, truth, scored=None) -> dict[str, float]:
    """Sums of error, absolute error and squared error, and of the fields' spatial variation.

    `variation_*` is the sum over cells of the squared departure from the field's own mean: with it the
    ratio of standard deviations compares structure in space and does not grow with the spread of cases.
    """
    forecast, truth = _cells(forecast, scored), _cells(truth, scored)
    error = forecast - truth
    return {
        "n": float(error.size),
        "error": float(error.sum()),
        "absolute": float(np.abs(error).sum()),
        "squared": float(error @ error),
        "variation_forecast": _variation(forecast),
        "variation_truth": _variation(truth),
    }


def rmse(sums: dict) -> float:
    """Root of the mean squared error over cells and cases, in the field's unit."""
    return np.sqrt(ratio(sums["squared"], sums["n"]))


def mae(sums: dict) -> float:
    """Mean absolute error, in the field's unit."""
    return ratio(sums["absolute"], sums["n"])


def bias(sums: dict) -> float:
    """Mean of forecast - truth, in the field's unit."""
    return ratio(sums["error"], sums["n"])


def std_ratio(sums: dict) -> float:
    """Spatial standard deviation of the forecast over that of the truth: below 1 is smoothed."""
    return np.sqrt(ratio(sums["variation_forecast"], sums["variation_truth"]))


def skill(error: float, reference: float) -> float:
    """1 - error/reference: 1 is perfect, 0 as good as the reference."""
    return 1.0 - ratio(error, reference)


def moments(field, scored=None) -> dict[str, float]:
    """Number, sum and sum of squares of the cells, for `pooled_std`."""
    cells = _cells(field, scored)
    return {"n": float(cells.size), "sum": float(cells.sum()), "square": float(cells @ cells)}


def pooled_std(sums: dict) -> float:
    """Standard deviation over cells and cases together, about their overall mean; from summed `moments`."""
    square = ratio(sums["square"], sums["n"])
    variance = square - ratio(sums["sum"], sums["n"]) ** 2
    return np.sqrt(np.where(variance > 1e-14 * square, variance, 0.0 * variance))[()]  # below that it is rounding


def anomaly_sums(forecast, truth, normal, scored=None) -> dict[str, float]:
    """Products of the departures of forecast and truth from `normal` (the climatology), for `correlation`."""
    forecast, truth = _cells(forecast - normal, scored), _cells(truth - normal, scored)
    return {"cross": float(forecast @ truth), "forecast": float(forecast @ forecast), "truth": float(truth @ truth)}


def correlation(sums: dict) -> float:
    """The anomaly correlation (uncentred, over cells and cases): 1 is perfect, about 0 the weather of another day."""
    return ratio(sums["cross"], np.sqrt(sums["forecast"] * sums["truth"]))


def contingency(forecast, truth, threshold: float, scored=None) -> dict[str, float]:
    """The 2 x 2 table of the event "at least `threshold`", counted over cells."""
    forecast, truth = _cells(forecast, scored) >= threshold, _cells(truth, scored) >= threshold
    hits, forecasts, events = (float(np.count_nonzero(e)) for e in (forecast & truth, forecast, truth))
    negatives = forecast.size - forecasts - events + hits
    return {"hits": hits, "false_alarms": forecasts - hits, "misses": events - hits, "correct_negatives": negatives}


def csi(table: dict) -> float:
    """Critical success index: hits / (hits + misses + false alarms)."""
    return ratio(table["hits"], table["hits"] + table["misses"] + table["false_alarms"])


def pod(table: dict) -> float:
    """Probability of detection: hits / (hits + misses)."""
    return ratio(table["hits"], table["hits"] + table["misses"])


def far(table: dict) -> float:
    """False alarm ratio: false alarms / (hits + false alarms)."""
    return ratio(table["false_alarms"], table["hits"] + table["false_alarms"])


def frequency_bias(table: dict) -> float:
    """Area forecast over area observed; far below 1 at a high threshold is what blur looks like."""
    return ratio(table["hits"] + table["false_alarms"], table["hits"] + table["misses"])


def ets(table: dict) -> float:
    """Equitable threat score: CSI without the hits that chance would give."""
    forecasts, events = table["hits"] + table["false_alarms"], table["hits"] + table["misses"]
    chance = ratio(forecasts * events, sum(table.values()))
    return ratio(table["hits"] - chance, forecasts + table["misses"] - chance)


def fss_sums(forecast, truth, threshold: float, window: int, scored=None) -> dict[str, float]:
    """Sums for the fractions skill score of "at least `threshold`" over square windows `window` cells wide.

    Only windows that lie wholly inside the domain and touch no unscored cell count (no padding).
    Source: Roberts and Lean (2008), eqs. 5-7.
    """
    forecast, truth = torch.as_tensor(forecast), torch.as_tensor(truth)
    if window > min(truth.shape):
        return {"difference": 0.0, "reference": 0.0}
    fractions = _window_shares(torch.stack([forecast >= threshold, truth >= threshold]), window)
    if scored is not None:
        fractions = fractions[:, _window_shares(torch.as_tensor(scored)[None], window)[0] == 1.0]
    f, o = fractions
    return {
        "difference": (f - o).square().sum().item(),
        "reference": (f.square().sum() + o.square().sum()).item(),
    }


def fss(sums: dict) -> float:
    """FSS = 1 - sum (f - o)^2 / (sum f^2 + sum o^2); NaN if neither field ever had an event."""
    return 1.0 - ratio(sums["difference"], sums["reference"])


def window_cells(width: float, spacing: float, shape: tuple[int, int]) -> int:
    """Cells across a window `width` wide on cells `spacing` wide (same unit): the nearest odd number, at most
    8 % of the domain's shorter side, at least 3."""
    odd = 2 * round((width / spacing - 1) / 2) + 1
    widest = int(0.08 * min(shape))
    return max(3, min(odd, widest - (widest + 1) % 2))


def ratio(a, b):
    """a / b, NaN where b is 0; element by element."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b != 0)[()]


def _window_shares(events: Tensor, window: int) -> Tensor:
    """Share of True cells in every window x window square inside (n, y, x): avg_pool2d with stride 1 and no padding.

    From running counts, exact in integers, so that a wide window costs no more than a narrow one.
    """
    counts = F.pad(events.cumsum(-2, dtype=torch.int32).cumsum(-1, dtype=torch.int32), (1, 0, 1, 0))
    bottom, top = counts[:, window:], counts[:, :-window]
    inside = bottom[..., window:] - bottom[..., :-window] - top[..., window:] + top[..., :-window]
    return inside.double() / window**2


def _cells(field, scored) -> np.ndarray:
    field = np.asarray(field, dtype=np.float64)
    return field.ravel() if scored is None else field[np.asarray(scored)]


def _variation(cells: np.ndarray) -> float:
    cells = cells - cells.mean() if cells.size else cells
    return float(cells @ cells)

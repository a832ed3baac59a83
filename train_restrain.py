"""After training: which variables the validation part shows to be forecast better than persistence.

The others are held: their change is left out of forecasts, so that they stay as they are. On a long record every
variable passes. On a short one, of a day or two, a network forecasts each variable as the few training hours had it,
and for some that is worse than no change at all; persistence is then the better forecast.
"""

import math

import numpy as np
import torch
from torch import Tensor

from data.dataset import find_pairs, stack
from data.normalise import limiter, normalise
from models.rollout import rollout_step
from train_data import TrainingData
from training.device import autocast

FEWEST = 3  # validation hours; with fewer nothing is tested, nothing held
MOST, LEAST = 72, 8  # hours that are tested: many of a small domain, few of a large one
CELLS = 600_000  # that all of them together have, between the two
# Student's t that a mean exceeds by chance in 5 % of cases, by degrees of freedom (Student 1908); from 10 on as for 10
T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)


def find_held(data: TrainingData, model, history: int) -> list[str]:
    """The variables to hold; prints which. None where no variable passes: then the model is not trained yet, and to
    hold everything would hide it."""
    times = find_pairs(data.store.times, data.lead, data.split.validation, history, 1)
    if len(times) < FEWEST:
        return []
    count = min(max(CELLS // int(np.prod(data.store.grid.shape)), LEAST), MOST, len(times))
    times = times[np.linspace(0, len(times) - 1, count).round().astype(int)]
    fails = ~proved(torch.stack([gained(data, model, t[None]) for t in times]).cpu())
    if not fails.any() or fails.all():
        return []
    held = [n for n, fail in zip(data.names, fails.tolist(), strict=True) if fail]
    print(
        f"held: {' '.join(held)} will stay as they are in forecasts, since {count} validation hours do not show them "
        "better forecast than by persistence (t-test, 95 %); the same command with --restrain False frees them"
    )
    return held


def proved(gains: Tensor) -> Tensor:
    """(C,) bool: whether the mean of gains (N, C), one of each of at least two hours, is above 0 by a one-sided t-test
    at 95 %."""
    n = len(gains)
    return gains.mean(dim=0) > T95[min(n - 1, len(T95)) - 1] * gains.std(dim=0) / math.sqrt(n)


@torch.no_grad()
def gained(data: TrainingData, model, time: np.ndarray) -> Tensor:
    """(C,): RMSE of persistence - RMSE at the next lead from one initial time, in standard deviations. Not their ratio:
    in an hour with next to no echo a forecast can be a hundred times worse than persistence, and no matter."""
    states, true = (
        normalise(x.to(data.device), data.statistics, data.mask)
        for x in (data.series.states(time), stack([data.hours(time[0] + data.lead)]))
    )
    with autocast(data.device):
        state = rollout_step(model, states, *data.forcing(time), data.statistics.scale)
    valid = torch.ones_like(true, dtype=torch.bool) if data.valid is None else data.valid
    state = limiter(data.statistics, data.mask)(state)[0]
    cells = valid.expand_as(true).sum(dim=(0, -2, -1)).clamp(min=1)
    now, then = ((((x - true).square() * valid).sum(dim=(0, -2, -1)) / cells).sqrt() for x in (states[:, -1], state))
    return now - then

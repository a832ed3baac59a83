"""Skill against persistence during training: sums over cases first, ratios last, physical units throughout."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from data.dataset import Pairs
from data.forcing import Forcing
from data.normalise import Statistics, denormalise
from data.variables import lookup
from models.rollout import rollout

STARTS = 48  # roll-outs, spread evenly over the validation part
LEADS = 6  # steps of each
PERSISTENCE_LIKE = 0.05  # a forecast whose change is this small a share of the true change is persistence


class Validation:
    """Scores a model in roll-outs of up to LEADS steps from up to STARTS initial times.

    forecast(model, times (B,), steps) yields the forecasts (B, C, H, W) in physical units; truth(times) gives the true
    fields; starts(steps) the initial times from which so many steps have truth. valid (C, H, W) bool or None: the
    cells that count. processes share the initial times.
    """

    def __init__(
        self, names: list[str], forecast: Callable[..., Iterable], truth: Callable, starts: Callable,
        lead: np.timedelta64, valid: Tensor | None, batch_size: int, processes,
    ):  # fmt: skip
        self.names, self.forecast, self.truth, self.lead, self.valid = names, forecast, truth, lead, valid
        self.steps = next(k for k in range(LEADS, 0, -1) if len(starts(k)))
        times = starts(self.steps)
        # not every n-th: n may be 24, and then all are of one hour of the day
        times = times[np.unique(np.linspace(0, len(times) - 1, STARTS).round().astype(int))]
        self.batches = [times[i : i + batch_size] for i in range(0, len(times), batch_size)]
        self.processes = processes

    @torch.no_grad()
    def __call__(self, model) -> dict:
        """rmse, persistence_rmse, skill and change_ratio by variable one step ahead; rollout_skill at the last
        step; score, the mean skill over variables and steps, which chooses the best checkpoint."""
        sums = torch.zeros(self.steps, 4, len(self.names), dtype=torch.float64)
        for times in self.processes.share(self.batches):
            analysis = self.truth(times)
            for k, pred in enumerate(self.forecast(model, times, self.steps)):
                sums[k] += change_sums(pred, analysis, self.truth(times + (k + 1) * self.lead), self.valid).cpu()
        self.processes.sum_(sums)
        tables = [skill_table(s, self.names) for s in sums]
        skills = [s for table in tables for s in table["skill"].values() if s is not None]
        score = sum(skills) / len(skills) if skills else 0.0
        alarm = persistence_alarm(tables[0]["skill"], tables[0]["change_ratio"])
        return {**tables[0], "rollout_skill": tables[-1]["skill"], "score": score, "alarm": alarm}


def physical_forecasts(
    pairs: Pairs, forcing: Forcing, limit: Callable, statistics: Statistics
) -> tuple[Callable[..., Iterable], Callable]:
    """The functions forecast and truth that Validation needs, for initial times of `pairs`, in physical units."""
    device = statistics.mean.device
    floor = torch.tensor([lookup(n).scored_floor for n in statistics.names], device=device)[:, None, None]

    def physical(state: Tensor) -> Tensor:
        return torch.maximum(denormalise(state.to(device), statistics), floor)

    def forecast(network, times: np.ndarray, steps: int) -> Iterable:
        states = pairs.batch(np.searchsorted(pairs.times, times), range(0))[1].to(device)
        forcing_at = lambda k: forcing(times + k * pairs.lead)  # noqa: E731
        finish = lambda state, k: limit(state)[0]  # noqa: E731
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            yield from map(physical, rollout(network, states, forcing_at, statistics.scale, finish, steps))

    return forecast, lambda times: physical(torch.stack([pairs.hours(t) for t in times]))


def change_sums(forecast: Tensor, analysis: Tensor, truth: Tensor, valid: Tensor | None) -> Tensor:
    """(4, C) float64 sums over cases and valid cells: squared error of the forecast, squared error of persistence (the
    true change squared), squared change of the forecast, number of cells. Fields (B, C, H, W) in physical units."""
    fields = [forecast - truth, analysis - truth, forecast - analysis]
    count = torch.ones_like(truth, dtype=torch.bool) if valid is None else valid.expand_as(truth)
    squares = [torch.where(count, f, 0.0).double().square().sum(dim=(0, 2, 3)) for f in fields]
    return torch.stack([*squares, count.sum(dim=(0, 2, 3)).double()])


def skill_table(sums: Tensor, names: list[str]) -> dict[str, dict[str, float | None]]:
    """From summed `change_sums`: rmse, persistence_rmse, skill = 1 - rmse / persistence_rmse, and change_ratio, the
    root mean square change of the forecast over that of the truth; each {variable: number}, None for skill and ratio
    of a variable whose truth did not change at all."""
    error, persistence, change, cells = sums
    rmse, persistence_rmse = (error / cells).sqrt(), (persistence / cells).sqrt()
    table = {
        "rmse": rmse,
        "persistence_rmse": persistence_rmse,
        "skill": torch.where(persistence > 0, 1 - rmse / persistence_rmse, torch.nan),
        "change_ratio": torch.where(persistence > 0, (change / persistence).sqrt(), torch.nan),
    }
    plain = {k: [None if math.isnan(x) else x for x in v.tolist()] for k, v in table.items()}
    return {k: dict(zip(names, v, strict=True)) for k, v in plain.items()}


def persistence_alarm(skill: dict[str, float], change_ratio: dict[str, float]) -> str:
    """The line that says that a model only repeats its input or is no better than that; "" if all is well."""
    ratios = [r for r in change_ratio.values() if r is not None]
    if ratios and all(not ratio > PERSISTENCE_LIKE for ratio in ratios):
        return f"ALARM: this model is persistence: its change is under {PERSISTENCE_LIKE:.0%} of the true change"
    skills = [s for s in skill.values() if s is not None]
    if skills and not any(s > 0 for s in skills):
        return "ALARM: this model is no better than persistence in any variable"
    return ""

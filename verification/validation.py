"""Skill against persistence during training: sums over cases first, ratios last, physical units throughout."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

PERSISTENCE_LIKE = 0.05  # a forecast whose change is this small a share of the true change is persistence


class Validation:
    """Scores a model one step ahead from every initial time, and in roll-outs of `steps` steps from a few of them.

    forecast(model, time, steps) yields the predicted fields (C, H, W) in physical units; truth_at(time) gives the true
    ones and analysis_at(time) those that persistence repeats. chains(steps): the initial times from which so many
    steps have truth; where there is none the roll-outs are shorter. valid (C, H, W) bool or None: cells that count.
    team: the processes that share the initial times (training/team.py), or None.
    """

    STARTS = 8  # roll-outs, spread evenly over the validation part

    def __init__(
        self, names, forecast: Callable[..., Iterable], analysis_at, truth_at, chains, steps: int, lead, valid,
        team=None,
    ):  # fmt: skip
        self.names, self.forecast, self.analysis_at, self.truth_at = names, forecast, analysis_at, truth_at
        self.lead, self.valid, self.init_times, self.team = lead, valid, chains(1), team
        self.steps = next(k for k in range(steps, 0, -1) if len(chains(k)))
        starts = chains(self.steps)
        self.starts = starts[np.unique(np.linspace(0, len(starts) - 1, self.STARTS).round().astype(int))]

    def __call__(self, model) -> dict:
        """rmse, persistence_rmse, skill and change_ratio by variable one step ahead; rollout_skill at the last step
        of the roll-outs; score, the figure that chooses the best checkpoint; alarm."""
        near = self.sums(model, self.init_times, 1)
        far = self.sums(model, self.starts, self.steps)
        out, leads = skill_table(near[0], self.names), [skill_table(s, self.names) for s in far]
        out["rollout_skill"] = leads[-1]["skill"]
        out["score"] = mean_skill([out["skill"], *(t["skill"] for t in leads)])
        out["alarm"] = persistence_alarm(out["skill"], out["change_ratio"])
        return out

    def sums(self, model, starts: np.ndarray, steps: int) -> Tensor:
        """(steps, 4, C): `change_sums` by step, summed over the initial times."""
        total = torch.zeros(steps, 4, len(self.names), dtype=torch.float64)
        for t in starts if self.team is None else self.team.share(starts):
            analysis = self.analysis_at(t)
            for k, pred in enumerate(self.forecast(model, t, steps)):
                total[k] += change_sums(pred, analysis, self.truth_at(t + (k + 1) * self.lead), self.valid).cpu()
        if self.team is not None:
            self.team.add_up(total)
        return total


def change_sums(forecast: Tensor, analysis: Tensor, truth: Tensor, valid: Tensor | None) -> Tensor:
    """(4, C) float64 sums over the valid cells of one case: squared error of the forecast, squared error of
    persistence (the true change squared), squared change of the forecast, number of cells.

    forecast, analysis, truth: (C, H, W) in physical units; valid (C, H, W) bool or None."""
    fields = [forecast - truth, analysis - truth, forecast - analysis]
    if valid is None:
        valid = torch.ones_like(truth, dtype=torch.bool)
    squares = [torch.where(valid, f, 0.0).double().square().sum(dim=(1, 2)) for f in fields]
    return torch.stack([*squares, valid.sum(dim=(1, 2)).double()])


def skill_table(sums: Tensor, names: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """From summed `change_sums`: rmse, persistence_rmse, skill = 1 - rmse / persistence_rmse, and change_ratio,
    the root mean square change of the forecast over that of the truth; each {variable: number}.

    Skill and ratio are None where the truth did not change at all: there is nothing to compare with."""
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


def mean_skill(skills: list[dict[str, float | None]]) -> float:
    """The figure that chooses the best checkpoint: the mean over variables of the skill one step ahead (the first
    entry) and of that averaged over the leads of the roll-out (the others), half each. Undefined skills do not
    count; 0 where nothing is defined."""
    means = [[s for s in skill.values() if s is not None] for skill in skills]
    means = [sum(m) / len(m) if m else None for m in means]
    near, far = [m for m in means[:1] if m is not None], [m for m in means[1:] if m is not None]
    parts = [sum(m) / len(m) for m in (near, far) if m]
    return sum(parts) / len(parts) if parts else 0.0


def persistence_alarm(skill: dict[str, float], change_ratio: dict[str, float]) -> str:
    """What to shout when the model only repeats its input or is no better than that; "" when all is well."""
    ratios = [r for r in change_ratio.values() if r is not None]
    skill = {n: s for n, s in skill.items() if s is not None}
    if ratios and all(not ratio > PERSISTENCE_LIKE for ratio in ratios):
        return (
            "ALARM: this model is persistence: it changes nothing (its change is under "
            f"{PERSISTENCE_LIKE:.0%} of the true change in every variable)"
        )
    worse = [name for name, s in skill.items() if not s > 0]
    if skill and len(worse) == len(skill):
        return "ALARM: this model is no better than persistence in any variable"
    return ""

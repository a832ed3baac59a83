"""Skill against persistence during training: sums over cases first, ratios last, physical units throughout."""

import torch
from torch import Tensor

PERSISTENCE_LIKE = 0.05  # a forecast whose change is this small a share of the true change is persistence


def change_sums(forecast: Tensor, analysis: Tensor, truth: Tensor, valid: Tensor | None) -> Tensor:
    """(4, C) float64 sums over the valid cells of one case: squared error of the forecast, squared error of
    persistence (the true change squared), squared change of the forecast, number of cells.

    forecast, analysis, truth: (C, H, W) in physical units; valid (C, H, W) bool or None."""
    fields = [forecast - truth, analysis - truth, forecast - analysis]
    if valid is None:
        valid = torch.ones_like(truth, dtype=torch.bool)
    squares = [torch.where(valid, f, 0.0).double().square().sum(dim=(1, 2)) for f in fields]
    return torch.stack([*squares, valid.sum(dim=(1, 2)).double()])


def skill_table(sums: Tensor, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """From summed `change_sums`: rmse, persistence_rmse, skill = 1 - rmse / persistence_rmse, and change_ratio,
    the root mean square change of the forecast over that of the truth; each {variable: number}.

    Skill and ratio are nan where the truth did not change at all."""
    error, persistence, change, cells = sums
    rmse, persistence_rmse = (error / cells).sqrt(), (persistence / cells).sqrt()
    table = {
        "rmse": rmse,
        "persistence_rmse": persistence_rmse,
        "skill": torch.where(persistence > 0, 1 - rmse / persistence_rmse, torch.nan),
        "change_ratio": torch.where(persistence > 0, (change / persistence).sqrt(), torch.nan),
    }
    return {k: dict(zip(names, v.tolist(), strict=True)) for k, v in table.items()}


def persistence_alarm(skill: dict[str, float], change_ratio: dict[str, float]) -> str:
    """What to shout when the model only repeats its input or is no better than that; "" when all is well."""
    if all(not ratio > PERSISTENCE_LIKE for ratio in change_ratio.values()):
        return (
            "ALARM: this model is persistence: it changes nothing (its change is under "
            f"{PERSISTENCE_LIKE:.0%} of the true change in every variable)"
        )
    worse = [name for name, s in skill.items() if not s > 0]
    if len(worse) == len(skill):
        return "ALARM: this model is no better than persistence in any variable"
    return ""

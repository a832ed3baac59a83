"""What a training run validates: its forecasts of the validation part, against persistence, in physical units; and a
look at one of them."""

from pathlib import Path

import numpy as np
import torch

from data.dataset import find_pairs
from data.normalise import clip_physical, denormalise, limiter, normalise
from data.times import hours_of
from data.variables import lookup
from forecaster import forecast, load_model
from models.rollout import rollout
from plotting.maps import forecast_panels
from train_data import TrainingData
from training.device import autocast
from training.files import writing
from training.team import Team
from verification.validation import Validation

LOOKED_AT = 24  # hours of the validation part among which a preview chooses


def build_validation(constants, data: TrainingData, team: Team) -> Validation:
    """Scores on the validation part: one step ahead, and in roll-outs."""
    statistics, mask, hours, lead = data.statistics, data.mask, data.hours, data.lead
    floor = torch.tensor([lookup(n).scored_floor for n in data.names], device=data.device)[:, None, None]
    limit = limiter(statistics, mask)

    @torch.no_grad()
    def roll_out(model, t: np.datetime64, steps: int):
        states = normalise(data.series.states(t[None]).to(data.device), statistics, mask)
        with autocast(data.device):
            forcing = lambda k: data.forcing(t + k * lead)  # noqa: E731
            for state, _ in rollout(model, states, forcing, statistics.scale, limit, steps):
                yield denormalise(state[0].float(), statistics)

    return Validation(
        data.names, roll_out,
        lambda t: clip_physical(hours(t).to(data.device), statistics.names),
        lambda t: torch.maximum(hours(t).to(data.device), floor),
        lambda k: find_pairs(data.store.times, lead, data.split.validation, constants.history, k),
        max(1, round(constants.validate_hours / hours_of(lead))), lead, data.valid, team,
    )  # fmt: skip


def save_preview(checkpoint: Path, data: TrainingData, steps: int, history: int, path: Path) -> None:
    """Draw a forecast of `checkpoint` in the validation part, up to `steps` leads, as maps beside the truth:
    reflectivity where there is some, else the first variable, from the hour (of some) with most of it. Nothing where
    the part is too short."""
    starts = find_pairs(data.store.times, data.lead, data.split.validation, history, steps)
    if not len(starts):
        return
    name = next((n for n in data.names if lookup(n).name == "REFC"), data.names[0])
    channel = data.names.index(name)
    some = starts[:: max(len(starts) // LOOKED_AT, 1)]
    start = max(some, key=lambda t: float(data.hours(t)[channel].nanmean()))
    case = forecast(load_model(checkpoint, data.device), data.store, start, hours_of(steps * data.lead))
    leads = [k * data.lead for k in sorted({1, (steps + 1) // 2, steps})]
    figure = forecast_panels(case, lambda t: data.hours(t)[channel].cpu().numpy(), name, leads)
    with writing(path, unfinished := path.with_suffix(".tmp.png")):
        figure.savefig(unfinished, dpi=120)
        unfinished.replace(path)

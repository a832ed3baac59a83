"""What a training run validates: its forecasts of the validation part, against persistence, in physical units."""

import numpy as np
import torch

from data.dataset import find_pairs
from data.normalise import clip_physical, denormalise, limiter, normalise
from data.times import hours_of
from data.variables import lookup
from models.rollout import rollout
from train_data import TrainingData
from training.device import autocast
from training.team import Team
from verification.validation import Validation


def build_validation(constants, data: TrainingData, team: Team) -> Validation:
    """Scores on the validation part: one step ahead, and in roll-outs."""
    statistics, mask, hours, lead = data.statistics, data.mask, data.hours, data.lead
    floor = torch.tensor([lookup(n).scored_floor for n in data.names], device=data.device)[:, None, None]
    limit = limiter(statistics, mask)

    @torch.no_grad()
    def forecast(model, t: np.datetime64, steps: int):
        states = normalise(data.series.states(t[None]).to(data.device), statistics, mask)
        with autocast(data.device):
            forcing = lambda k: data.forcing(t + k * lead)  # noqa: E731
            for state, _ in rollout(model, states, forcing, statistics.scale, limit, steps):
                yield denormalise(state[0].float(), statistics)

    return Validation(
        data.names, forecast,
        lambda t: clip_physical(hours(t).to(data.device), statistics.names),
        lambda t: torch.maximum(hours(t).to(data.device), floor),
        lambda k: find_pairs(data.store.times, lead, data.split.validation, constants.history, k),
        max(1, round(constants.validate_hours / hours_of(lead))), lead, data.valid, team,
    )  # fmt: skip

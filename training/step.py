"""One training task: from the hours of a store to gradients added to the model."""

import numpy as np
import torch
from torch import Tensor, nn

from data.augment import add_noise, level_shift, mirror_forcing, mirror_state, random_axes
from data.boundary import Boundary
from data.forcing import Forcing
from data.normalise import Statistics, censor, limiter, normalise
from losses.weather import WeatherLoss
from models.rollout import push, rollout_step
from training.device import autocast
from training.log import add_loss
from training.schedule import Task


class Learner:
    """Adds the gradient of a task (training/schedule.py) to the model's, and its loss to running sums.

    constants: flip, season, level and noise of train_deterministic.Config. mask (C, H, W) bool or None: where a
    variable is missing in every hour. edge: the boundary store that chains are nudged to, or None.
    """

    def __init__(self, model: nn.Module, loss: WeatherLoss, forcing: Forcing, statistics: Statistics,
                 mask: Tensor | None, edge: Boundary | None, lead: np.timedelta64, constants):  # fmt: skip
        self.model, self.loss, self.forcing, self.statistics = model, loss, forcing, statistics
        self.mask, self.edge, self.lead, self.constants = mask, edge, lead, constants
        self.held, self.limit, self.device = censor(statistics), limiter(statistics, mask), statistics.mean.device

    def __call__(self, times: np.ndarray, task: Task, data: tuple, width: float, rng: torch.Generator, sums: dict):
        """times: the task's initial times; data: what `read` of train_deterministic.py returns for it; width: that of
        the loss; rng: decides mirrors, noise and shifts."""
        constants, scale = self.constants, self.statistics.scale
        axes = random_axes(rng) if constants.flip else ""
        days = torch.randn(len(times), generator=rng, device=rng.device).cpu().numpy() * constants.season
        season = (days * 86400).astype("timedelta64[s]") if constants.season else None
        flipped = None if self.mask is None else self.mask.flip([{"x": -1, "y": -2}[a] for a in axes])
        valid = None if flipped is None else ~flipped
        offset = level_shift(self.statistics.names, len(times), constants.level, rng)

        def prepared(x: Tensor) -> Tensor:  # (B, C, H, W), or (B, T, C, H, W)
            x = mirror_state(x.to(self.device), axes, self.statistics.names)
            if constants.level:
                x = x + offset.view(len(times), *[1] * (x.ndim - 4), -1, 1, 1)
            return normalise(x, self.statistics, flipped)

        states, targets, edges = data
        states = add_noise(prepared(states), scale, constants.noise, flipped, rng)
        for k in range(task.skip + task.steps):
            fields, clock = self.forcing(times + k * self.lead, season)
            fields = mirror_forcing(fields, axes, self.forcing.parity)
            with torch.set_grad_enabled(k >= task.skip), autocast(self.device):
                pred = rollout_step(self.model, states, fields, clock, scale)
            if k >= task.skip:
                self._descend(pred, prepared(targets[k - task.skip]), valid, width, task.share, sums)
            if k + 1 < task.skip + task.steps:
                state = self.limit(pred.detach())[0]
                state = state if self.edge is None else self.edge.nudge(state, prepared(edges[k]))
                states = push(states, state)

    def _descend(self, pred: Tensor, target: Tensor, valid: Tensor | None, width: float, share: float, sums: dict):
        """Add the gradient of one step's loss."""
        units = (self.held(pred, target) / self.statistics.scale, target / self.statistics.scale)
        loss, terms = self.loss(*units, valid, width)
        (loss * share).backward()
        add_loss(sums, loss, terms, len(pred))

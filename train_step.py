"""One training task: from the hours of a store to gradients added to the model; and all tasks of an optimizer step."""

import time

import numpy as np
import torch
from torch import Tensor, nn

from data.augment import add_noise, mirror_forcing, mirror_state, random_axes, random_offset, season_shift
from data.boundary import Boundary
from data.forcing import Forcing
from data.normalise import Statistics, censor, limiter, normalise
from data.retry import Unreadable
from losses.weather import EVERY, WeatherLoss
from models.rollout import push, rollout_step
from training.device import training_autocast
from training.log import add_loss, loss_sums
from training.progress import Progress
from training.schedule import Task, generator
from training.team import Team
from training.trouble import OutOfMemory, is_out_of_memory


class Learner:
    """Adds the gradient of a task (training/schedule.py) to the model's, and its loss to the sums of the optimizer step
    (training/log.py).

    constants: flip, shift, season, noise, width and rollout_width of train_deterministic.Config. mask (C, H, W) bool or
    None: where a variable is missing in every hour. edge: the boundary store that chains are nudged to, or None.
    """

    def __init__(self, model: nn.Module, loss: WeatherLoss, forcing: Forcing, statistics: Statistics,
                 mask: Tensor | None, edge: Boundary | None, lead: np.timedelta64, constants):  # fmt: skip
        self.model, self.loss, self.forcing, self.statistics = model, loss, forcing, statistics
        self.mask, self.edge, self.lead, self.constants = mask, edge, lead, constants
        self.held, self.limit, self.device = censor(statistics), limiter(statistics, mask), statistics.mean.device
        self.lean = model.lean
        self.seen: list[dict] | None = None  # a list collects the terms of every step with gradient
        channels = range(len(statistics.names))
        self.counted = [
            mask is None or not bool(mask[c].all()) for c in channels
        ]  # channels that the loss is a mean over

    def __call__(self, times: np.ndarray, task: Task, data: tuple, rng: torch.Generator, sums: Tensor):
        """times: the task's initial times; data: what `read` of train_deterministic.py returns for it; rng: decides
        mirrors, noise and the shift of the season."""
        constants, scale = self.constants, self.statistics.scale
        axes = random_axes(rng) if constants.flip else ""
        season = season_shift(len(times), constants.season, rng) if constants.season else None
        flipped = None if self.mask is None else self.mask.flip([{"x": -1, "y": -2}[a] for a in axes])
        valid = None if flipped is None else ~flipped

        def prepared(x: Tensor) -> Tensor:  # (B, C, H, W), or (B, T, C, H, W)
            return normalise(mirror_state(self.fetch(x), axes, self.statistics.names), self.statistics, flipped)

        states, targets, edges = data
        truth = dict(zip(task.targets, targets, strict=True))
        states = add_noise(prepared(states), scale, constants.noise, flipped, rng)
        for k in range(task.skip + task.steps):
            fields, clock = self.forcing(times + k * self.lead, season)
            fields = mirror_forcing(fields, axes, self.forcing.parity)
            target, change = prepared(truth[k]) if k >= task.skip else None, None
            if target is not None and k > 0:  # before the forward pass, whose memory it would add to
                change = self.loss.change(prepared(truth[k - 1]) / scale, target / scale, valid)
            with torch.set_grad_enabled(target is not None), training_autocast(self.device, constants.half):
                where = {"offset": random_offset(self.model.multiple, rng.initial_seed(), k)} if constants.shift else {}
                pred = rollout_step(self.model, states, fields, clock, scale, **where)
            if target is not None:
                # detail an hour ahead has a place; later the three terms of the loss that know nothing else must not
                # see it
                width = constants.width if k == 0 else constants.rollout_width
                since = None if change is None else (states[:, -1], change)
                self._descend(pred, target, valid, width, task.share, sums, since)
                del since
            if k + 1 < task.skip + task.steps:
                state = self.limit(pred.detach())[0]
                state = state if self.edge is None else self.edge.nudge(state, prepared(edges[k]))
                states = push(states, state)
                del state
            del pred, target

    def fetch(self, x: Tensor) -> Tensor:
        """A tensor of the loader on the device."""
        return x.to(self.device, non_blocking=True)

    def _descend(self, pred: Tensor, target: Tensor, valid: Tensor | None, width: float, share: float, sums: Tensor,
                 since: tuple[Tensor, Tensor] | None):  # fmt: skip
        """Add the gradient of one step's loss; since: the state a step earlier, and the power of the truth's change.
        In lean mode channel by channel, so that the loss is never held for all of them at once."""
        if not self.lean:
            loss, terms = self._loss(pred, target, valid, width, since=since)
            (loss * share).backward()
            return self._note(sums, loss, terms, len(pred))
        losses, every = [], []
        for c in range(pred.shape[1]):
            one, channel = slice(c, c + 1), pred[:, c : c + 1].detach().requires_grad_()
            counts = None if valid is None else valid[one]
            loss, terms = self._loss(channel, target[:, one], counts, width, one, since)
            every.append(terms)
            if self.counted[c]:
                (loss * share / sum(self.counted)).backward()
                losses.append(loss.detach())
            # the target of this channel has been used: its place is the gradient's
            target[:, one] = channel.grad if self.counted[c] else 0.0
            del channel, loss
        pred.backward(target)
        terms = {name: torch.cat([terms[name] for terms in every]) for name in every[0]}
        self._note(sums, torch.stack(losses).mean(), terms, len(pred))

    def _note(self, sums: Tensor, loss: Tensor, terms: dict[str, Tensor], samples: int) -> None:
        if self.seen is not None:
            self.seen.append({name: values.detach().tolist() for name, values in terms.items()})
        add_loss(sums, loss, terms, samples)

    def _loss(self, pred: Tensor, target: Tensor, valid, width: float, channels: slice = EVERY, since=None):
        scale = self.statistics.scale[channels]
        if since is not None:
            since = since[0][:, channels] / scale, since[1][:, channels]
        return self.loss(self.held(pred, target, channels) / scale, target / scale, valid, width, channels, since)


def accumulate(learn: Learner, starts: np.ndarray, group: list[Task], reads, at: Progress, team: Team):
    """Add the gradients of an optimizer step's tasks to the model; each process takes its share. Returns the step's
    `loss_sums`, and why a task of it could not be read, or "". OutOfMemory in all processes where it is met in one."""
    sums, lost, full = loss_sums(learn.loss.weights, learn.device), "", False
    for number in team.share(list(range(len(group)))):
        asked = time.monotonic()
        task, fields = next(reads)
        at.waited += time.monotonic() - asked
        counters = (learn.constants.seed, 2, at.epoch, at.position["group"], number)
        try:
            if isinstance(fields, Unreadable):
                lost = lost or str(fields)
            elif not (lost or full):
                learn(starts[list(task.starts)], task, fields, generator(*counters, device=learn.device), sums)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            full = True
    faults = torch.tensor([bool(lost), full], dtype=sums.dtype, device=sums.device)
    team.add_gradients(list(learn.model.parameters()), sums, faults)
    any_lost, any_full = faults.tolist()
    if any_full:
        raise OutOfMemory(f"the memory of {learn.device} ran out at step {at.step}")
    return sums, team.first_text(lost) if any_lost else ""

"""What a training run needs of its store, prepared once: split, statistics, mask, hours, forcing, boundary."""

import math
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data.boundary import Boundary
from data.dataset import Series, Split, find_pairs, longest_chains, split_by_date
from data.forcing import Forcing
from data.normalise import Statistics, normalise
from data.quick_check import describe, mask_notes, quick_check
from data.retry import GuardedHours, Unreadable
from data.statistics import compute_statistics
from data.store import Store
from data.times import hours_of, parse_duration
from training.rehearsal import longest_task
from training.resume import refuse_other_data
from training.schedule import Task

SAMPLED = 48  # training pairs whose change is the unit of the loss
REGRESSED = 256  # training pairs that the linear regression is fitted to


class TrainingData:
    """A training store as the loop needs it; printing what it is.

    constants: train_deterministic.Config. previous: the checkpoint that the run goes on from, whose split, statistics
    and mask hold, or None. ValueError for a store that cannot be trained on, or is another than the checkpoint's.

    Attributes: store, names, lead; split, split_table (plain types); pairs, the initial times of training, and
    rollout_epochs last epochs from chains of at most `longest` steps that begin at `chains`; statistics, mask
    (C, H, W) bool or None, forcing, on the device; edge, the boundary store or None; grid, for the checkpoint;
    hours and series, which read; steps_per_epoch, optimizer steps; after keep_hours: blocks, how many pairs, how many
    chains are shuffled among themselves (0: all).
    """

    def __init__(self, constants, previous: dict | None, device: torch.device):
        self.device, self.lead = device, parse_duration(constants.lead, "lead")
        self.store = store = Store(constants.zarr)
        self.names = store.choose(constants.variables, "name another with --variables")
        store.notes += quick_check(store, self.names)
        refuse_levels(constants.levels, store.grid.shape)
        self._split(constants, previous)
        self._measure(previous)
        mask, patience = None if self.mask is None else self.mask.cpu(), 60 * constants.patience
        self.hours = GuardedHours(store, self.names, mask, constants.cache_gb, patience)
        self.series = Series(self.hours, self.lead, constants.history)
        self.forcing = Forcing(store.grid, self.lead, self.statistics.names, self.mask, device)
        self.grid = {
            "shape": list(store.grid.shape), "dims": list(store.grid.dims), "forcing": self.forcing.names,
            "mask": self.mask, "spacing": list(store.grid.spacing or (1.0, 1.0)),
        }  # fmt: skip
        self._find_chains(constants)

    def _split(self, constants, previous: dict | None) -> None:
        store, lead, history = self.store, self.lead, constants.history
        if previous:
            self.split = Split.from_dict(previous["split"])
        else:
            dates = (constants.train_end, constants.val_end, constants.gap)
            self.split = split_by_date(store.times, lead, *dates, history)
        names = ("train", "validation", "test")
        parts = {p: find_pairs(store.times, lead, getattr(self.split, p), history) for p in names}
        self.pairs = parts["train"]
        self.steps_per_epoch = math.ceil(len(self.pairs) / (constants.batch_size * constants.accumulate))
        self.split_table = {**self.split.as_dict(), "pairs": {p: len(t) for p, t in parts.items()}}
        print(describe(store, self.names, self.split, parts, lead, history), flush=True)

    def _measure(self, previous: dict | None) -> None:
        """Statistics and mask: those of the checkpoint, else of the training hours."""
        store, names = self.store, self.names
        if previous:
            refuse_other_data(previous, self.split_table, names, list(store.grid.shape), store.path)
            statistics, mask = Statistics.from_dict(previous["statistics"]), previous["grid"]["mask"]
        else:
            parts = (self.split.train, self.split.validation)
            training, validation = (np.sort(store.times[(store.times >= a) & (store.times <= b)]) for a, b in parts)
            statistics, mask = compute_statistics(store, names, training, self.lead, validation)
        for note in store.notes + mask_notes(names, mask):
            print(f"note: {note}")
        self.statistics, self.mask = statistics.to(self.device), None if mask is None else mask.to(self.device)

    def _find_chains(self, constants) -> None:
        """For the epochs of roll-outs: how long, from where, and with which boundary."""
        self.rollout_epochs = min(constants.rollout_epochs, constants.epochs // 2)
        self.longest, self.chains = 0, self.pairs
        if self.rollout_epochs:
            wanted = max(1, round(constants.rollout_hours / hours_of(self.lead)))
            found = longest_chains(self.store.times, self.lead, self.split.train, constants.history, wanted)
            self.longest, self.chains = found
        path = constants.boundary
        self.edge = Boundary(path, self.store, self.statistics, self.mask) if path else None
        if self.edge and self.rollout_epochs:
            fix = "a --boundary store that covers the training part"
            self.edge.refuse_missing(self.chains, self.lead, self.longest, fix)

    def read(self, starts: np.ndarray, task: Task) -> tuple:
        """What train_step.Learner needs of the store for a task: states, targets and, with a boundary store, its
        fields."""
        times, stop = starts[list(task.starts)], task.skip + task.steps
        edges = self.edge.fields(times, self.lead, stop) if self.edge is not None and stop > 1 else []
        return *self.series.batches(times, task.targets), edges

    def keep_hours(self, constants, team, at) -> None:
        """Choose where decoded hours stay, from what is free, and say it. A resumed run keeps its order."""
        last, touched = self.split.validation[1], constants.history + 2
        times, sharers = np.sort(self.store.times[self.store.times <= last]), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        lean = constants.memory == "lean"
        plan = self.hours.plan(times, touched, self.device, lean, constants.cache_gb, sharers)
        print(plan.line, flush=True)
        held = -team.highest(-plan.hours)  # the least of all: one order in every process
        at.cache_hours = held if at.cache_hours is None else at.cache_hours
        plan = replace(plan, hours=min(at.cache_hours, plan.count))
        self.blocks = plan.block(touched), plan.block(touched - 1 + self.longest)

    def try_to_read(self, starts: np.ndarray, task: Task) -> tuple | Unreadable:
        """The same, or why an hour could not be read."""
        try:
            return self.read(starts, task)
        except Unreadable as error:
            return error

    def largest_tasks(self, constants) -> list[tuple[np.ndarray, Task]]:
        """(initial times, task) of each kind that takes most memory and time, for the rehearsal."""
        cases = [(self.pairs, Task(tuple(range(min(constants.batch_size, len(self.pairs)))), 0, 1, 1.0))]
        if self.rollout_epochs:
            size = min(constants.batch_size, len(self.chains))
            cases.append(
                (self.chains, longest_task(size, self.longest, constants.rollout_accumulate or constants.accumulate))
            )
        return cases

    def changes(self) -> Iterator[list[Tensor]]:
        """Of some training pairs the fields (1, C, H, W) at both times, in units of the change: the forecast and truth
        of persistence, whose loss is the unit of the terms."""
        for states, target in self.samples(SAMPLED):
            yield [x / self.statistics.scale for x in (states[:, -1], target)]

    def samples(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """States (1, T, C, H, W) and target (1, C, H, W), normalised, of at most `count` training pairs from the whole
        record."""
        # not every n-th: n may be 24, and then all are of one hour of the day
        chosen = np.linspace(0, len(self.pairs) - 1, min(count, len(self.pairs))).round().astype(int)
        for t in self.pairs[chosen]:
            fields = self.series.states(t[None]), self.series.targets(t[None], range(1))[0]
            yield tuple(normalise(x.to(self.device), self.statistics, self.mask) for x in fields)

    @property
    def valid(self) -> Tensor | None:
        """(C, H, W) bool: the cells that count; None: all."""
        return None if self.mask is None else ~self.mask


def refuse_levels(levels: int, shape: tuple[int, int]) -> None:
    """ValueError where the grid cannot be halved so often."""
    if 2 ** (levels + 1) > max(shape):
        raise ValueError(
            f"levels: got {levels}, expected at most {int(math.log2(max(shape))) - 1} on "
            f"{shape[0]} x {shape[1]} cells. Fix: --levels 2"
        )

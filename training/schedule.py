"""Learning rate, weight averaging and random numbers as functions of where the training stands.

All of them depend on counters only, so a resumed run continues with the same values and the same draws.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

CHAIN = 4  # most steps with gradient in a chain: an optimizer step has several chains, which processes share
FROM_ANALYSES = 0.5  # share of the chains of roll-out fine-tuning that train from their first step on


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """Factor on the peak learning rate at optimizer step `step` of `total`: linear from 1/warmup to 1 over
    `warmup` steps, then half a cosine down to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def two_phases(step: int, first: int, second: int, warmup: float, factor: float) -> float:
    """Factor on the peak learning rate: a warm-up and cosine over the `first` optimizer steps, then another over the
    `second` ones that rises to `factor` only. warmup is the share of a phase with a rising rate."""
    total, height = (first, 1.0) if step < first else (second, factor)
    step = step if step < first else step - first
    return height * warmup_cosine(step, total, max(1, min(round(warmup * total), 1000)))


def ema_decay(n: int) -> float:
    """Decay of the exponential moving average of the weights at optimizer step n: short runs forget their
    initial weights, long runs average over about a thousand steps."""
    return min(0.999, (1 + n) / (10 + n))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, n: int) -> None:
    """ema <- decay * ema + (1 - decay) * model, in place."""
    averaged, current = list(ema.parameters()), [p.detach() for p in model.parameters()]
    torch._foreach_lerp_(averaged, current, 1 - ema_decay(n))


def generator(*counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator that depends on the counters alone, e.g. (seed, epoch, sample). On a GPU it draws there:
    white noise for a full domain takes the CPU longer than the step takes the GPU."""
    seed = int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(seed)


@dataclass(frozen=True)
class Task:
    """A part of an optimizer step: from initial times `starts` (indices), `skip` steps without gradient, then `steps`
    steps with one each. `share`: what each of these contributes to the mean over the optimizer step."""

    starts: tuple[int, ...]
    skip: int
    steps: int
    share: float

    @property
    def targets(self) -> range:
        """The steps (0: the first) whose truth it needs: those with gradient and the one before."""
        return range(max(self.skip - 1, 0), self.skip + self.steps)


def pair_tasks(order: list[int], batch_size: int, accumulate: int) -> list[list[Task]]:
    """Cut the order of an epoch into optimizer steps of single pairs, each a list of tasks of one batch.

    The last step of an epoch has what is left: nothing is dropped. A step's gradient is that of its samples' mean.
    """
    size = batch_size * accumulate
    out = []
    for i in range(0, len(order), size):
        step = order[i : i + size]
        batches = [step[j : j + batch_size] for j in range(0, len(step), batch_size)]
        out.append([Task(tuple(b), 0, 1, len(b) / len(step)) for b in batches])
    return out


def rollout_tasks(
    order: list[int], batch_size: int, accumulate: int, longest: int, count: int, rng: torch.Generator
) -> list[list[Task]]:
    """`count` optimizer steps of roll-out fine-tuning: pushforward (Brandstetter et al. 2022) with a loss at every
    step of a chain, the state detached between steps, so that memory is that of a single pair.

    Each optimizer step has `accumulate` steps with gradient, at most CHAIN of them in each of its chains, which end at
    most `longest` steps after their initial times, taken from `order` in turn. FROM_ANALYSES of the chains have their
    gradient from the first step on, so that what the model knows of analyses is not forgotten; in the others a random
    number of steps comes before.
    """
    out, at = [], 0
    for _ in range(count):
        tasks, left = [], accumulate
        while left:
            steps = min(left, longest, CHAIN)
            skip = int(torch.randint(0, longest - steps + 1, (), generator=rng))
            skip = 0 if torch.rand((), generator=rng) < FROM_ANALYSES else skip
            starts = tuple(order[(at + j) % len(order)] for j in range(min(batch_size, len(order))))
            tasks.append(Task(starts, skip, steps, 1 / accumulate))
            at, left = at + batch_size, left - steps
        out.append(tasks)
    return out

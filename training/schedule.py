"""Learning rate, weight averaging, order and random numbers as functions of where the training stands.

All depend on counters alone, so a resumed run goes on with the same values and the same draws.
"""

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import torch

WARMUP = 0.03  # share of a phase's optimizer steps with a rising learning rate
FINE_TUNING = 0.3  # peak learning rate of the roll-out epochs, as a share of the peak before
CHAIN = 4  # most steps with gradient in a roll-out
SPARE = 0.1  # share of the time until a clock time for validations, forecasts and scores
FROM_ANALYSES = 0.5  # share of the roll-outs with a gradient from the first step on: analyses are not forgotten


def learning_rate(step: int, first: int, second: int) -> float:
    """Factor on the peak learning rate at optimizer step `step`: a warm-up and half a cosine down to 0 over the
    `first` steps, on pairs, then another, lower one over the `second` steps, on roll-outs."""
    height = 1.0
    if step >= first:
        step, first, height = step - first, second, FINE_TUNING
    warmup = max(1, min(round(WARMUP * first), 1000))
    if step < warmup:
        return height * (step + 1) / warmup
    return height * 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(first - warmup, 1), 1.0)))


def ema_decay(step: int, first: int) -> float:
    """Decay of the averaged weights at an optimizer step: short runs forget their initial weights, long runs average
    over about a thousand steps. Roll-outs, after the `first` steps, begin an average of their own: they are few, and
    one that went on would still be that of the weights before."""
    step -= first if step >= first else 0
    return min(0.999, (1 + step) / (10 + step))


def generator(*counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator that depends on the counters alone, e.g. (seed, epoch, batch). On a GPU it draws there."""
    seed = int(np.random.SeedSequence(counters).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(seed)


@dataclass(frozen=True)
class Batch:
    """A forward pass from the initial times `starts` (indices): `skip` steps without gradient, then `steps` steps, each
    with its own gradient. `share`: the weight of each of these in the mean over the optimizer step."""

    starts: tuple[int, ...]
    skip: int
    steps: int
    share: float


def plan_pairs(count: int, batch_size: int, accumulate: int, rng: torch.Generator) -> list[list[Batch]]:
    """The optimizer steps of an epoch over `count` pairs, in random order. The last one has what is left."""
    order, size = torch.randperm(count, generator=rng).tolist(), batch_size * accumulate
    plan = []
    for group in (order[i : i + size] for i in range(0, count, size)):
        batches = [tuple(group[i : i + batch_size]) for i in range(0, len(group), batch_size)]
        plan.append([Batch(starts, 0, 1, len(starts) / len(group)) for starts in batches])
    return plan


def plan_rollouts(
    count: int, pairs: int, batch_size: int, accumulate: int, longest: int, rng: torch.Generator
) -> list[list[Batch]]:
    """The optimizer steps of an epoch of roll-outs from `count` initial times, with about as many gradients as an epoch
    over `pairs` pairs has: pushforward (Brandstetter et al. 2022) with a loss at each of the last steps.

    A roll-out has up to CHAIN steps with gradient and ends at most `longest` steps after its initial time. Half of
    them have a gradient from the first step on, the others after a random number of steps.
    """
    steps = min(CHAIN, longest)
    chains = max(1, accumulate // steps)
    order, plan = torch.randperm(count, generator=rng).tolist(), []
    for i in range(rollout_steps(pairs, batch_size, accumulate, longest)):
        group = []
        for j in range(chains):
            skip = int(torch.randint(0, longest - steps + 1, (), generator=rng))
            skip = 0 if torch.rand((), generator=rng) < FROM_ANALYSES else skip
            first = (i * chains + j) * batch_size
            starts = tuple(order[(first + b) % count] for b in range(min(batch_size, count)))
            group.append(Batch(starts, skip, steps, 1 / (chains * steps)))
        plan.append(group)
    return plan


def rollout_steps(pairs: int, batch_size: int, accumulate: int, longest: int) -> int:
    """Optimizer steps of an epoch of roll-outs."""
    steps = min(CHAIN, longest)
    return math.ceil(pairs / (batch_size * max(1, accumulate // steps) * steps))


def epochs_until(clock: str, seconds: float, most: int) -> int:
    """How many epochs of so many seconds, at least one and at most `most`, end before a local clock time (HH:MM)."""
    try:
        now, time = datetime.now(), datetime.strptime(clock, "%H:%M")
    except ValueError as error:
        raise ValueError(f"until: got {clock!r}, expected a clock time. Fix: --until 07:00") from error
    left = (now.replace(hour=time.hour, minute=time.minute, second=0) - now).total_seconds() % 86400
    return max(1, min(most, int((1 - SPARE) * left / seconds)))

"""Learning rate, weight averaging and random numbers as functions of where the training stands.

All of them depend on counters only, so a resumed run continues with the same values and the same draws.
"""

import math

import numpy as np
import torch
from torch import nn


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """Factor on the peak learning rate at optimizer step `step` of `total`: linear from 1/warmup to 1 over
    `warmup` steps, then half a cosine down to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


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


def groups(order: list[int], batch_size: int, accumulate: int) -> list[list[list[int]]]:
    """Cut the order of an epoch into optimizer steps, each a list of batches of indices.

    The last step of an epoch has what is left: nothing is dropped. A step's gradient is that of its samples'
    mean when each batch's mean loss is weighted by len(batch) / (samples in the step).
    """
    size = batch_size * accumulate
    steps = [order[i : i + size] for i in range(0, len(order), size)]
    return [[step[j : j + batch_size] for j in range(0, len(step), batch_size)] for step in steps]

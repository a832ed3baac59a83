"""One of each step before the first epoch, so that memory runs out then or not at all."""

import torch
from torch import nn

from training.device import peak_memory_bytes, release
from training.log import loss_sums
from training.schedule import CHAIN, Task, generator, update_ema


def rehearse(learn, read, cases: list[tuple], model: nn.Module, ema: nn.Module, optimizer, clip: float) -> int:
    """Take every (initial times, task) of `cases` through forward, loss, backward, optimizer and EMA, put the weights
    back, and return the peak of memory in bytes. read(initial times, task) gives the task's data."""
    device = next(model.parameters()).device
    before = [{k: v.cpu().clone() for k, v in m.state_dict().items()} for m in (model, ema)]
    optimizer.schedule(lambda n: 0.0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for starts, task in cases:
        rng = generator(0, device=device)
        learn(starts[list(task.starts)], task, read(starts, task), rng, loss_sums(learn.loss.weights, device))
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        update_ema(ema, model, 0)
    peak = peak_memory_bytes(device)
    for m, state in zip((model, ema), before, strict=True):
        m.load_state_dict(state)
    release(device)
    return peak


def longest_task(starts: int, longest: int, accumulate: int) -> Task:
    """The task of roll-out fine-tuning that goes on for longest, for as many initial times."""
    steps = min(accumulate, longest, CHAIN)
    return Task(tuple(range(starts)), longest - steps, steps, 1 / steps)

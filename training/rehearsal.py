"""One of each step before the first epoch, so that memory runs out then or not at all."""

import torch
from torch import nn

from training.device import peak_memory_bytes, release
from training.log import loss_sums
from training.schedule import CHAIN, Task, generator, update_ema
from training.trouble import is_out_of_memory


def rehearse(learn, read, cases: list[tuple], model: nn.Module, ema: nn.Module, optimizer, constants) -> None:
    """Take every (initial times, task) of `cases` through forward, loss, backward, optimizer and EMA, put the weights
    back, and print the peak of memory. read(initial times, task) gives the task's data; constants: clip, memory and
    memory_gb of train_deterministic.Config. ValueError where the peak is above memory_gb."""
    device = next(model.parameters()).device
    before = [{k: v.cpu().clone() for k, v in m.state_dict().items()} for m in (model, ema)]
    optimizer.schedule(lambda n: 0.0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        for starts, task in cases:
            rng = generator(0, device=device)
            learn(starts[list(task.starts)], task, read(starts, task), rng, loss_sums(learn.loss.weights, device))
            torch.nn.utils.clip_grad_norm_(model.parameters(), constants.clip)
            optimizer.step()
            update_ema(ema, model, 0)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"memory: got a step of {constants.memory} mode that does not fit on {device} "
            f"({str(error).splitlines()[0][:200]}), expected room for it. "
            "Fix: --memory lean, --batch_size 1, or fewer --base_features; or end what else runs there"
        ) from error
    peak = peak_memory_bytes(device) / 1e9
    for m, state in zip((model, ema), before, strict=True):
        m.load_state_dict(state)
    release(device)
    kind = "on the GPU" if device.type == "cuda" else "of the whole process"
    print(f"memory: {constants.memory}, peak {peak:.2f} GB {kind}, measured on a trial step of each kind", flush=True)
    if 0 < constants.memory_gb < peak:
        raise ValueError(
            f"memory_gb: got a peak of {peak:.2f} GB {kind}, expected at most {constants.memory_gb:g}. "
            "Fix: --memory lean, --batch_size 1, or fewer --base_features"
        )


def longest_task(starts: int, longest: int, accumulate: int) -> Task:
    """The task of roll-out fine-tuning that goes on for longest, for as many initial times."""
    steps = min(accumulate, longest, CHAIN)
    return Task(tuple(range(starts)), longest - steps, steps, 1 / steps)

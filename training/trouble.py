"""When a run gets into trouble: what counts as an explosion of the loss, what as want of memory, and what comes then.

A loss explodes where it is `explode` times its running mean in three optimizer steps in a row: clipped gradients
forgive a single bad batch, and weights that went wrong do not come back by themselves.
"""

import math

import torch

SEEN = 20  # steps before a loss is judged by those before it
MEMORY = 50  # steps that the running mean goes back
IN_A_ROW = 3  # steps that make an explosion


class Exploded(Exception):
    """The loss has exploded; the message says how."""


class OutOfMemory(Exception):
    """The memory of the device did not suffice for a step in one of the processes."""


def new_guard() -> dict:
    """What is watched, part of a checkpoint: factor on the learning rate, running mean of the loss and steps in it,
    steps in a row with an exploded loss, optimizer steps left out so far."""
    return {"rate": 1.0, "mean": 0.0, "seen": 0, "high": 0, "skipped": 0}


def forget_loss(guard: dict) -> None:
    """Steps of another kind begin, whose loss is another."""
    guard.update(mean=0.0, seen=0, high=0)


def watch(guard: dict, loss: float, explode: float) -> None:
    """Take note of the loss of an optimizer step; Exploded where it is `explode` times its running mean in the third
    step in a row. explode 0: never."""
    if explode and guard["seen"] >= SEEN and loss > explode * guard["mean"]:
        guard["high"] += 1
        if guard["high"] == IN_A_ROW:
            raise Exploded(f"the loss was {loss:.3g} in the last of {IN_A_ROW} steps, {guard['mean']:.3g} before")
        return
    guard["high"] = 0
    guard["seen"] += 1
    guard["mean"] += (loss - guard["mean"]) / min(guard["seen"], MEMORY)


def is_finite(norm: torch.Tensor, sums: torch.Tensor) -> bool:
    """Whether the gradient's norm and the sums of an optimizer step are numbers."""
    return math.isfinite(norm) and bool(sums.isfinite().all())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: on a GPU torch has a kind of its own, on the CPU a text."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

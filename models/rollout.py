"""The roll-out step, shared by training, validation and inference, and the roll-out as a generator."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def rollout_step(model: nn.Module, state: Tensor, forcing: Tensor, clock: Tensor, scale: Tensor) -> Tensor:
    """One step: state + scale * model(...), in float32 whatever precision the model ran in.

    state (B, C, H, W) normalised; scale (C, 1, 1) turns the tendency, which the model gives in units of the
    standard deviation of the change, into units of the state (Lam et al. 2023, GraphCast, eq. 19).
    """
    return state + scale * model(state, forcing, clock).float()


@torch.no_grad()
def rollout(
    model: nn.Module,
    state: Tensor,
    forcing_at: Callable[[int], tuple[Tensor, Tensor]],
    scale: Tensor,
    limit: Callable[[Tensor], tuple[Tensor, Tensor]],
    steps: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Roll a state (B, C, H, W) forward, yielding after each step the state and its clipped share (B, C).

    forcing_at(k) gives the forcing fields and clock of step k (from k to k + 1 leads after the initial time);
    limit holds a state inside its physical bounds. Memory does not grow with `steps`.
    """
    for k in range(steps):
        forcing, clock = forcing_at(k)
        state, clipped = limit(rollout_step(model, state, forcing, clock, scale))
        yield state, clipped

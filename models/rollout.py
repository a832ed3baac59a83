"""The roll-out step, shared by training, validation and inference, and the roll-out as a generator."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def push(states: Tensor, state: Tensor) -> Tensor:
    """Drop the oldest of states (B, T, C, H, W) and append state (B, C, H, W)."""
    return torch.cat([states[:, 1:], state[:, None]], dim=1)


def rollout_step(
    model: nn.Module, states: Tensor, forcing: Tensor, clock: Tensor, scale: Tensor, **where: tuple[int, int]
) -> Tensor:
    """One step from states (B, T, C, H, W): now + scale * model(...), (B, C, H, W), in float32 whatever precision the
    model ran in. scale (C, 1, 1) turns the change, which the model gives in units of its standard deviation, into
    units of the state. where: the model's `offset`, in training."""
    return states[:, -1] + scale * model(states, forcing, clock, **where).float()


@torch.no_grad()
def rollout(
    model: nn.Module,
    states: Tensor,
    forcing_at: Callable[[int], tuple[Tensor, Tensor]],
    scale: Tensor,
    limit: Callable[[Tensor], tuple[Tensor, Tensor]],
    steps: int,
    nudge: Callable[[Tensor, int], Tensor] | None = None,
    sharpened: Callable[[Tensor, int], Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Roll states (B, T, C, H, W), the last of them now, forward; yields after each step the new state (B, C, H, W)
    and its clipped share (B, C).

    forcing_at(k) gives the forcing fields and clock of step k (from k to k + 1 leads after the initial time); limit
    holds a state inside its physical bounds; nudge(state, k), where given, draws the edge of the state after step k
    towards a boundary store; sharpened(state, k), where given, is the state after step k with the detail that was lost
    (models/sharpen.py). Memory does not grow with `steps`.
    """
    for k in range(steps):
        forcing, clock = forcing_at(k)
        state = rollout_step(model, states, forcing, clock, scale)
        state, clipped = limit(state if sharpened is None else sharpened(state, k))
        if nudge is not None:
            state = nudge(state, k)
        states = push(states, state)
        yield state, clipped

"""The step of validation and inference, and the roll-out as a generator. Training writes the step out, because it
detaches the state and keeps less in memory."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def forecast_step(model: nn.Module, states: Tensor, forcing: Tensor, clock: Tensor, scale: Tensor) -> Tensor:
    """The state (B, C, H, W) one step after states (B, T, C, H, W): the residual is added here.

    scale (C, 1, 1) is the standard deviation of the change over one step, the unit of the model's output.
    """
    return states[:, -1] + scale * model(states, forcing, clock)


def push(states: Tensor, state: Tensor) -> Tensor:
    """Drop the oldest of states (B, T, C, H, W) and append state (B, C, H, W)."""
    return torch.cat([states[:, 1:], state[:, None]], dim=1)


@torch.no_grad()
def rollout(
    model: nn.Module, states: Tensor, forcing_at: Callable[[int], tuple[Tensor, Tensor]], scale: Tensor,
    finish: Callable[[Tensor, int], Tensor], steps: int,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the state (B, C, H, W) after each of `steps` steps from states (B, T, C, H, W), the last of them now.

    forcing_at(k) gives the forcing fields and clock of step k; finish(state, k) holds a new state inside its bounds
    and draws its edge to boundary data. Memory does not grow with `steps`.
    """
    for k in range(steps):
        states = push(states, finish(forecast_step(model, states, *forcing_at(k), scale), k))
        yield states[:, -1]

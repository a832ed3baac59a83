"""Physical fields to the model's state and back: the one boundary where units change.

    physical (store units) --transform--> --(x - mean) / std--> state (what the model sees)

All functions are pure; the statistics travel in the checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data.variables import lookup

# A cell counts as clipped only beyond this many standard deviations, so that float32 rounding does not count.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Statistics:
    """Per-variable statistics of the transformed training hours; tensors of shape (C,)."""

    names: tuple[str, ...]  # names in the store
    mean: Tensor
    std: Tensor
    change_std: Tensor  # standard deviation of the change over one lead

    def to(self, device) -> "Statistics":
        return Statistics(self.names, *(t.to(device) for t in (self.mean, self.std, self.change_std)))

    @property
    def scale(self) -> Tensor:
        """(C, 1, 1): the standard deviation of the change in units of the state, the unit of the tendency."""
        return (self.change_std / self.std)[:, None, None]

    def as_dict(self) -> dict:
        """Plain types, for checkpoints and attributes."""
        rows = zip(self.names, self.mean.tolist(), self.std.tolist(), self.change_std.tolist(), strict=True)
        return {n: {"mean": m, "std": s, "change_std": c} for n, m, s, c in rows}

    @staticmethod
    def from_dict(table: dict) -> "Statistics":
        columns = [torch.tensor([row[k] for row in table.values()]) for k in ("mean", "std", "change_std")]
        return Statistics(tuple(table), *columns)


# Table's `transform` -> the function to the space where a variable is normalised, and its inverse on the range of that.
TRANSFORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (lambda x: x, lambda x: x),
    "floor0": (lambda x: x.clamp(min=0), lambda x: x.clamp(min=0)),
    "sqrt": (lambda x: x.clamp(min=0).sqrt(), lambda x: x.clamp(min=0).square()),
    "cube_root": (lambda x: x.clamp(min=0).pow(1 / 3), lambda x: x.clamp(min=0).pow(3)),
    "negative_sqrt": (lambda x: -(-x).clamp(min=0).sqrt(), lambda x: -(-x).clamp(min=0).square()),
}


def transform(x: Tensor, name: str) -> Tensor:
    """A physical field of one variable in the space where it is normalised."""
    return TRANSFORMS[lookup(name).transform][0](x)


def inverse_transform(x: Tensor, name: str) -> Tensor:
    """The inverse of `transform` on its range."""
    return TRANSFORMS[lookup(name).transform][1](x)


def normalise(physical: Tensor, statistics: Statistics, mask: Tensor | None = None) -> Tensor:
    """(..., C, H, W) in store units to the state. `mask` (C, H, W), True where the variable is missing in every
    hour: there the state is 0, the mean. NaN anywhere else stays NaN."""
    fields = [transform(physical[..., c, :, :], n) for c, n in enumerate(statistics.names)]
    state = (torch.stack(fields, dim=-3) - statistics.mean[:, None, None]) / statistics.std[:, None, None]
    return state if mask is None else torch.where(mask, 0.0, state)


def denormalise(state: Tensor, statistics: Statistics, mask: Tensor | None = None) -> Tensor:
    """The state (..., C, H, W) back to store units; NaN where `mask` is True."""
    fields = state * statistics.std[:, None, None] + statistics.mean[:, None, None]
    out = torch.stack([inverse_transform(fields[..., c, :, :], n) for c, n in enumerate(statistics.names)], dim=-3)
    return out if mask is None else torch.where(mask, torch.nan, out)


def clip_physical(physical: Tensor, names: tuple[str, ...]) -> Tensor:
    """(..., C, H, W) in store units held inside the physical bounds; NaN stays NaN."""
    fields = {n: physical[..., c, :, :].clamp(lookup(n).lower, lookup(n).upper) for c, n in enumerate(names)}
    for c, partner in _ties(names):
        ceiling = fields[names[partner]]  # where it is missing it limits nothing
        fields[names[c]] = torch.minimum(fields[names[c]], torch.where(ceiling.isnan(), torch.inf, ceiling))
    return torch.stack([fields[n] for n in names], dim=-3)


def limiter(statistics: Statistics, mask: Tensor | None = None) -> Callable[..., tuple[Tensor, Tensor]]:
    """A function limit(state, mask=mask) that holds a state (B, C, H, W) inside the physical bounds of its variables,
    and at the mean in masked cells, whose values mean nothing and would reach their neighbours at the next step.

    It returns the state and, with `count`, the share (B, C) of unmasked cells that were outside. Beyond a bound at
    which cells pile up does not count as outside: "no echo" and "no CAPE" may be any value at or beyond the bound.
    Nor does a dew point above the temperature, which says "saturated": it is set to the temperature.
    """
    lower, upper = (_bound(statistics, side) for side in ("lower", "upper"))
    count_lower = (lower - ROUNDING).masked_fill(_piles(statistics, "lower"), -torch.inf)
    count_upper = (upper + ROUNDING).masked_fill(_piles(statistics, "upper"), torch.inf)
    ties = _ties(statistics.names)

    def limit(state: Tensor, mask: Tensor | None = mask, count: bool = True) -> tuple[Tensor, Tensor | None]:
        clipped = state.clamp(lower, upper)
        for c, partner in ties:
            ceiling = clipped[:, partner] * statistics.std[partner] + statistics.mean[partner]
            clipped[:, c] = torch.minimum(clipped[:, c], (ceiling - statistics.mean[c]) / statistics.std[c])
        clipped = clipped if mask is None else clipped.masked_fill_(mask, 0.0)
        if not count:
            return clipped, None
        outside, cells = (state < count_lower) | (state > count_upper), state.shape[-2] * state.shape[-1]
        if mask is not None:
            outside, cells = outside & ~mask, (~mask).sum(dim=(-2, -1)).clamp(min=1)
        return clipped, outside.sum(dim=(-2, -1)) / cells

    return limit


def _bound(statistics: Statistics, side: str) -> Tensor:
    """The lower or upper physical bounds as a state (C, 1, 1)."""
    bounds = [transform(torch.tensor(float(getattr(lookup(n), side))), n) for n in statistics.names]
    return ((torch.stack(bounds).to(statistics.mean) - statistics.mean) / statistics.std)[:, None, None]


def _piles(statistics: Statistics, side: str) -> Tensor:
    """Whether cells pile up at the lower or upper bound (C, 1, 1) bool."""
    piles = [lookup(n).piles_at == side for n in statistics.names]
    return torch.tensor(piles, device=statistics.mean.device)[:, None, None]


def _ties(names: tuple[str, ...]) -> list[tuple[int, int]]:
    """(channel, channel it must not exceed): dew point and temperature."""
    position = {lookup(n).name: c for c, n in enumerate(names)}
    return [(c, position[above]) for c, n in enumerate(names) if (above := lookup(n).not_above) in position]

"""Physical fields to the model's state and back: the one boundary where units change.

    physical (store units) --transform--> --(x - mean) / std--> state (what the model sees)

The statistics are those of the training hours, streamed once through the store; they travel in the checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.store import Store
from data.times import show
from data.variables import lookup, refuse_undeclared

# A cell counts as clipped only beyond this many standard deviations, so that float32 rounding does not count.
ROUNDING = 1e-4
MOST_OUTSIDE = 0.01  # share of training values outside the physical bounds that is still taken for weather


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
    (lower, low_piles), (upper, high_piles) = (_bound(statistics, side) for side in ("lower", "upper"))
    count_lower = (lower - ROUNDING).masked_fill(low_piles, -torch.inf)
    count_upper = (upper + ROUNDING).masked_fill(high_piles, torch.inf)
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


def _bound(statistics: Statistics, side: str) -> tuple[Tensor, Tensor]:
    """The lower or upper physical bounds as a state (C, 1, 1), and whether cells pile up there."""
    table, mean = [lookup(n) for n in statistics.names], statistics.mean
    bounds = [transform(torch.tensor(float(getattr(v, side))), v.name) for v in table]
    piles = torch.tensor([v.piles_at == side for v in table], device=mean.device)
    return ((torch.stack(bounds).to(mean) - mean) / statistics.std)[:, None, None], piles[:, None, None]


def _ties(names: tuple[str, ...]) -> list[tuple[int, int]]:
    """(channel, channel it must not exceed): dew point and temperature."""
    position = {lookup(n).name: c for c, n in enumerate(names)}
    return [(c, position[above]) for c, n in enumerate(names) if (above := lookup(n).not_above) in position]


# --- statistics of the training hours, and the first look at their values ---


def compute_statistics(
    store: Store, names: list[str], times: np.ndarray, also_check: np.ndarray, lead: np.timedelta64
) -> tuple[Statistics, Tensor | None]:
    """Mean and standard deviation of each transformed variable over `times`, and the standard deviation of its
    change over `lead` between those of them that are `lead` apart. One hour at a time is in memory.

    times: sorted datetime64[ns], the training hours alone. also_check: further hours that are read for
    missing values only (validation).
    Returns the statistics and the mask (C, H, W), True where a variable is missing in every training hour, or
    None. Raises ValueError for missing or infinite values that are no mask, for a variable that never changes,
    and for values that cannot be in the variable's unit.
    """
    sums, change_sums = np.zeros((2, 3, len(names)))  # number, sum and sum of squares of each variable
    table = [lookup(n) for n in names]
    low, high, floor = (
        torch.tensor([getattr(v, k) for v in table])[:, None, None] for k in ("lower", "upper", "scored_floor")
    )
    outside = np.zeros(len(names))
    always = None  # missing in every training hour so far
    hours = np.concatenate([times, also_check])
    missing = np.zeros((len(hours), len(names)), np.int64)
    recent: dict[np.datetime64, Tensor] = {}  # transformed hours not older than one lead
    for row, time in enumerate(tqdm(hours, desc="statistics", unit="hour", disable=None, leave=False)):
        physical = torch.from_numpy(store.load(time, names))
        finite = physical.isfinite()
        missing[row] = (~finite).sum(dim=(1, 2)).numpy()
        if row >= len(times):  # other cells than those of the mask, counted above the mask's own number
            missing[row] = (always.int() + (~finite ^ always).int()).sum(dim=(1, 2)).numpy()
            continue
        for c, name in enumerate(names):
            refuse_undeclared(store.path, name, physical[c].numpy(), show(time))
        always = physical.isnan() if always is None else always & physical.isnan()
        fields = torch.stack([transform(physical[c], n) for c, n in enumerate(names)])
        sums += _moments(fields)
        scored = physical.clamp(min=floor)  # a value for no echo below the floor is no fault
        outside += ((scored < low) | (scored > high)).sum((1, 2)).numpy()
        if (earlier := recent.get(time - lead)) is not None:
            change_sums += _moments(fields - earlier)
        recent = {t: x for t, x in recent.items() if t > time - lead} | {time: fields}
    assert always is not None, "the split has training hours"
    _refuse_missing(store, names, hours, missing, always)
    (count, total, squares), (change_count, change_total, change_squares) = sums, change_sums
    _refuse_outside(store, names, outside / np.maximum(count, 1))
    mean, change_mean = total / count, change_total / change_count
    # winds without a mean: a mirror is then a change of sign of the normalised field too
    mean[[-1 in (v.parity_x, v.parity_y) for v in table]] = 0.0
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    change_std = np.sqrt(np.maximum(change_squares / change_count - change_mean**2, 0))
    for c, name in enumerate(names):
        if not change_std[c] > 1e-6 * max(abs(mean[c]), 1e-6) or not std[c] > 0:
            raise ValueError(
                f"{store.path}: {name} never changes from one step to the next in the training hours, or by the same "
                f"amount everywhere (its transformed mean is {mean[c]:.6g}), expected a variable that varies. "
                "Fix: leave it out with --variables"
            )
    statistics = Statistics(tuple(names), *(torch.tensor(a, dtype=torch.float32) for a in (mean, std, change_std)))
    return statistics, always if bool(always.any()) else None


def _moments(fields: Tensor) -> np.ndarray:
    """(3, C): the number of finite values, their sum and the sum of their squares."""
    finite = fields.isfinite()
    values = torch.where(finite, fields, 0.0).double()
    return torch.stack([x.sum((1, 2)).double() for x in (finite, values, values.square())]).numpy()


def _refuse_missing(store: Store, names: list[str], hours: np.ndarray, missing: np.ndarray, mask: Tensor) -> None:
    masked = mask.sum(dim=(1, 2)).numpy()
    extra = missing - masked
    for c, name in enumerate(names):
        if masked[c] == mask[c].numel():
            raise ValueError(
                f"{store.path}: {name} is missing (NaN) in every cell of every training hour, expected values. "
                "Fix: leave it out with --variables, or write the store again"
            )
        bad = np.flatnonzero(extra[:, c])
        if len(bad):
            first = bad[np.argmin(hours[bad].astype("int64"))]
            raise ValueError(
                f"{store.path}: {name} has {int(np.abs(extra[bad, c]).sum())} missing or infinite values in {len(bad)} "
                f"hours, first at {show(hours[first])}, expected a number or a mask that is the same in every hour. "
                f"Fix: `.venv/bin/python -m data.check_store {store.path}` lists them and has training leave them out"
            )


def _refuse_outside(store: Store, names: list[str], share: np.ndarray) -> None:
    for c, name in enumerate(names):
        v = lookup(name)
        if share[c] > MOST_OUTSIDE:
            units = store.dataset[name].attrs.get("units", "no units attribute")
            raise ValueError(
                f"{store.path}: {name}: {share[c]:.0%} of the training values lie outside {v.lower:g}..{v.upper:g} "
                f"{v.units} (units in the store: {units}), expected {v.name} in {v.units}. "
                "Fix: convert the units or the sign in the store"
            )

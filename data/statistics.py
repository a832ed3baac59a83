"""Statistics of the training hours, streamed once through the store, and the first look at its values."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.normalise import Statistics, transform
from data.store import Store
from data.times import show
from data.variables import lookup, refuse_undeclared

MOST_OUTSIDE = 0.01  # share of training values outside the physical bounds that is still taken for weather


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
        outside += _outside(physical, names).numpy()
        if (earlier := recent.get(time - lead)) is not None:
            change_sums += _moments(fields - earlier)
        recent = {t: x for t, x in recent.items() if t > time - lead} | {time: fields}
    assert always is not None, "the split has training hours"
    _refuse_missing(store, names, hours, missing, always)
    (count, total, squares), (change_count, change_total, change_squares) = sums, change_sums
    _refuse_outside(store, names, outside / np.maximum(count, 1))
    mean, change_mean = total / count, change_total / change_count
    # winds without a mean: a mirror is then a change of sign of the normalised field too
    mean[[-1 in (lookup(n).parity_x, lookup(n).parity_y) for n in names]] = 0.0
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


def _outside(physical: Tensor, names: list[str]) -> Tensor:
    out = torch.zeros(len(names))
    for c, name in enumerate(names):
        v = lookup(name)
        x = physical[c].clamp(min=v.scored_floor)  # a no-echo value below the floor is no fault
        out[c] = ((x < v.lower) | (x > v.upper)).sum()
    return out


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

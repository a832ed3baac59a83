"""The header of a training run: what will be trained on what, in words."""

from data.dataset import Split
from data.store import Store
from data.times import show, show_duration


def describe(store: Store, names: list[str], split: Split, parts: dict, lead, history: int) -> str:
    """The header: what will be trained on what."""
    rows = [f"train {' '.join(names)} of {store.path} ({store.grid.shape[0]} x {store.grid.shape[1]} cells), lead "
            f"{show_duration(lead)}",
            f"record {show(store.times.min())} to {show(store.times.max())}, {len(store.times)} times"]  # fmt: skip
    for part, times in parts.items():
        first, last = getattr(split, part)
        inside = ((store.times >= first) & (store.times <= last)).sum()
        lost = max(inside - 1 - history - len(times), 0)
        rows.append(
            f"  {part:10s} {show(first)} to {show(last)}: {len(times)} pairs"
            + (f", {lost} lost to gaps" if lost else "")
        )
    rows.append(f"  gap between the parts {show_duration(split.gap)}")
    return "\n".join(rows)


def mask_notes(names: list[str], mask) -> list[str]:
    """A line for each variable that has cells without data in every hour."""
    if mask is None:
        return []
    share = mask.float().mean(dim=(1, 2)).tolist()
    return [
        f"{n}: {s:.1%} of the cells have no data in any hour; masked: left out of loss, statistics and scores"
        for n, s in zip(names, share, strict=True)
        if s
    ]

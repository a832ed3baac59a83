"""The hours and the values of a training store."""

import numpy as np
import xarray as xr
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from data.variables import lookup
from plotting.colours import LINES, colour_map
from plotting.maps import unit_of

DAY, HOUR = np.timedelta64(1, "D"), np.timedelta64(1, "h")


def coverage(dataset: xr.Dataset, split: dict | None = None) -> Figure:
    """How many fields of each hour of each day a training store holds: date across, hour of day (UTC) up, white: none.

    `split` gives the parts as {"train": (first, last), ...} of ISO times, as the attributes of checkpoint and
    forecast have them; their first times are drawn as lines.
    """
    times = dataset["time"].values.astype("datetime64[ns]")
    first = times.min().astype("datetime64[D]")
    day = ((times - first) // DAY).astype(int)
    hour = ((times - times.astype("datetime64[D]")) // HOUR).astype(int)
    count = np.zeros((24, day.max() + 1))
    np.add.at(count, (hour, day), 1)
    most = int(count.max())
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    left = date2num(first)
    shades = colour_map("Blues").resampled(most + 1) if most > 1 else colour_map("Blues")
    image = axes.imshow(
        np.where(count > 0, count, np.nan), extent=(left, left + count.shape[1], 0, 24), origin="lower", aspect="auto",
        vmin=0, vmax=most, cmap=shades, interpolation="nearest",
    )  # fmt: skip
    parts = {k: v for k, v in (split or {}).items() if isinstance(v, list | tuple)}  # beside the length of the gap
    for part, ends in parts.items():
        start = date2num(np.datetime64(ends[0]))
        axes.axvline(start, color=LINES[1], linewidth=1.5)
        axes.text(start, 24.3, f" {part}", color=LINES[1], fontsize=10, va="bottom")
    locator = AutoDateLocator(minticks=2, maxticks=6)
    axes.xaxis_date()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set(yticks=range(0, 25, 6), ylim=(0, 24))
    axes.set_ylabel("hour of day, UTC", fontsize=11)
    if most > 1:
        figure.colorbar(image, ax=axes, label="fields in the hour", shrink=0.9)
    gaps = _gaps(times)
    figure.suptitle(f"{len(times)} times, {gaps or 'no'} gap{'' if gaps == 1 else 's'}", fontsize=12)
    return figure


def distributions(dataset: xr.Dataset, variables: list[str] | None = None, times: int = 24) -> Figure:
    """Histogram of every (time, y, x) variable over `times` times spread over the store, count on a log scale.

    The titles give the share of cells without a value and the share at the bound of the variable (no echo, no CAPE).
    """
    names = variables or [str(n) for n, v in dataset.data_vars.items() if v.ndim == 3 and v.dims[0] == "time"]
    if not names:
        raise ValueError(
            f"variables: got {', '.join(map(str, dataset.data_vars)) or 'none'}, expected a (time, y, x) array. "
            "Fix: open a training store"
        )
    chosen = np.unique(np.linspace(0, dataset.sizes["time"] - 1, times).round().astype(int))
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.5 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        values = dataset[name].isel(time=chosen).values.astype(np.float64)
        finite = values[np.isfinite(values)]
        axes.hist(finite, bins=50, color="0.45", log=True, histtype="stepfilled")
        notes = []
        if finite.size < values.size:
            notes.append(f"{1 - finite.size / values.size:.0%} without a value")
        bound = {"lower": np.min, "upper": np.max}.get(lookup(name).piles_at)
        if bound and finite.size:
            share = np.mean(finite == bound(finite))
            notes += [f"{share:.0%} at {bound(finite):g}"] if share > 0.005 else []
        axes.set_title(f"{name}" + (f": {', '.join(notes)}" if notes else ""), fontsize=11)
        axes.set_xlabel(unit_of(dataset[name]), fontsize=10)
        axes.tick_params(labelsize=9)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supylabel("cells", fontsize=11)
    figure.suptitle(f"values of {len(chosen)} times", fontsize=12)
    return figure


def _gaps(times: np.ndarray) -> int:
    """The number of steps between neighbouring times that are longer than the usual one."""
    steps = np.diff(np.sort(times))
    return int((steps > np.median(steps)).sum()) if len(steps) else 0

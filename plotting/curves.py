"""The course of a training run, from the records of log.jsonl."""

import math
import os
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LINE = {"linewidth": 1.4, "marker": "o", "markersize": 3}


def loss_curves(records: list[dict]) -> Figure:
    """Loss and terms, skill, learning rate and gradient, speed: one point per validation.

    `records` are the objects of log.jsonl, oldest first: epoch, loss, terms{}, lr, grad_norm,
    skill{variable}, rollout_skill{variable}, samples_per_s, data_wait, peak_memory_bytes. What a record
    lacks, or holds as NaN, is left out.
    """
    if not records:
        raise ValueError("loss_curves: got no record, expected at least one. Fix: draw after the first validation")
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (loss, skill), (rate, speed) = figure.subplots(2, 2)

    _line(loss, records, "loss", "loss", color="black")
    for term in _inner(records, "terms"):
        _line(loss, records, term, "terms", term, linestyle="--")
    positive = all(y > 0 for line in loss.lines for y in line.get_ydata())
    loss.set(title="loss and its terms", ylabel="loss", yscale="log" if positive else "linear")

    skill.axhline(0, color="black", linewidth=0.8)
    for c, variable in enumerate(_inner(records, "skill")):
        _line(skill, records, variable, "skill", variable, color=f"C{c}")
        label = "" if c else "dotted: roll-out"
        _line(skill, records, label, "rollout_skill", variable, color=f"C{c}", linestyle=":", marker=None)
    _keep_in_view(skill)
    skill.set(title="validation skill against persistence (0: as good)", ylabel="1 - RMSE / RMSE of persistence")

    _line(rate, records, "learning rate", "lr", color="C0")
    norm = rate.twinx()
    _line(norm, records, "gradient norm", "grad_norm", color="C3")
    rate.set_title("learning rate and gradient norm")
    rate.ticklabel_format(axis="y", scilimits=(-2, 3))
    rate.set_ylabel("learning rate", color="C0")
    norm.set_ylabel("gradient norm", color="C3")
    rate.set_ylim(bottom=0)
    norm.set_ylim(0, 1.3 * norm.get_ylim()[1])

    _line(speed, records, "samples per second", "samples_per_s", color="C2")
    speed.set_ylabel("samples per second", color="C2")
    speed.set_ylim(bottom=0)
    wait = speed.twinx()
    _line(wait, records, "share waiting for data", "data_wait", color="C1")
    wait.set_ylabel("share of time waiting for data", color="C1")
    wait.set_ylim(0, 1)
    peak = max((r.get("peak_memory_bytes") or 0 for r in records), default=0)
    speed.set_title("speed" + (f"; peak memory {peak / 1e9:.2f} GB" if peak else ""))

    epochs = [r["epoch"] for r in records]
    for panel in (loss, skill, rate, speed):
        panel.set_xlabel("epoch")
        panel.set_xlim(0, max(epochs) + max(1, max(epochs) // 50))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    for panel in (loss, skill):
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=7.5, ncols=2)
    return figure


def save_loss_curves(records: list[dict], path: Path) -> None:
    """Write the figure as a PNG at `path`: to a temporary file, then renamed."""
    temporary = path.with_suffix(".tmp.png")
    loss_curves(records).savefig(temporary, dpi=110)
    os.replace(temporary, path)


def _line(axes, records: list[dict], label: str, *keys: str, **style) -> None:
    """One line over the records that have records[...][key][key]; nothing where none has."""
    points = []
    for record in records:
        value = record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and math.isfinite(value):
            points.append((record["epoch"], value))
    if points:
        style = LINE | ({"marker": None} if len(points) > 40 else {}) | style
        axes.plot(*zip(*points, strict=True), label=label, **style)


def _inner(records: list[dict], key: str) -> list[str]:
    """The names under `key` in any record, in order of appearance."""
    return list(dict.fromkeys(name for r in records for name in r.get(key) or {}))


def _keep_in_view(axes) -> None:
    """Skills far below 0, usual in the first epochs, must not flatten everything after them."""
    values = [y for line in axes.lines for y in line.get_ydata()]
    newest = min(line.get_ydata()[-1] for line in axes.lines)
    if min(values) < -1:
        axes.set_ylim(min(-1, 1.1 * newest), max(0.1, *values) + 0.05)

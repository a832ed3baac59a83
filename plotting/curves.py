"""The course of a training run, from the records of log.jsonl."""

import math
import os
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

LINE = {"linewidth": 1.4, "marker": "o", "markersize": 3}
STYLES = ("-", "--", "-.", ":")


def best_record(records: list[dict]) -> dict | None:
    """The record of best.pt: with the highest score, of the roll-out epochs as soon as there is one."""
    last = [r for r in records if r.get("own_forecasts")] or records
    return max((r for r in last if is_number(r.get("score"))), key=lambda r: r["score"], default=None)


def without_skill(records: list[dict]) -> list[str]:
    """The variables in which the best validation is no better than persistence."""
    skill = (best_record(records) or {}).get("skill") or {}
    return [name for name, value in skill.items() if is_number(value) and value <= 0]


def loss_curves(records: list[dict]) -> Figure:
    """Two panels with one point per validation: loss with its terms, and skill by variable.

    `records` are the objects of log.jsonl, oldest first. What a record lacks, or holds as NaN, is left out. A grey
    line marks the epoch of best.pt, a grey area the roll-out epochs.
    """
    if not records:
        raise ValueError("loss_curves: got no record, expected at least one. Fix: draw after the first validation")
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    loss, skill = figure.subplots(1, 2)
    _line(loss, records, "loss", "loss", color="black", linewidth=2.2)
    for n, term in enumerate(_inner(records, "terms")):
        _line(loss, records, term, "terms", term, linestyle=STYLES[(n + 1) % 4])
    positive = all(y > 0 for line in loss.lines for y in line.get_ydata())
    loss.set(title="loss and its terms", ylabel="loss (1: as persistence)", yscale="log" if positive else "linear")
    if positive:
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_minor_locator(NullLocator())
        loss.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

    skill.axhline(0, color="black", linewidth=0.8)
    for c, variable in enumerate(_inner(records, "skill")):
        _line(skill, records, variable, "skill", variable, color=f"C{c}")
    _line(skill, records, "score (chooses best.pt)", "score", color="black", linestyle=":", marker=None)
    _keep_in_view(skill)
    skill.set(title="validation skill against persistence (0: as good)", ylabel="1 - RMSE / RMSE of persistence")

    best, epochs = best_record(records), [r["epoch"] for r in records]
    rollouts = [r["epoch"] for r in records if r.get("own_forecasts")]
    for panel in (loss, skill):
        if rollouts:
            before = max((e for e in epochs if e < rollouts[0]), default=0)
            panel.axvspan(before, rollouts[-1], color="0.93", zorder=0, label="roll-out epochs")
        if best is not None:
            panel.axvline(best["epoch"], color="0.7", linewidth=1, zorder=0)
        panel.set_xlabel("epoch")
        panel.set_xlim(0, max(epochs) + max(1, max(epochs) // 50))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8, ncols=2)
    figure.suptitle(headline(records), fontsize=13)
    return figure


def headline(records: list[dict]) -> str:
    """The state of a run in one line: epoch, loss, score, and which epoch best.pt has."""
    last, best = records[-1], best_record(records)
    parts = [f"epoch {last['epoch']}"]
    if is_number(last.get("loss")):
        parts.append(f"loss {last['loss']:.3f}")
    if is_number(last.get("score")):
        parts.append(f"score {last['score']:+.3f}")
    if best is not None and best is not last:
        parts.append(f"best.pt {best['score']:+.3f} of epoch {best['epoch']} (grey line)")
    return ", ".join(parts)


def save_loss_curves(records: list[dict], path: Path) -> None:
    """Write the figure as a PNG at `path`: to a temporary file, then renamed."""
    temporary = path.with_suffix(".tmp.png")
    loss_curves(records).savefig(temporary, dpi=110)
    os.replace(temporary, path)


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _line(axes, records: list[dict], label: str, *keys: str, **style) -> None:
    """One line over the records that have records[...][key][key]; nothing if none has."""
    points = []
    for record in records:
        value = record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if is_number(value):
            points.append((record["epoch"], value))
    if points:
        style = LINE | ({"marker": None} if len(points) > 40 else {}) | style
        axes.plot(*zip(*points, strict=True), label=label.replace("$", r"\$"), **style)  # a name is no formula


def _inner(records: list[dict], key: str) -> list[str]:
    """The names under `key` in any record, in order of appearance."""
    return list(dict.fromkeys(name for r in records for name in r.get(key) or {}))


def _keep_in_view(axes) -> None:
    """Skills far below 0, usual in the first epochs, must not flatten everything after them."""
    values = [y for line in axes.lines for y in line.get_ydata()]
    newest = min(line.get_ydata()[-1] for line in axes.lines)
    if min(values) < -1:
        axes.set_ylim(min(-1, 1.1 * newest), max(0.1, *values) + 0.05)

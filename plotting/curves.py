"""The course of a training run, from the records of log.jsonl."""

import math
import os
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from plotting.colours import line_styles


def best_record(records: list[dict]) -> dict | None:
    """The record of best.pt: the one with the highest score, from the roll-out epochs if there are any."""
    last = [r for r in records if r.get("own_forecasts")] or records
    return max((r for r in last if is_number(r.get("score"))), key=lambda r: r["score"], default=None)


def without_skill(records: list[dict]) -> list[str]:
    """The variables in which the best validation is no better than persistence."""
    skill = (best_record(records) or {}).get("skill") or {}
    return [name for name, value in skill.items() if is_number(value) and value <= 0]


def loss_curves(records: list[dict]) -> Figure:
    """Two panels: the training loss, and the validation skill of each variable.

    `records` are the objects of log.jsonl, oldest first. Each gives a point at its epoch. Values that are missing
    or not finite give no point. The loss is in units of persistence at the same lead, so values before and during
    roll-out training can be compared. A grey area marks the roll-out epochs, a dotted line the epoch of best.pt.
    ValueError if there is no record.
    """
    if not records:
        raise ValueError("loss_curves: got no record, expected at least one. Fix: draw after the first validation")
    figure = Figure(figsize=(11, 5.0), layout="constrained")
    loss, skill = figure.subplots(1, 2)
    _line(loss, [(r["epoch"], r.get("loss")) for r in records], color="black", linewidth=2, marker="o", markersize=3)
    loss.axhline(1, color="black", linewidth=0.8)
    loss.set(title="training loss (1: as large as that of persistence)", ylabel="loss / loss of persistence, same lead")

    skill.axhline(0, color="black", linewidth=0.8)
    for name, style in line_styles(dict.fromkeys(name for r in records for name in r.get("skill") or {})).items():
        points = [(r["epoch"], (r.get("skill") or {}).get(name)) for r in records]
        _line(skill, points, label=name.replace("$", r"\$"), **style)  # names are not formulas
    _line(
        skill, [(r["epoch"], r.get("score")) for r in records], label="score (chooses best.pt)", color="black", ls=":"
    )
    _keep_in_view(skill)
    skill.set(title="validation skill (0: as good as persistence)", ylabel="1 - RMSE / RMSE of persistence")

    best, epochs = best_record(records), [r["epoch"] for r in records]
    rollouts = [e for e, r in zip(epochs, records, strict=True) if r.get("own_forecasts")]
    for panel in (loss, skill):
        if rollouts:
            before = max((e for e in epochs if e < rollouts[0]), default=0)
            label = "roll-out training" if panel is loss else None
            panel.axvspan(before, rollouts[-1], color="0.92", zorder=0, label=label)
        if best is not None:
            panel.axvline(best["epoch"], color="0.5", linestyle=(0, (1, 2)), zorder=0)
        panel.set_xlabel("epoch")
        panel.set_xlim(0, 1.03 * max(epochs))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    if any(panel.get_legend_handles_labels()[0] for panel in (loss, skill)):
        figure.legend(loc="outside lower center", ncols=10, fontsize=9)
    figure.suptitle(headline(records), fontsize=13)
    return figure


def headline(records: list[dict]) -> str:
    """The state of a run in one line: epoch, loss, score, and the epoch of best.pt."""
    last, best = records[-1], best_record(records)
    parts = [f"epoch {last['epoch']:g}"]
    if is_number(last.get("loss")):
        parts.append(f"loss {last['loss']:.3f}")
    if is_number(last.get("score")):
        parts.append(f"score {last['score']:+.3f}")
    if best is not None and best is not last:
        parts.append(f"best.pt {best['score']:+.3f} of epoch {best['epoch']:g} (dotted line)")
    return ", ".join(parts)


def save_loss_curves(records: list[dict], path: Path) -> None:
    """Write the figure as a PNG at `path`: to a temporary file, then renamed."""
    temporary = path.with_suffix(".tmp.png")
    loss_curves(records).savefig(temporary, dpi=110)
    os.replace(temporary, path)


def is_number(value) -> bool:
    """Whether a value read from JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _line(axes, points: list[tuple], **style) -> None:
    """One line through the points whose value is finite; nothing if there is none."""
    points = [p for p in points if is_number(p[1])]
    if points:
        # no markers closer than 2 % of the diagonal; a single point, which has no line, needs one
        marks = {"markevery": 0.02} if len(points) > 1 else {"marker": "o"}
        axes.plot(*zip(*points, strict=True), **marks | style)


def _keep_in_view(axes) -> None:
    """Limit the axis if early skills far below 0, which are usual, would flatten the later ones."""
    values = [y for line in axes.lines for y in line.get_ydata()]
    newest = min(line.get_ydata()[-1] for line in axes.lines)
    if min(values) < -1:
        axes.set_ylim(min(-1, 1.1 * newest), max(0.1, *values) + 0.05)

"""The course of a training run, from the records of log.jsonl: a figure, and TensorBoard events."""

import math
import os
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

LINE = {"linewidth": 1.4, "marker": "o", "markersize": 3}
STYLES = ("-", "--", "-.", ":")
WORST = -0.5  # lowest skill that a bar of the newest skill shows


def loss_curves(records: list[dict]) -> Figure:
    """Six panels with one point per validation: loss and terms, skill, newest skill, rate, gradient, throughput.

    `records` are the objects of log.jsonl, oldest first: epoch, loss, terms{}, lr, grad_norm, score,
    skill{variable}, rollout_skill{variable}, rollout_hours, samples_per_s, data_wait, peak_memory_bytes. What a record
    lacks, or holds as NaN, is left out. A grey line marks the epoch of best.pt.
    """
    if not records:
        raise ValueError("loss_curves: got no record, expected at least one. Fix: draw after the first validation")
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    (loss, skill, newest), (rate, norm, speed) = figure.subplots(2, 3)

    _line(loss, records, "loss", "loss", color="black", linewidth=2.2)
    for n, term in enumerate(_inner(records, "terms")):
        _line(loss, records, term, "terms", term, linestyle=STYLES[(n + 1) % 4])
    positive = all(y > 0 for line in loss.lines for y in line.get_ydata())
    loss.set(title="loss and its terms", ylabel="loss (1: as persistence)", yscale="log" if positive else "linear")
    for which in (loss.yaxis.set_major_formatter, loss.yaxis.set_minor_formatter):
        which(FuncFormatter(lambda value, _: f"{value:g}"))

    skill.axhline(0, color="black", linewidth=0.8)
    for c, variable in enumerate(_inner(records, "skill")):
        _line(skill, records, variable, "skill", variable, color=f"C{c}")
        label = "" if c else "dotted: roll-out"
        _line(skill, records, label, "rollout_skill", variable, color=f"C{c}", linestyle=":", marker=None)
    _keep_in_view(skill)
    skill.set(title="validation skill against persistence (0: as good)", ylabel="1 - RMSE / RMSE of persistence")

    _newest(newest, records[-1])
    for axes, key, title, colour in (
        (rate, "lr", "learning rate", "C0"),
        (norm, "grad_norm", "gradient norm (mean)", "C3"),
        (speed, "samples_per_s", "samples per second", "C2"),
    ):
        _line(axes, records, key, key, color=colour)
        axes.set(title=title)
        axes.set_ylim(0, (1.15 * axes.get_ylim()[1]) if axes.lines else 1)
    rate.ticklabel_format(axis="y", scilimits=(-2, 3))
    speed.text(0.03, 0.05, _beside_speed(records), transform=speed.transAxes, fontsize=10)

    best, fine_tuned = _kept(records), [r["epoch"] for r in records if r.get("own_forecasts")]
    epochs = [r["epoch"] for r in records]
    if fine_tuned:
        before = [e for e in epochs if e < fine_tuned[0]]
        loss.axvspan(
            before[-1] if before else 0, fine_tuned[-1], color="0.93", zorder=0, label="on own forecasts: harder"
        )
    for panel in (loss, skill, rate, norm, speed):
        if best is not None:
            panel.axvline(best["epoch"], color="0.7", linewidth=1, zorder=0)
        panel.set_xlabel("epoch")
        panel.set_xlim(0, max(epochs) + max(1, max(epochs) // 50))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    for panel in (loss, skill):
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=7.5, ncols=2)
    figure.suptitle(headline(records), fontsize=13)
    return figure


def headline(records: list[dict]) -> str:
    """The state of a run in one line: epoch, loss, score, and which epoch best.pt has."""
    last, best = records[-1], _kept(records)
    parts = [f"epoch {last['epoch']}"]
    if _number(last.get("loss")):
        parts.append(f"loss {last['loss']:.3f}")
    if _number(last.get("score")):
        parts.append(f"mean skill {last['score']:+.3f}")
    if best is not None and best is not last:
        parts.append(f"best.pt {best['score']:+.3f} of epoch {best['epoch']} (grey line)")
    return ", ".join(parts)


def save_loss_curves(records: list[dict], path: Path) -> None:
    """Write the figure as a PNG at `path`: to a temporary file, then renamed."""
    temporary = path.with_suffix(".tmp.png")
    loss_curves(records).savefig(temporary, dpi=110)
    os.replace(temporary, path)


def add_events(record: dict, folder: Path) -> bool:
    """Add one record to the TensorBoard events in `folder`; False where tensorboard is not installed.

    One event file a record, each of which withdraws earlier events of its step and later ones: a run that was
    interrupted and does its last epochs again shows each point once."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    with SummaryWriter(folder, purge_step=record["step"]) as writer:
        for name, value in scalars(record).items():
            writer.add_scalar(name, value, record["step"])
    return True


def scalars(record: dict) -> dict[str, float]:
    """The numbers of a record by name, nested ones as "skill/T2M"; what is no finite number is left out."""
    out = {}
    for key, value in record.items():
        inner = {f"{key}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        out |= {k: float(v) for k, v in inner.items() if _number(v)}
    return out


def _newest(axes, record: dict) -> None:
    """Bars with the newest skill of each variable: one step ahead, and hatched at the end of the roll-out."""
    hours = record.get("rollout_hours")
    kinds = [
        ("one step", record.get("skill") or {}),
        (f"{hours:g} h" if hours else "roll-out", record.get("rollout_skill") or {}),
    ]
    names = list(dict.fromkeys(n for _, table in kinds for n in table))
    for row, (label, table) in enumerate(kinds):
        found = [(i, table[n]) for i, n in enumerate(names) if _number(table.get(n))]
        if not found:
            continue
        places = [i + 0.4 * row for i, _ in found]
        style = {"hatch": "////", "fill": False} if row else {}
        axes.barh(places, [max(v, WORST) for _, v in found], 0.36, label=label, edgecolor="C0", **style)
        for place, (_, value) in zip(places, found, strict=True):
            axes.text(max(value, 0) + 0.01, place, f"{value:+.2f}", va="center", fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks([i + 0.2 for i in range(len(names))], [literal(n) for n in names])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(title=f"newest skill, epoch {record['epoch']}", xlabel="1 - RMSE / RMSE of persistence")
    axes.grid(axis="x", alpha=0.3)
    if axes.patches:
        axes.legend(fontsize=8)


def _kept(records: list[dict]) -> dict | None:
    """The record of best.pt: with the highest score, of the epochs on its own forecasts as soon as there is one."""
    last = [r for r in records if r.get("own_forecasts")] or records
    return max((r for r in last if _number(r.get("score"))), key=lambda r: r["score"], default=None)


def _number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _beside_speed(records: list[dict]) -> str:
    """The share of time spent waiting for data and the peak of memory, where they are known."""
    wait = records[-1].get("data_wait")
    peak = max((r.get("peak_memory_bytes") or 0 for r in records), default=0)
    told = [f"{wait:.0%} of the time waiting for data"] if _number(wait) else []
    return "\n".join(told + ([f"peak memory {peak / 1e9:.2f} GB"] if peak else []))


def literal(text: str) -> str:
    """Text as matplotlib draws it as it is: a name with two dollar signs is no formula."""
    return text.replace("$", r"\$")


def _line(axes, records: list[dict], label: str, *keys: str, **style) -> None:
    """One line over the records that have records[...][key][key]; nothing where none has."""
    points = []
    for record in records:
        value = record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if _number(value):
            points.append((record["epoch"], value))
    if points:
        style = LINE | ({"marker": None} if len(points) > 40 else {}) | style
        axes.plot(*zip(*points, strict=True), label=literal(label), **style)


def _inner(records: list[dict], key: str) -> list[str]:
    """The names under `key` in any record, in order of appearance."""
    return list(dict.fromkeys(name for r in records for name in r.get(key) or {}))


def _keep_in_view(axes) -> None:
    """Skills far below 0, usual in the first epochs, must not flatten everything after them."""
    values = [y for line in axes.lines for y in line.get_ydata()]
    newest = min(line.get_ydata()[-1] for line in axes.lines)
    if min(values) < -1:
        axes.set_ylim(min(-1, 1.1 * newest), max(0.1, *values) + 0.05)

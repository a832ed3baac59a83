"""Scores by lead time, from the contents of scores.json."""

import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator

from data.variables import lookup
from plotting.colours import BASELINE_DASHES, line_styles, step_styles
from plotting.curves import is_number

BASELINES = {
    "best_skill": "the best baseline",
    "skill": "persistence",
    "skill_climatology": "climatology by hour of day",
    "skill_yesterday": "the same hour yesterday",
    "skill_damped": "damped persistence",
    "skill_extrapolation": "extrapolation",
}
RESULTS = ("FAIL", "UNDECIDED", "PASS", "n/a")  # of a certificate line
SHOWN = (1, 2, 3, 6, 12, 24)  # h, the lead times of tables
WINDOW = 33.0  # km, width of the window of the FSS; the nearest one that was scored
REFERENCE = {"linewidth": 1.1}
WIDTH, HEIGHT = 4.3, 3.5  # inches of one panel, two beside each other: readable on a telephone


def read_scores(path: Path, needed: str = "scores.json") -> dict:
    """The contents of scores.json; ValueError, which begins with `needed`, if the file is missing or something else."""
    if not path.is_file():
        raise ValueError(f"{needed}: got {path}, no such file, expected scores. Fix: run verify_forecast.py")
    try:
        scores = json.loads(path.read_text())
        lines, tables = scores["certificate"], scores["scores"].values()
        sound = isinstance(scores["init_times"], list) and all({"name", "value", "bar"} <= set(line) for line in lines)
        sound = sound and all(line["pass"] in RESULTS for line in lines)
        sound = sound and all(float(k) >= 0 and isinstance(e, dict) for by_lead in tables for k, e in by_lead.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise ValueError(
            f"{needed}: got {path}, which verify_forecast.py did not write, expected its scores. "
            "Fix: run verify_forecast.py again"
        )
    return scores


def few_leads(by_lead) -> list[str]:
    """The lead times of a table: those of SHOWN and the last one, or else about six, evenly spread."""
    leads = sorted(by_lead, key=float)
    chosen = [k for k in leads if float(k) in SHOWN]
    if len(chosen) < 2:
        chosen = leads[:: -(-len(leads) // 6)]
    return chosen if leads[-1] in chosen else [*chosen, leads[-1]]


def hours(lead: str) -> str:
    """A lead time of scores.json as text: "6 h", "30 min"."""
    return f"{float(lead):g} h" if float(lead) >= 1 else f"{60 * float(lead):g} min"


def number(value) -> str:
    """About three figures: "1,234", "12.3", "0.456"; "n/a" for what is not defined."""
    if not is_number(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def signed(value) -> str:
    """A skill with its sign; "n/a" if it is not defined."""
    return f"{value:+.2f}" if is_number(value) else "n/a"


def skill_by_lead(scores: dict, best_only: bool = False) -> Figure:
    """Skill against the best baseline and against each; for variables with events CSI, FSS and frequency bias below.

    `scores` is scores.json: {"scores": {variable: {lead in hours: {...}}}, ...}. Baselines that no variable has give no
    panel, except the first three. A marker is open if the 90 % interval holds 0. `best_only`: only the first panel.
    """
    table = scores["scores"]
    events = [v for v, by_lead in table.items() if any("csi" in e for e in by_lead.values()) and not best_only]
    keys = [k for n, k in enumerate(BASELINES) if n < 3 or any(_series(s, k)[0] for s in table.values())]
    keys = keys[:1] if best_only else keys
    columns, lines = (1, 1) if best_only else (2, -(-len(keys) // 2))
    size = (1.6 * WIDTH, 1.1 * HEIGHT) if best_only else (2 * WIDTH, HEIGHT * (lines + 2 * len(events)))
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subfigures(1 + len(events), 1, squeeze=False, height_ratios=[lines, *[2] * len(events)])[:, 0]

    panels = rows[0].subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, key in zip(panels, keys, strict=False):
        axes.axhline(0, color="black", linewidth=0.8)
        for variable, style in line_styles(table).items():
            axes.plot(*_series(table[variable], key), label=variable, **style)
            ends = {k: e.get(f"{key}_interval", True) for k, e in table[variable].items()}
            open_ = {k: table[variable][k] for k, e in ends.items() if e is None or (e is not True and e[0] < 0 < e[1])}
            axes.plot(*_series(open_, key), **style | {"linestyle": "", "markerfacecolor": "white"})
        axes.set_title(f"skill against {BASELINES[key]}", fontsize=12)
        _label(axes, max((float(k) for by_lead in table.values() for k in by_lead), default=1.0))
        if key in keys[::2]:
            axes.set_ylabel("1 - RMSE / RMSE of the baseline", fontsize=10)
    for axes in panels[len(keys) :]:
        axes.remove()
    values = [y for axes in panels[: len(keys)] for line in axes.lines[1:] for y in line.get_ydata()] or [0.0]
    # one variable far below 0, or a wide interval, must not flatten the others
    panels[0].set_ylim(max(-1, min(values) - 0.1), max(0.1, *values) + 0.1)
    handles = [*panels[0].lines[1::2], Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="")]
    names = [*table, "open: the 90 % interval holds 0"]
    rows[0].legend(handles, names, loc="outside lower center", ncols=4, fontsize=10)
    for row, variable in zip(rows[1:], events, strict=True):
        _events(row, variable, table[variable])
    return figure


def _events(figure, variable: str, by_lead: dict) -> None:
    """CSI, FSS over the window nearest to WINDOW, frequency bias: a shade per threshold, baselines broken."""
    first = next(e for e in by_lead.values() if "csi" in e)
    unit, longest = lookup(variable).units, max(map(float, by_lead))
    thresholds, windows = list(first["csi"]), next(iter(first["fss"].values()))
    window = min(windows, key=lambda width: abs(float(width) - WINDOW))
    csi, fss, bias, rest = figure.subplots(2, 2).ravel()
    rest.axis("off")
    shown = [o for o in BASELINE_DASHES if any(f"{o}_csi" in e for e in by_lead.values())]
    for t, style in zip(thresholds, step_styles(len(thresholds)), strict=True):
        csi.plot(*_series(by_lead, "csi", t), label=f"at least {t} {unit}".strip(), **style)
        fss.plot(*_series(by_lead, "fss", t, window), **style)
        for other in shown:
            thin = REFERENCE | {"linestyle": BASELINE_DASHES[other], "color": style["color"]}
            csi.plot(*_series(by_lead, f"{other}_csi", t), **thin)
            fss.plot(*_series(by_lead, f"{other}_fss", t, window), **thin)
        bias.plot(*_series(by_lead, "frequency_bias", t), **style)
    bias.axhline(1, color="black", linewidth=0.8)
    for axes, title, top in (
        (csi, "CSI", 1),
        (fss, f"FSS over {float(window):g} km", 1),
        (bias, "frequency bias (1: right area)", max(2.0, min(bias.get_ylim()[1], 5.0))),
    ):
        axes.set_ylim(0, top)
        axes.set_title(f"{variable}: {title}", fontsize=12)
        _label(axes, longest)
    handles, labels = csi.get_legend_handles_labels()
    handles += [Line2D([], [], color="0.3", linestyle=BASELINE_DASHES[other], **REFERENCE) for other in shown]
    rest.legend(handles, labels + shown, fontsize=11, loc="center", frameon=False)


def spectra(scores: dict) -> Figure:
    """Power ratio and coherence in each band of wavelength, by lead time; a row per variable.

    In the grey band, 0.8 to 1.25, the forecast is as sharp as the truth; persistence is dotted.
    """
    table, lengths = scores["scores"], scores.get("bands_km", {})
    bands = list(dict.fromkeys(b for by in table.values() for e in by.values() for b in e.get("power_ratio", {})))
    figure = Figure(figsize=(2 * WIDTH, 2.1 * len(table) + 1.6), layout="constrained")
    panels = figure.subplots(len(table), 2, sharex=True, sharey="col", squeeze=False)
    for (ratio, coherence), (variable, by_lead) in zip(panels, table.items(), strict=True):
        ratio.axhspan(0.8, 1.25, color="0.88")
        ratio.axhline(1, color="black", linewidth=0.8)
        for band, style in zip(bands, step_styles(len(bands)), strict=True):
            x, y = _series(by_lead, "power_ratio", band)
            if not x:
                continue
            label = "{:.3g}-{:.3g} km".format(*lengths[band]) if band in lengths else f"{band} cells"
            ratio.plot(x, y, label=label, **style)
            coherence.plot(*_series(by_lead, "coherence", band), **style)
            reference = _series(by_lead, "persistence_coherence", band)
            coherence.plot(*reference, color=style["color"], linestyle=BASELINE_DASHES["persistence"], **REFERENCE)
        if len(ratio.lines) == 1:
            ratio.text(0.5, 0.5, "not available", ha="center", va="center", transform=ratio.transAxes)
        ratio.set_yscale("log")
        ratio.set_ylabel(variable, fontsize=12)
        for axes in (ratio, coherence):
            _label(axes, max(map(float, by_lead)))
            axes.label_outer()
            axes.yaxis.set_tick_params(labelleft=True)
    low, high = panels[0, 0].get_ylim()
    panels[0, 0].set_ylim(max(1e-3, min(low, 0.4)), min(1e2, max(high, 2.0)))
    panels[0, 1].set_ylim(-0.3, 1.05)
    for ratio in panels[:, 0]:
        ratio.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ratio.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ratio.yaxis.set_minor_locator(NullLocator())
    panels[0, 0].set_title("sharpness: power of forecast / truth", fontsize=12)
    panels[0, 1].set_title("placement: coherence with the truth", fontsize=12)
    handles, labels = max((a.get_legend_handles_labels() for a in panels[:, 0]), key=lambda drawn: len(drawn[0]))
    if handles:
        handles.append(Line2D([], [], color="0.3", linestyle=BASELINE_DASHES["persistence"], **REFERENCE))
        figure.legend(handles, [*labels, "persistence"], loc="outside lower center", ncols=3, fontsize=10)
    return figure


def _label(axes, longest: float) -> None:
    """Lead time across up to `longest` hours, in minutes if that is less than two; ticks at whole numbers."""
    axes.set_xlim(0, 1.03 * longest)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.3)
    if longest < 2:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda hours, _: f"{60 * hours:.0f}"))
        steps = [s for s in (1, 2, 5, 10, 15, 20, 30) if 60 * longest / s <= 6] or [30]
        axes.xaxis.set_major_locator(MultipleLocator(steps[0] / 60))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=(1, 2, 3, 6, 10)))
    axes.set_xlabel(f"lead time ({'min' if longest < 2 else 'h'})", fontsize=11)


def _series(by_lead: dict, *keys: str | int) -> tuple[list[float], list[float]]:
    """Lead times in hours and the score under `keys`, if it is defined."""
    points = []
    for lead, value in by_lead.items():
        for key in keys:
            if isinstance(key, int):
                value = value[key] if isinstance(value, list) else None
            else:
                value = value.get(key) if isinstance(value, dict) else None
        if value is not None and value == value:
            points.append((float(lead), value))
    points.sort()
    return [p[0] for p in points], [p[1] for p in points]

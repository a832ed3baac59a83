"""Scores by lead time, from the contents of scores.json."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator

from data.variables import lookup
from plotting.colours import LINES as COLOURS
from plotting.colours import MARKERS
from plotting.curves import is_number

BASELINES = {
    "skill": "persistence",
    "skill_climatology": "climatology by hour of day",
    "skill_yesterday": "the same hour yesterday",
    "skill_extrapolation": "extrapolation",
}
SHOWN = (1, 2, 3, 6, 12, 24)  # h, the lead times of tables
WINDOW = 33.0  # km, the FSS window to draw, or the one nearest to it
REFERENCE = {"linewidth": 1.1}
OTHERS = {"persistence": ":", "extrapolation": "--"}  # line styles of the baselines beside the forecast
WIDTH, HEIGHT = 4.3, 3.5  # inches of one panel, two beside each other: readable on a telephone


def few_leads(by_lead) -> list[str]:
    """The lead times of a table: those of SHOWN and the last one, or else about six, evenly spread."""
    leads = sorted(by_lead, key=float)
    chosen = [k for k in leads if float(k) in SHOWN]
    if len(chosen) < 2:
        chosen = leads[:: -(-len(leads) // 6)]
    return chosen if leads[-1] in chosen else [*chosen, leads[-1]]


def number(value) -> str:
    """About three figures: "1,234", "12.3", "0.456"; "n/a" for what is not defined."""
    if not is_number(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def signed(value) -> str:
    """A skill with its sign; "n/a" if it is not defined."""
    return f"{value:+.2f}" if is_number(value) else "n/a"


def skill_by_lead(scores: dict) -> Figure:
    """Skill against every baseline; for each variable with events, CSI, FSS and frequency bias below.

    `scores` is scores.json: {"scores": {variable: {lead in hours: {...}}}, ...}. Baselines that no variable has are
    left out, except the first two. Shaded is the 90 % interval of the skill against persistence.
    """
    table = scores["scores"]
    with_events = [v for v, by_lead in table.items() if any("csi" in e for e in by_lead.values())]
    keys = [k for n, k in enumerate(BASELINES) if n < 2 or any(_series(s, k)[0] for s in table.values())]
    lines = 1 + (len(keys) > 2)  # two baselines beside each other
    figure = Figure(figsize=(2 * WIDTH, HEIGHT * (lines + 2 * len(with_events))), layout="constrained")
    heights = [lines, *[2] * len(with_events)]
    rows = figure.subfigures(1 + len(with_events), 1, squeeze=False, height_ratios=heights)[:, 0]

    panels = rows[0].subplots(lines, 2, sharey=True).ravel()
    for axes, key in zip(panels, keys, strict=False):
        axes.axhline(0, color="black", linewidth=0.8)
        for c, (variable, by_lead) in enumerate(table.items()):
            axes.plot(*_series(by_lead, key), label=variable, **_style(c))
            if key == "skill":
                low, high = (_series(by_lead, "skill_interval", end) for end in (0, 1))
                axes.fill_between(low[0], low[1], high[1], color=_style(c)["color"], alpha=0.12, linewidth=0)
        axes.set_title(f"skill against {BASELINES[key]}", fontsize=12)
        _label(axes, by_lead)
        if key in keys[::2]:
            axes.set_ylabel("1 - RMSE / RMSE of the reference", fontsize=10)
    for axes in panels[len(keys) :]:
        axes.remove()
    values = [y for axes in panels[: len(keys)] for line in axes.lines for y in line.get_ydata()]
    if min(values) < -1:  # one variable far below 0 must not flatten the others
        panels[0].set_ylim(-1, max(0.1, *values) + 0.05)
    rows[0].legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=10)
    for row, variable in zip(rows[1:], with_events, strict=True):
        _events(row, variable, table[variable])
    return figure


def _events(figure, variable: str, by_lead: dict) -> None:
    """CSI, FSS over the window nearest to WINDOW, frequency bias: a colour per threshold, baselines broken."""
    first = next(iter(by_lead.values()))
    unit = lookup(variable).units
    thresholds, windows = list(first["csi"]), next(iter(first["fss"].values()))
    window = min(windows, key=lambda width: abs(float(width) - WINDOW))
    csi, fss, bias, rest = figure.subplots(2, 2).ravel()
    rest.axis("off")
    shown = [o for o in OTHERS if any(f"{o}_csi" in e for e in by_lead.values())]
    for c, t in enumerate(thresholds):
        style = _style(c)
        csi.plot(*_series(by_lead, "csi", t), label=f"at least {t} {unit}".strip(), **style)
        fss.plot(*_series(by_lead, "fss", t, window), **style)
        for other in shown:
            thin = REFERENCE | {"linestyle": OTHERS[other], "color": style["color"]}
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
        _label(axes, by_lead)
    handles, labels = csi.get_legend_handles_labels()
    handles += [Line2D([], [], color="0.3", linestyle=OTHERS[other], **REFERENCE) for other in shown]
    rest.legend(handles, labels + shown, fontsize=11, loc="center", frameon=False)


def spectra(scores: dict) -> Figure:
    """Power ratio and coherence in each band of wavelength, by lead time; a row per variable.

    In the grey band, 0.8 to 1.25, the forecast is as sharp as the truth; dotted is persistence.
    """
    table, lengths = scores["scores"], scores.get("bands_km", {})
    bands = list(next(iter(next(iter(table.values())).values()))["power_ratio"])
    figure = Figure(figsize=(2 * WIDTH, 2.1 * len(table) + 1.6), layout="constrained")
    panels = figure.subplots(len(table), 2, sharex=True, sharey="col", squeeze=False)
    for (ratio, coherence), (variable, by_lead) in zip(panels, table.items(), strict=True):
        ratio.axhspan(0.8, 1.25, color="0.88")
        ratio.axhline(1, color="black", linewidth=0.8)
        for c, band in enumerate(bands):
            x, y = _series(by_lead, "power_ratio", band)
            if not x:
                continue
            label = "{:.3g}-{:.3g} km".format(*lengths[band]) if band in lengths else f"{band} grid lengths"
            ratio.plot(x, y, label=label, **_style(c))
            coherence.plot(*_series(by_lead, "coherence", band), **_style(c))
            reference = _series(by_lead, "persistence_coherence", band)
            coherence.plot(*reference, color=_style(c)["color"], linestyle=":", **REFERENCE)
        if len(ratio.lines) == 1:
            ratio.text(0.5, 0.5, "not available", ha="center", va="center", transform=ratio.transAxes)
        ratio.set_yscale("log")
        ratio.set_ylabel(variable, fontsize=12)
        for axes in (ratio, coherence):
            _label(axes, by_lead)
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
        handles.append(Line2D([], [], color="0.3", linestyle=":", **REFERENCE))
        figure.legend(handles, [*labels, "persistence"], loc="outside lower center", ncols=3, fontsize=10)
    return figure


def _style(c: int) -> dict:
    """Colour and marker of the c-th line: told apart by shape too."""
    return {
        "linewidth": 1.6, "markersize": 4, "color": COLOURS[c % len(COLOURS)], "marker": MARKERS[c % len(MARKERS)]
    }  # fmt: skip


def _label(axes, by_lead: dict) -> None:
    """Lead time across, in minutes if all are shorter than two hours; ticks at whole numbers."""
    longest = max(map(float, by_lead))
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
    """Lead times in hours and the score found under `keys`, where it is defined."""
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

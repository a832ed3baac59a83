"""Scores by lead time, from the contents of scores.json."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LINE = {"linewidth": 1.4, "marker": "o", "markersize": 3}
WINDOW = 33.0  # km, the FSS window to draw, or the one nearest to it
REFERENCE = {"linewidth": 1.0, "linestyle": ":"}


BASELINES = {
    "skill": "persistence",
    "skill_yesterday": "the same hour yesterday",
    "skill_damped": "damped persistence",
    "skill_extrapolation": "extrapolation",
}
OTHERS = {"persistence": ":", "extrapolation": "--"}  # line styles of the baselines beside the forecast


def skill_by_lead(scores: dict) -> Figure:
    """Skill against every baseline; for each variable with events, CSI, FSS and frequency bias below.

    `scores` is scores.json: {"scores": {variable: {lead in hours: {...}}}, ...}. A baseline that no variable has is
    left out, the first two always shown; shaded is the 90 % interval of the skill against persistence.
    """
    table = scores["scores"]
    with_events = [v for v, by_lead in table.items() if any("csi" in e for e in by_lead.values())]
    keys = [k for k in BASELINES if any(_series(s, k)[0] for s in table.values())]
    keys = list(dict.fromkeys([*list(BASELINES)[:2], *keys]))
    figure = Figure(figsize=(max(12, 4.2 * len(keys)), 4.2 * (1 + len(with_events))), layout="constrained")
    rows = figure.subfigures(1 + len(with_events), 1, squeeze=False)[:, 0]

    panels = rows[0].subplots(1, len(keys), sharey=True)
    for axes, key in zip(panels, keys, strict=True):
        axes.axhline(0, color="black", linewidth=0.8)
        for c, (variable, by_lead) in enumerate(table.items()):
            axes.plot(*_series(by_lead, key), label=variable, color=f"C{c}", **LINE)
            if key == "skill":
                low, high = (_series(by_lead, "skill_interval", end) for end in (0, 1))
                axes.fill_between(low[0], low[1], high[1], color=f"C{c}", alpha=0.15, linewidth=0)
        axes.set(title=f"skill against {BASELINES[key]}", xlabel="lead time (h)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("1 - RMSE / RMSE of the reference")
    _keep_in_view(panels)
    panels[0].legend(fontsize=8, ncols=2)

    for row, variable in zip(rows[1:], with_events, strict=True):
        _events(row, variable, table[variable])
    return figure


def _events(figure, variable: str, by_lead: dict) -> None:
    """CSI, FSS over the window nearest to WINDOW, frequency bias: a colour per threshold, baselines broken."""
    first = next(iter(by_lead.values()))
    thresholds, windows = list(first["csi"]), next(iter(first["fss"].values()))
    window = min(windows, key=lambda width: abs(float(width) - WINDOW))
    csi, fss, bias = figure.subplots(1, 3)
    shown = [o for o in OTHERS if any(f"{o}_csi" in e for e in by_lead.values())]
    for c, t in enumerate(thresholds):
        colour = f"C{c}"
        csi.plot(*_series(by_lead, "csi", t), color=colour, label=f"at least {t}", **LINE)
        fss.plot(*_series(by_lead, "fss", t, window), color=colour, **LINE)
        for other in shown:
            style = REFERENCE | {"linestyle": OTHERS[other], "color": colour}
            csi.plot(*_series(by_lead, f"{other}_csi", t), **style)
            fss.plot(*_series(by_lead, f"{other}_fss", t, window), **style)
        bias.plot(*_series(by_lead, "frequency_bias", t), color=colour, **LINE)
    bias.axhline(1, color="black", linewidth=0.8)
    key = ", ".join(f"{'dotted' if OTHERS[o] == ':' else 'dashed'}: {o}" for o in shown)
    csi.set(title=f"{variable}: CSI ({key})", ylim=(0, 1))
    fss.set(title=f"{variable}: FSS over {float(window):g} km", ylim=(0, 1))
    bias.set(title=f"{variable}: frequency bias (1: right area)", ylim=(0, max(2.0, min(bias.get_ylim()[1], 5.0))))
    csi.legend(fontsize=8)
    for axes in (csi, fss, bias):
        axes.set_xlabel("lead time (h)")
        axes.set_xlim(0, 1.03 * max(map(float, by_lead)))
        axes.grid(alpha=0.3)


def spectra(scores: dict) -> Figure:
    """Power ratio (top) and coherence (bottom) in each band of wavelength, by lead time; a column per variable.

    Between the grey lines, 0.8 to 1.25, the forecast is as sharp as the truth; dotted is persistence.
    """
    table = scores["scores"]
    first = next(iter(next(iter(table.values())).values()))
    bands = list(first["power_ratio"])
    lengths = scores.get("bands_km", {})
    figure = Figure(figsize=(max(6.0, 2.3 * len(table) + 0.8), 6), layout="constrained")
    panels = figure.subplots(2, len(table), sharex=True, sharey="row", squeeze=False)
    for (ratio, coherence), (variable, by_lead) in zip(panels.T, table.items(), strict=True):
        ratio.axhspan(0.8, 1.25, color="0.88")
        ratio.axhline(1, color="black", linewidth=0.8)
        for c, band in enumerate(bands):
            colour, label = f"C{c}", _band(band, lengths)
            x, y = _series(by_lead, "power_ratio", band)
            if not x:
                continue
            ratio.plot(x, y, color=colour, label=label, **LINE)
            coherence.plot(*_series(by_lead, "coherence", band), color=colour, **LINE)
            coherence.plot(*_series(by_lead, "persistence_coherence", band), color=colour, **REFERENCE)
        if len(ratio.lines) == 1:
            ratio.text(0.5, 0.5, "not available", ha="center", va="center", transform=ratio.transAxes)
        ratio.set(title=variable, yscale="log")
        coherence.set(xlabel="lead time (h)")
        for axes in (ratio, coherence):
            axes.grid(alpha=0.3)
    low, high = panels[0, 0].get_ylim()
    panels[0, 0].set_ylim(max(1e-3, min(low, 0.4)), min(1e2, max(high, 2.0)))
    panels[0, 0].set_ylabel("power of the forecast / truth")
    panels[1, 0].set(ylabel="coherence with the truth", ylim=(-0.3, 1.05))
    handles, labels = max((a.get_legend_handles_labels() for a in panels[0]), key=lambda found: len(found[0]))
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    figure.suptitle("sharpness (power ratio) and placement (coherence) by wavelength; dotted: persistence")
    return figure


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


def _band(band: str, lengths: dict) -> str:
    """ "2-5" grid lengths in km where that is known."""
    return "{:.3g}-{:.3g} km".format(*lengths[band]) if band in lengths else f"{band} grid lengths"


def _keep_in_view(panels) -> None:
    """One variable far below 0 must not flatten the others."""
    values = [y for axes in panels for line in axes.lines for y in line.get_ydata()]
    if min(values) < -1:
        panels[0].set_ylim(-1, max(0.1, *values) + 0.05)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

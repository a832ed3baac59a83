"""PASS, FAIL or n/a: is a forecast sharp, on time, alive, free of artefacts and stable to 24 h?

`scores` is {variable: {lead in hours as text: {score: value}}} as in scores.json. A line of the certificate is
{name, value, interval, bar, pass}: it passes if all its leads, bands and periods are inside the bar, and its value is
the worst of them. A lead or score that is missing makes a line that does not fail n/a (pass is None), never a PASS.

Leads are hours. If the store has no lead of 1 h, one step stands for 1 h if the step is longer, and for steps
shorter than an hour (radar) all leads count in steps: "6 h" is 6 steps.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.variables import lookup
from verification.spectra import BAND_NAMES, BANDS

SHARP_BANDS = [name for name, (low, _) in zip(BAND_NAMES, BANDS, strict=True) if low >= 5]
SPAN = (1, 6, 24)  # h, leads for sharpness, lines and change
STORM, RAIN, WINDOW = "30", "20", 33.0  # dBZ, dBZ, km
ALL = ()  # every lead up to 24 h, which must be among them
WIDTH = 100  # columns of a printed line


@dataclass(frozen=True)
class Bar:
    """Where a value has to be: from `low` to `high`. A value that meets a bar on one side only does not pass."""

    low: float = -math.inf
    high: float = math.inf
    unit: str = ""

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"< {self.high:g}{self.unit}"
        return f"> {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"

    def passes(self, value: float) -> bool:
        one_sided = math.isinf(self.low) or math.isinf(self.high)
        return self.low < value < self.high if one_sided else self.low <= value <= self.high

    def badness(self, value: float) -> tuple[bool, float]:
        """To sort by: values outside come last, then those further from the middle (of a ratio, in its logarithm)."""
        if math.isinf(self.low):
            far = value
        elif math.isinf(self.high):
            far = -value
        else:
            far = abs(value) if self.low <= 0 else abs(math.log(value)) if value > 0 else math.inf
        return not self.passes(value), far


@dataclass(frozen=True)
class Criterion:
    """One question; `value(by_lead, key)` answers it at one lead, with a number or {where: number}."""

    name: str
    bar: Bar
    hours: Sequence[float]
    value: Callable[[dict, str], float | dict | None]
    only: str = ""  # the one variable that is asked, by its name in the table; empty: all


def criteria(boundary: str) -> list[Criterion]:
    """The questions. `boundary` names the boundary data of the forecast, "" for none."""
    near_one, edge_hours = Bar(0.7, 1.3), ALL if boundary else (1,)
    return [
        Criterion("1 h normalised RMSE", Bar(high=2.0), (1,), _score("normalised_rmse")),
        Criterion("1 h skill against persistence", Bar(low=0.0), (1,), _score("skill")),
        Criterion("sharp: power ratio", Bar(0.8, 1.25), SPAN, _power_ratios),
        Criterion("storms: frequency bias at 30 dBZ", near_one, range(1, 7), _score("frequency_bias", STORM), "REFC"),
        Criterion("storms: FSS above persistence", Bar(low=0.0), (1, 2, 3), _fss_gain("persistence", "fss"), "REFC"),
        Criterion("storms: FSS above extrapolation", Bar(low=0.0), (1, 2, 3),
                  _fss_gain("extrapolation", "fss_beside_extrapolation"), "REFC"),
        Criterion("no grid artefacts: line index", Bar(high=1.0, unit=" dB"), SPAN, _line_index),
        Criterion("no grid artefacts: edge / interior RMSE", Bar(high=1.5), edge_hours,
                  lambda by_lead, k: _ratio(by_lead[k].get("edge_rmse"), by_lead[k].get("interior_rmse"))),
        Criterion("timing: RMSE / one step off", Bar(high=1.0), (1, 2, 3), _timing),
        Criterion("alive: change ratio", near_one, SPAN, _score("change_std_ratio")),
        Criterion("stable to 24 h: drift", Bar(-0.3, 0.3), ALL, _score("drift")),
        Criterion("stable to 24 h: std ratio", Bar(0.8, 1.2), ALL, _score("std_ratio")),
        Criterion("stable to 24 h: clipped share", Bar(high=0.001), ALL, _score("clipped_share")),
    ]  # fmt: skip


def certificate(scores: dict, boundary: str = "") -> tuple[list[dict], dict[str, str]]:
    """The lines, and by name of line a note: where its value stands, or why it is n/a."""
    lines, notes = [], {}
    for criterion in criteria(boundary):
        for variable, by_lead in scores.items():
            if criterion.only in ("", lookup(variable).name):
                line, notes[f"{criterion.name}, {variable}"] = judge(criterion, variable, by_lead)
                lines.append(line)
    return lines, notes


def judge(criterion: Criterion, variable: str, by_lead: dict) -> tuple[dict, str]:
    """One line of the certificate and its note."""
    leads = {h: lead_of(by_lead, h) for h in criterion.hours or (24,)}
    absent = [f"{h:g}" for h, key in leads.items() if key is None]
    missing = [f"no lead of {', '.join(absent)} h"] if absent else []
    keys = [k for k in leads.values() if k is not None]
    if criterion.hours == ALL:
        keys = [k for k in sorted(by_lead, key=float) if not keys or float(k) <= float(keys[0])]
    found, undefined = [], []
    for key in keys:
        values = criterion.value(by_lead, key)
        for where, value in values.items() if isinstance(values, dict) else (("", values),):
            where = f"{where}{', ' if where else ''}{_lead_text(key)}"
            if value is None or not math.isfinite(value):
                undefined.append(where)
            else:
                found.append((value, where))
    if undefined:
        missing.append("not defined: " + "; ".join(undefined[:3] + ["..."] * (len(undefined) > 3)))
    value, note = max(found, key=lambda v: criterion.bar.badness(v[0]), default=(None, "nothing to judge"))
    passed = None if missing or not found else True
    if not all(criterion.bar.passes(v) for v, _ in found):
        passed = False
    elif missing:
        note = ", ".join(missing) + (f"; worst {value:+.3g} at {note}" if found else "")
    line = {"name": f"{criterion.name}, {variable}", "value": value, "interval": None, "bar": str(criterion.bar)}
    return line | {"pass": passed}, note


def lead_of(by_lead: dict, hours: float) -> str | None:
    """The key of the lead that counts as `hours`, None if the forecast has none. See the top of this file."""
    leads = sorted(by_lead, key=float)
    step = float(leads[0]) if leads else math.nan
    scaled = hours * step if "1" not in by_lead and (step < 1 or hours == 1) else hours
    return next((k for k in leads if math.isclose(float(k), scaled, rel_tol=1e-5)), None)


def certificate_text(lines: list[dict], notes: dict[str, str]) -> str:
    """The certificate to read: failures one by one, what passed and what is n/a in one entry a criterion."""
    out, groups = [], {}
    for line in lines:
        groups.setdefault(line["name"].rpartition(", ")[0], []).append(line)
    for criterion, group in groups.items():
        by_note: dict[tuple, list[str]] = {}
        for line in group:
            name, verdict = line["name"].rpartition(", ")[2], line["pass"]
            number = f"{name} {line['value']:+.3g}" if verdict is not None else name
            note = {True: "", False: f"; {notes[line['name']]}", None: f": {notes[line['name']].split('; worst')[0]}"}
            by_note.setdefault((verdict, note[verdict]), []).append(number)
        for (verdict, note), names in sorted(by_note.items(), key=lambda item: (False, True, None).index(item[0][0])):
            mark = {True: "PASS", False: "FAIL", None: "n/a "}[verdict]
            text = f"{mark}  {criterion} ({group[0]['bar']}): {', '.join(names)}{note}"
            out += textwrap.wrap(text, WIDTH, subsequent_indent=" " * 6, break_on_hyphens=False)
    passed, missing = (sum(line["pass"] is verdict for line in lines) for verdict in (True, None))
    return "\n".join([*out, f"certificate: {passed} of {len(lines)} lines passed" + f"; {missing} n/a" * (missing > 0)])


# ---- values, each for one lead


def _score(name: str, key: str = "") -> Callable:
    return lambda by_lead, k: by_lead[k].get(name, {}).get(key) if key else by_lead[k].get(name)


def _power_ratios(by_lead: dict, key: str) -> dict:
    """Of the bands that the domain is large enough for."""
    entry = by_lead[key]
    known = {b: v for b, v in entry.get("power_ratio", {}).items() if b in SHARP_BANDS and _finite(v)}
    coherence = entry.get("coherence", {})
    named = {f"{b} cells, coherence {_two(coherence.get(b))}": v for b, v in known.items()}
    return named or {"any band (masked cells, a constant field, or a domain too small)": None}


def _fss_gain(reference: str, own: str) -> Callable:
    """FSS of rain over the window nearest to WINDOW, above that of a baseline."""

    def value(by_lead: dict, key: str) -> dict:
        entry = by_lead[key]
        windows = entry.get(f"{reference}_fss", {}).get(RAIN, {})
        if not windows or own not in entry:
            return {reference: None}
        window = min(windows, key=lambda km: abs(float(km) - WINDOW))
        a, b = entry[own][RAIN][window], windows[window]
        return {f"{float(window):g} km": a - b if _finite(a) and _finite(b) else None}

    return value


def _line_index(by_lead: dict, key: str) -> dict:
    """The mean over the three nearest leads by period, because chance moves a single one."""
    near = sorted(by_lead, key=lambda k: (abs(float(k) - float(key)), float(k)))[:3]
    values: dict[str, list[float]] = {}
    for k in near:
        for period, v in by_lead[k].get("line_index", {}).items():
            values.setdefault(f"{period} cells", []).extend([v] if _finite(v) else [])
    means = {where: sum(v) / len(v) for where, v in values.items() if v}
    return means or {"any period (masked cells, a constant field, or a domain too small)": None}


def _timing(by_lead: dict, key: str) -> float | None:
    """Against the better of the truth one step earlier and later."""
    entry = by_lead[key]
    near = [entry[k] for k in ("early_rmse", "late_rmse") if _finite(entry.get(k))]
    return _ratio(entry.get("timing_rmse"), min(near)) if near else None


def _ratio(a: float | None, b: float | None) -> float | None:
    """a / b of two errors, at most 99 (also if b is 0); None if either is missing or both are 0."""
    if not _finite(a) or not _finite(b) or not (a > 0 or b > 0):
        return None
    return min(99.0, a / b) if b > 0 else 99.0


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _two(value: float | None) -> str:
    return f"{value:.2f}" if _finite(value) else "-"


def _lead_text(key: str) -> str:
    hours = float(key)
    return f"{hours:g} h" if hours >= 1 else f"{60 * hours:g} min"

"""PASS, FAIL or UNDECIDED: is a forecast better than simple baselines, sharp, on time, alive and stable?

`entries` is {variable: {lead in hours as text: what cases.summary gives}}: values with bootstrap draws. A line is
{name, value, interval, bar, pass}. It asks one question at several leads and of all variables, and judges each by its
90 % interval: PASS if every one is inside the bar, FAIL if one is wholly outside, UNDECIDED between. A lead or score
that is missing makes a line that does not fail n/a. `value` is the worst of them, and `variables` has each variable's.

A line asks only leads that can be known (`known_hours`). A sharp, lively, stable forecast may be that of another day's
weather. So a line about the character of a forecast does not pass where its anomaly correlation is not above that of
every baseline: it is n/a.

If the store has no lead of 1 h, one step stands for 1 h if the step is longer, and for steps shorter than an hour
(radar) all leads count in steps: "6 h" is 6 steps.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.variables import lookup
from verification.cases import interval
from verification.spectra import BAND_NAMES, BANDS

LEADS = (1, 3, 6, 12, 24)  # h
ALL = ()  # every lead up to the last of LEADS
CROSSING = 20.0  # m s-1, the flow that brings what a domain without boundary data cannot know
SHARP_BANDS = [name for name, (low, _) in zip(BAND_NAMES, BANDS, strict=True) if low >= 5]
FINEST = BAND_NAMES[0]
RAIN, WINDOW = "20", 33.0  # dBZ, km
VERDICTS = ("FAIL", "n/a", "UNDECIDED", "PASS")  # of several, a line takes the first
WIDTH = 110  # columns of a printed line


@dataclass(frozen=True)
class Bar:
    """Where a value has to be: between `low` and `high`."""

    low: float = -math.inf
    high: float = math.inf
    unit: str = ""
    ratio: bool = False  # distance from the middle counts in the logarithm

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"< {self.high:g}{self.unit}"
        return f"> {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"

    def judge(self, between: list[float] | None) -> str:
        """By the interval alone; without one nothing is decided."""
        if between is None:
            return "UNDECIDED"
        low, high = between
        outside = high <= self.low or low >= self.high
        return "FAIL" if outside else "PASS" if self.low < low and high < self.high else "UNDECIDED"

    def distance(self, value: float) -> float:
        """How far a value is from the best one, to find the worst of several."""
        if math.isinf(self.low) or math.isinf(self.high):
            return value if math.isinf(self.low) else -value
        return abs(value) if not self.ratio else abs(math.log(value)) if value > 0 else math.inf


@dataclass(frozen=True)
class Criterion:
    """One question; `value(entry)` answers it at one lead, with draws or {where: draws}."""

    name: str
    bar: Bar
    hours: Sequence[float]
    value: Callable[[dict], np.ndarray | dict | None]
    only: str = ""  # the one variable that is asked, by its name in the table; empty: all
    character: bool = True  # weather of another day could pass: asks that the weather is this day's


def criteria() -> list[Criterion]:
    """The questions. Bars of ratios are symmetric in the logarithm."""
    above, sharp, near = Bar(low=0.0), Bar(0.8, 1.25, ratio=True), Bar(0.75, 1.333, ratio=True)
    return [
        *(Criterion(f"skill over the best baseline at {h} h", above, (h,), _score("best_skill"), character=False)
          for h in LEADS),
        Criterion("sharp: power ratio of waves of 5 cells and more", sharp, LEADS, _bands("power_ratio", SHARP_BANDS)),
        Criterion("no noise: power ratio of waves of 2-5 cells", Bar(high=1.25), LEADS,
                  _bands("power_ratio", [FINEST])),
        *(Criterion(f"storms: area of {t} dBZ and more", near, LEADS, _score("frequency_bias", t), "REFC")
          for t in ("20", "30", "40")),
        Criterion("storms: FSS above persistence", above, (1, 2, 3), _fss_gain("persistence", "fss"), "REFC", False),
        Criterion("storms: FSS above extrapolation", above, (1, 2, 3),
                  _fss_gain("extrapolation", "fss_beside_extrapolation"), "REFC", False),
        Criterion("in place: coherence above persistence", above, LEADS, _coherence_gain),
        Criterion("no grid artefacts: line index", Bar(high=1.0, unit=" dB"), LEADS, _score("line_index")),
        Criterion("on time: RMSE / RMSE one step off", Bar(high=1.0), (1, 2, *LEADS[1:]), _timing),
        Criterion("alive: change ratio", near, LEADS, _score("change_std_ratio")),
        Criterion("stable: drift", Bar(-0.3, 0.3), ALL, _score("drift")),
        Criterion("stable: spread", sharp, ALL, _score("std_ratio")),
        Criterion("stable: share clipped to bounds", Bar(high=0.001), ALL, _score("clipped_share")),
    ]  # fmt: skip


def known_hours(spacing: tuple[float, float], shape: tuple[int, int], boundary: bool) -> float:
    """The leads in hours that can be known: with boundary data LEADS, without them the time in which a flow of CROSSING
    crosses half of the domain's shorter side, at least 1 h. spacing in m."""
    half = min(s * n for s, n in zip(spacing, shape, strict=True)) / 2
    return float(LEADS[-1]) if boundary else min(LEADS[-1], max(1.0, half / CROSSING / 3600))


def certificate(entries: dict, known: float = LEADS[-1]) -> tuple[list[dict], dict[str, str]]:
    """The lines, and by name of line a note: where its value stands, or why it is n/a."""
    lines, notes = [], {}
    for criterion in criteria():
        asked = {n: e for n, e in entries.items() if criterion.only in ("", lookup(n).name)}
        found = {n: judge(criterion, n, e, known) for n, e in asked.items()}
        found = {n: f for n, f in found.items() if f}
        if found:
            worst = min(found.values(), key=lambda f: (VERDICTS.index(f["pass"]), -f["distance"]))
            notes[criterion.name] = worst["note"]
            keys = ("value", "interval", "pass")
            line = {"name": criterion.name, "bar": str(criterion.bar)} | {k: worst[k] for k in keys}
            line["variables"] = {n: {k: f[k] for k in keys} for n, f in found.items()}
            lines.append({k: line[k] for k in ("name", "value", "interval", "bar", "pass", "variables")})
    return lines, notes


def judge(criterion: Criterion, variable: str, by_lead: dict, known: float) -> dict | None:
    """One variable of a line: verdict, worst value, its interval, its distance and a note. None if no lead that it asks
    can be known."""
    step = min(map(float, by_lead), default=1.0)
    hours = [h for h in criterion.hours or LEADS if h == 1 or h * scale(by_lead) <= max(known, step) * 1.0001]
    if not hours:
        return None
    keys = {h: lead_of(by_lead, h) for h in hours}
    absent = [f"{h:g}" for h, key in keys.items() if key is None]
    missing = [f"no lead of {', '.join(absent)} h"] if absent else []
    keys = dict.fromkeys(k for k in keys.values() if k is not None)
    if criterion.hours == ALL and keys:
        keys = [k for k in sorted(by_lead, key=float) if float(k) <= max(map(float, keys))]
    parts, others = [], []
    for key in keys:
        entry = by_lead[key]
        values = criterion.value(entry)
        for where, draws in values.items() if isinstance(values, dict) else (("", values),):
            where = ", ".join(filter(None, (where, _lead_text(key))))
            if draws is None or not np.isfinite(draws[0]):
                missing.append(f"not defined: {where}")
                continue
            between = interval(np.asarray(draws), entry.get("n_days", 0))
            value, verdict = float(draws[0]), criterion.bar.judge(between)
            parts.append((VERDICTS.index(verdict), -criterion.bar.distance(value), value, between, where))
        gain = entry.get("correlation_gain")
        if criterion.character and not (gain is not None and gain[0] > 0):
            others.append(_lead_text(key))
    if others:
        missing.append(f"no closer to this weather than a baseline at {', '.join(others)}")
    order, distance, value, between, where = min(parts, default=(len(VERDICTS) - 1, 0.0, None, None, ""))
    verdict = VERDICTS[order]
    if verdict != "FAIL" and (missing or not parts):
        verdict, where = "n/a", "; ".join(missing[:3]) or "nothing to judge"
    return {"pass": verdict, "value": value, "interval": between, "distance": -distance, "note": f"{variable}, {where}"}


def scale(by_lead: dict) -> float:
    """Hours that count as one: see the top of this file."""
    step = min(map(float, by_lead), default=1.0)
    return step if step < 1 and "1" not in by_lead else 1.0


def lead_of(by_lead: dict, hours: float) -> str | None:
    """The key of the lead that counts as `hours`, None if the forecast has none. See the top of this file."""
    leads = sorted(by_lead, key=float)
    wanted = float(leads[0]) if leads and hours == 1 and "1" not in by_lead else hours * scale(by_lead)
    return next((k for k in leads if math.isclose(float(k), wanted, rel_tol=1e-5)), None)


def certificate_text(lines: list[dict], notes: dict[str, str]) -> str:
    """The certificate to read: a line a question, with the variables that do not pass and the worst value."""
    out = []
    for line in lines:
        by_verdict: dict[str, list[str]] = {}
        for name, one in line["variables"].items():
            by_verdict.setdefault(one["pass"], []).append(name)
        named = [f"{v} {' '.join(by_verdict[v])}" for v in VERDICTS if v in by_verdict and v != line["pass"]]
        worst = "" if line["value"] is None else f"{line['value']:+.3g} "
        worst += "({:+.3g} to {:+.3g}) ".format(*line["interval"]) if line["interval"] else ""
        whole = [" ".join(by_verdict[line["pass"]]), f"worst {worst}{notes[line['name']]}", *named]
        text = f"{line['pass']:<9}  {line['name']} ({line['bar']}): {'; '.join(whole)}"
        out += textwrap.wrap(text, WIDTH, subsequent_indent=" " * 11, break_on_hyphens=False)
    counts = [f"{sum(line['pass'] == v for line in lines)} {v}" for v in reversed(VERDICTS)]
    return "\n".join([*out, f"certificate: {len(lines)} lines, {', '.join(counts)}"])


# ---- values, each for one lead


def _score(name: str, key: str = "") -> Callable:
    """A score, of one threshold if `key` names it; of several bands or periods those that the domain is large enough
    for."""

    def value(entry: dict) -> np.ndarray | dict | None:
        found = entry.get(name, {}).get(key) if key else entry.get(name)
        return _defined(found, "cells") if isinstance(found, dict) else found

    return value


def _bands(name: str, bands: list[str]) -> Callable:
    return lambda entry: _defined({b: v for b, v in entry.get(name, {}).items() if b in bands}, "cells")


def _defined(values: dict, unit: str) -> dict:
    known = {f"{k} {unit}": v for k, v in values.items() if v is not None and np.isfinite(v[0])}
    return known or {f"any of {', '.join(values) or 'the scores'} (masked cells, a constant field, or a domain too "
                     "small)": None}  # fmt: skip


def _coherence_gain(entry: dict) -> dict:
    own, other = (entry.get(k, {}) for k in ("coherence", "persistence_coherence"))
    pairs = {b: (own.get(b), other.get(b)) for b in SHARP_BANDS}
    return _defined({b: None if p is None or q is None else p - q for b, (p, q) in pairs.items()}, "cells")


def _fss_gain(reference: str, own: str) -> Callable:
    """FSS of rain over the window nearest to WINDOW, above that of a baseline."""

    def value(entry: dict) -> dict:
        windows = entry.get(f"{reference}_fss", {}).get(RAIN, {})
        if not windows or own not in entry:
            return {reference: None}
        window = min(windows, key=lambda km: abs(float(km) - WINDOW))
        return {f"{float(window):g} km": entry[own][RAIN][window] - windows[window]}

    return value


def _timing(entry: dict) -> np.ndarray | None:
    """Against the better of the truth one step earlier and later; at most 99 (also if that is met exactly)."""
    near = [entry[k] for k in ("early_rmse", "late_rmse") if entry.get(k) is not None and np.isfinite(entry[k][0])]
    if not near:
        return None
    own, other = np.asarray(entry["timing_rmse"]), min(near, key=lambda v: v[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.minimum(np.where((own > 0) | (other > 0), own / other, np.nan), 99.0)


def _lead_text(key: str) -> str:
    hours = float(key)
    return f"{hours:g} h" if hours >= 1 else f"{60 * hours:g} min"

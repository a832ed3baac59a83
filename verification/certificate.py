"""PASS or FAIL: is a forecast sharp, on time, alive, free of artefacts and stable to 24 h?

`scores` is {variable: {lead in hours as text: {score: value}}} as in scores.json. A line is
{name, value, bar, pass}: of several leads, bands or periods the value is the worst. Where nothing can be judged value
and pass are None, which is not a PASS. The note beside a line says where its value stands or why there is none.

Leads are hours. Where the store has no lead of 1 h, one step stands for 1 h if the step is longer, and for steps
shorter than an hour (radar) all leads count in steps: "6 h" is 6 steps.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from data.variables import lookup
from verification.lines import PERIODS
from verification.spectra import BANDS, band_names

SHARP_BANDS = [n for n, (low, _) in zip(band_names(), BANDS, strict=True) if low >= 5]
SPAN = (1, 6, 24)  # h, where sharpness, lines and life are judged
STORM, RAIN, WINDOW = "30", "20", 33.0  # dBZ, dBZ, km


@dataclass
class Line:
    """One criterion for one variable: bar as text, and whether a value is below or within it."""

    name: str
    bar: str
    passes: Callable[[float], bool]
    distance: Callable[[float], float]  # larger is worse: which of several values to show
    found: list[tuple[float, str]] = field(default_factory=list)  # (value, where)
    missing: list[str] = field(default_factory=list)  # what could not be judged
    essential: str = ""  # without it the whole line is not available

    def see(self, value: float | None, where: str) -> None:
        """Count a value, or note that it is not defined."""
        if value is None or not math.isfinite(value):
            self.missing.append(where)
        else:
            self.found.append((value, where))

    def entry(self) -> tuple[dict, str]:
        """The line and its note."""
        if self.essential or not self.found:
            why = self.essential or "not defined: " + (", ".join(dict.fromkeys(self.missing)) or "nothing to judge")
            return {"name": self.name, "value": None, "bar": self.bar, "pass": None}, why
        value, where = max(self.found, key=lambda v: self.distance(v[0]))
        note = where
        if self.missing:
            note += f"; not available: {', '.join(dict.fromkeys(self.missing))}"
        return {"name": self.name, "value": value, "bar": self.bar, "pass": self.passes(value)}, note


def certificate(scores: dict, boundary: str = "") -> tuple[list[dict], dict[str, str]]:
    """The lines, and a note by name of line. `boundary` names the boundary data of the forecast, "" for none."""
    entries = [line.entry() for make in CRITERIA for line in make(scores, boundary)]
    return [line for line, _ in entries], {line["name"]: note for line, note in entries}


def lead_of(by_lead: dict, hours: float) -> str | None:
    """The key of the lead that counts as `hours`, None where the forecast has none. See the top of this file."""
    leads = sorted(by_lead, key=float)
    step = float(leads[0])
    scaled = hours * step if "1" not in by_lead and (step < 1 or hours == 1) else hours
    return next((k for k in leads if math.isclose(float(k), scaled, rel_tol=1e-5)), None)


def _below(bar: float) -> dict:
    return {"bar": f"< {bar:g}", "passes": lambda v: v < bar, "distance": lambda v: v}


def _at_most(bar: float, unit: str = "") -> dict:
    return {"bar": f"<= {bar:g}{unit}", "passes": lambda v: v <= bar, "distance": lambda v: v}


def _above_zero() -> dict:
    return {"bar": "> 0", "passes": lambda v: v > 0, "distance": lambda v: -v}


def _within(low: float, high: float) -> dict:
    return {
        "bar": f"{low:g} to {high:g}", "passes": lambda v: low <= v <= high,
        "distance": lambda v: math.inf if v <= 0 else abs(math.log(v)),
    }  # fmt: skip


def _at_leads(scores: dict, name: str, hours: Iterable[float], judge: dict, value: Callable) -> list[Line]:
    """A line a variable; value(entry) gives a number, or {where: number}, for each lead."""
    out = []
    for variable, by_lead in scores.items():
        line = Line(f"{name}, {variable}", **judge)
        for h in hours:
            key = lead_of(by_lead, h)
            if key is None:
                line.missing.append(f"{h:g} h (no such lead)")
                continue
            got = value(by_lead[key])
            for where, v in got.items() if isinstance(got, dict) else (("", got),):
                line.see(v, f"{where}{', ' if where else ''}{_lead_text(key)}")
        out.append(line)
    return out


def _first_hour(scores: dict, boundary: str) -> list[Line]:
    error = _at_leads(scores, "1 h normalised RMSE", (1,), _below(2.0), lambda e: e.get("normalised_rmse"))
    return error + _at_leads(scores, "1 h skill against persistence", (1,), _above_zero(), lambda e: e.get("skill"))


def _sharp(scores: dict, boundary: str) -> list[Line]:
    def ratios(e):
        coherence = e.get("coherence", {})
        bands = {b: v for b, v in e.get("power_ratio", {}).items() if b in SHARP_BANDS}
        if bands and all(v is None for v in bands.values()):
            return {"spectra (masked cells, or a domain too small)": None}
        return {f"{b} cells, coherence {_two(coherence.get(b))}": v for b, v in bands.items() if v is not None}

    return _at_leads(scores, "sharp: power ratio", SPAN, _within(0.8, 1.25), ratios)


def _storms(scores: dict, boundary: str) -> list[Line]:
    """Reflectivity only: the right area of storms, and rain better placed than by what costs nothing."""
    radar = {v: s for v, s in scores.items() if lookup(v).name == "REFC"}

    def gain(own: str, reference: str):
        def value(e):
            windows = e.get(reference, {}).get(RAIN, {})
            if not windows or own not in e:
                return {"extrapolation" if "extra" in reference else "FSS": None}
            w = min(windows, key=lambda km: abs(float(km) - WINDOW))
            a, b = e[own][RAIN][w], windows[w]
            return {f"{float(w):g} km": a - b if a is not None and b is not None else None}

        return value

    area = lambda e: e.get("frequency_bias", {}).get(STORM)  # noqa: E731
    lines = _at_leads(radar, "storms: frequency bias at 30 dBZ", range(1, 7), _within(0.7, 1.3), area)
    for reference, own in (("persistence", "fss"), ("extrapolation", "fss_beside_extrapolation")):
        name = f"storms: FSS above {reference}"
        lines += _at_leads(radar, name, (1, 2, 3), _above_zero(), gain(own, f"{reference}_fss"))
    return lines


def _no_artefacts(scores: dict, boundary: str) -> list[Line]:
    """Line index, the mean over the three leads nearest to 1, 6 and 24 h: of a single one chance is 0.5 dB. And the
    edge band, at 1 h, or at all leads where boundary data held it."""
    lines = []
    for variable, by_lead in scores.items():
        line = Line(f"no grid artefacts: line index, {variable}", **_at_most(1.0, " dB"))
        for h in SPAN:
            key = lead_of(by_lead, h)
            if key is None:
                line.missing.append(f"{h:g} h (no such lead)")
                continue
            near = sorted(by_lead, key=lambda k, c=float(key): (abs(float(k) - c), float(k)))[:3]
            means = {p: _mean(by_lead[k].get("line_index", {}).get(p) for k in near) for p in map(str, PERIODS)}
            for p, mean in means.items():
                if mean is not None:
                    line.see(mean, f"{p} cells, around {_lead_text(key)}")
            if set(means.values()) == {None}:
                line.missing.append("spectra (masked cells, constant fields, or a domain too small)")
        lines.append(line)
    name = "no grid artefacts: edge / interior RMSE"
    for variable, by_lead in scores.items():
        line = Line(f"{name}, {variable}", **_at_most(1.5))
        for key in by_lead if boundary else [lead_of(by_lead, 1)]:
            e = by_lead.get(key, {})
            line.see(_ratio(e.get("edge_rmse"), e.get("interior_rmse")), _lead_text(key or "1"))
        lines.append(line)
    return lines


def _timing(scores: dict, boundary: str) -> list[Line]:
    """Against the better of the truth one step earlier and later."""

    def value(e):
        near = [v for v in (e.get("early_rmse"), e.get("late_rmse")) if v is not None]
        return _ratio(e.get("timing_rmse"), min(near)) if near else None

    return _at_leads(scores, "timing: RMSE / one step off", (1, 2, 3), _below(1.0), value)


def _alive(scores: dict, boundary: str) -> list[Line]:
    value = lambda e: e.get("change_std_ratio")  # noqa: E731
    return _at_leads(scores, "alive: change ratio", SPAN, _within(0.7, 1.3), value)


def _stable(scores: dict, boundary: str) -> list[Line]:
    """Every lead up to 24 h counts; without a lead of 24 h nothing is said about 24 h."""
    small = {"bar": "-0.3 to 0.3", "passes": lambda v: abs(v) < 0.3, "distance": abs}
    lines = []
    for what, key, judge in (
        ("drift", "drift", small),
        ("std ratio", "std_ratio", _within(0.8, 1.2)),
        ("clipped share", "clipped_share", _below(0.001)),
    ):
        for variable, by_lead in scores.items():
            line, last = Line(f"stable to 24 h: {what}, {variable}", **judge), lead_of(by_lead, 24)
            for k, e in by_lead.items():
                if last is None or float(k) <= float(last):
                    line.see(e.get(key), _lead_text(k))
            if last is None and line.found:
                value, where = max(line.found, key=lambda v, d=line.distance: d(v[0]))
                line.essential = f"no lead of 24 h; worst {value:+.3g} at {where}"
            lines.append(line)
    return lines


CRITERIA = (_first_hour, _sharp, _storms, _no_artefacts, _timing, _alive, _stable)


def _lead_text(key: str) -> str:
    hours = float(key)
    return f"{hours:g} h" if hours >= 1 else f"{60 * hours:g} min"


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are defined, None without any."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return sum(known) / len(known) if known else None


def _ratio(a: float | None, b: float | None) -> float | None:
    """a / b of two errors, at most 99 (also where b is 0); None where either is missing or both are 0."""
    if a is None or b is None or not (a > 0 or b > 0):
        return None
    return min(99.0, a / b) if b > 0 else 99.0


def _two(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.2f}"

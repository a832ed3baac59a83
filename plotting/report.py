"""What the report of a run shows: sentences, rows of tables, pictures. plotting/report.html puts them into a page.

`scores` is scores.json, `records` are the objects of log.jsonl. The template escapes all text, and a content security
policy allows the page neither scripts nor the network: nothing that comes from a store can run in it.
"""

import base64
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from data.variables import lookup
from plotting.curves import is_number, without_skill
from plotting.scores import BASELINES, RESULTS, few_leads, hours, number, signed

Truth = Callable[[np.datetime64, str], np.ndarray | None]  # (valid time, variable) -> (y, x)
CASE_HOURS = 6.0  # a case is ranked by its skill over so many hours
HOUR = np.timedelta64(1, "h")
TEMPLATE = Path(__file__).with_name("report.html")


def render(**parts) -> str:
    """The page as text."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters |= {"number": number}
    page = environment.from_string(TEMPLATE.read_text()).render(**parts)
    return re.sub("[\x00-\x08\x0b-\x1f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", page)


def picture(figure: Figure, dpi: int = 100) -> str:
    """A figure as the address of an image inside the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=dpi, pil_kwargs={"quality": 82, "method": 5})
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ---- scores


def outcome(scores: dict | None, records: list[dict]) -> str:
    """One sentence: in how many variables the forecast beats the best baseline, at the first and the last lead."""
    if scores is None or not scores["scores"]:
        if not records:
            return "This run has no scores and no log yet."
        skills = [v for v in (records[-1].get("skill") or {}).values() if is_number(v)]
        spread = f"skill {min(skills):+.2f} to {max(skills):+.2f} against persistence" if skills else "no skill"
        return f"No test scores yet; the validation at epoch {records[-1]['epoch']:g} finds {spread}."
    leads = sorted({k for by_lead in scores["scores"].values() for k in by_lead}, key=float)
    parts = []
    for k in dict.fromkeys((leads[0], leads[-1])):
        entries = {n: by_lead.get(k, {}).get("best_skill") for n, by_lead in scores["scores"].items()}
        better = {n: s > 0 for n, s in entries.items() if is_number(s)}
        won, lost = ([n for n in better if better[n] is which] for which in (True, False))
        some = f" ({', '.join(won)})" if len(won) <= len(lost) else f" (not {', '.join(lost)})"
        how_many = f"{len(won) or 'none'} of {len(better)} variables at {hours(k)}"
        parts += [f"in {how_many}{some if won and lost else ''}"] if better else []
    return f"The forecast beats the best baseline {', and '.join(parts)}." if parts else "No baseline was scored."


def facts(scores: dict | None, records: list[dict]) -> list[str]:
    """Sentences to read beside the outcome: the certificate, weak variables, unusual initial times, boundary data."""
    out = []
    if scores:
        counts = Counter(str(line["pass"]) for line in scores["certificate"])
        out.append(f"Certificate: {', '.join(f'{counts[r]} {r}' for r in RESULTS if counts[r]) or 'no lines'}.")
    if unproven := without_skill(records):
        out.append(f"Validation does not show skill in {', '.join(unproven)}: take persistence instead.")
    if scores and scores.get("outside_test"):
        out.append(f"{len(scores['outside_test'])} of {len(scores['init_times'])} initial times are not test data.")
    if scores and scores.get("boundary"):
        out.append(f"Boundary data: {scores['boundary']}.")
    return out


def certificate_rows(scores: dict) -> list[list[str]]:
    """Result, name, variables, value, interval, bar and note of each line, the failed ones first."""
    notes = scores.get("certificate_notes", {})
    rows = []
    for line in sorted(scores["certificate"], key=lambda line: RESULTS.index(line["pass"])):
        interval = " to ".join(map(number, line.get("interval") or []))
        names = " ".join(n for n, v in line.get("variables", {}).items() if v["pass"] == line["pass"])
        values = number(line["value"]), interval, line["bar"]
        rows.append([line["pass"], line["name"], names, *values, notes.get(line["name"], "")])
    return rows


def score_tables(scores: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """(caption, header, rows): skill against each baseline, and RMSE, by lead time."""
    by_name = scores["scores"]
    leads = few_leads({k for by_lead in by_name.values() for k in by_lead})
    out = []
    for key, caption in {**{k: f"Skill against {v}" for k, v in BASELINES.items()}, "rmse": "RMSE"}.items():
        form = number if key == "rmse" else signed
        titles = [f"{n} ({lookup(n).units})" if key == "rmse" and lookup(n).units else n for n in by_name]
        rows = [
            [t, *(form(by.get(k, {}).get(key)) for k in leads)] for t, by in zip(titles, by_name.values(), strict=True)
        ]
        out.append((caption, ["variable", *map(hours, leads)], rows))
    return out


# ---- cases


def case_skill(forecast: xr.Dataset, truth: Truth, names: Sequence[str], i: int) -> float | None:
    """Skill of forecast i against persistence over its first CASE_HOURS (at least one lead), mean over the variables;
    None if there is no truth or persistence made no error. Floors are those of the scores."""
    leads = [j for j, lead in enumerate(forecast["lead_time"].values) if 0 < lead / HOUR <= CASE_HOURS] or [1]
    start, skills = forecast["init_time"].values[i], []
    for name in names:
        floor, squares = lookup(name).scored_floor, np.zeros(2)
        now = np.maximum(forecast[name].variable[i, 0].values, floor)
        for j in leads:
            actual = truth(start + forecast["lead_time"].values[j], name)
            if actual is not None:
                actual = np.maximum(actual, floor)
                field = np.maximum(forecast[name].variable[i, j].values, floor)
                squares += [np.nansum((field - actual) ** 2.0), np.nansum((now - actual) ** 2.0)]
        if squares[1] > 0:
            skills.append(1 - math.sqrt(squares[0] / squares[1]))
    return float(np.mean(skills)) if skills else None


def choose_cases(skills: list[float | None]) -> dict[str, int]:
    """The best and the worst forecast, or the only one."""
    order = sorted((i for i, s in enumerate(skills) if s is not None), key=lambda i: -skills[i])
    if len(order) < 2:
        return {"only": order[0]} if order else {}
    return {"best": order[0], "worst": order[-1]}

"""What the morning report shows: the verdict, rows of tables, pictures. plotting/report.html puts them into a page.

`scores` is scores.json, `records` are the objects of log.jsonl. The template escapes all text: nothing that comes from
a store can run in the page. A content security policy names the page's script by its hash and allows no network.
"""

import base64
import hashlib
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from data.variables import lookup
from plotting.colours import field_colours
from plotting.curves import is_number
from plotting.frame import frame_of
from plotting.maps import show_time
from plotting.scores import BASELINES, few_leads, number, signed

Truth = Callable[[np.datetime64, str], np.ndarray | None]  # (valid time, variable) -> (y, x)
CASE_HOURS = 6.0  # a case is judged by its skill over so many hours
WIDEST = 240  # cells of a frame; larger grids are thinned
FRAMES = 25  # at most so many frames a case
ENOUGH = 100  # initial times; with fewer, chance decides the certificate's lines on power, spread and drift
HOUR = np.timedelta64(1, "h")
TEMPLATE = Path(__file__).with_name("report.html")


def render(**parts) -> str:
    """The page as text."""
    source = TEMPLATE.read_text()
    script = source.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True)
    environment.filters |= {"signed": signed, "number": number}
    page = environment.from_string(source).render(digest=digest, **parts)
    return re.sub("[\x00-\x08\x0b-\x1f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", page)


def hours(lead: str) -> str:
    return f"{float(lead):g} h" if float(lead) >= 1 else f"{60 * float(lead):g} min"


def picture(figure: Figure, dpi: int = 80) -> str:
    """A figure as the address of an image inside the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=dpi, pil_kwargs={"quality": 82, "method": 5})
    return _address(buffer)


# ---- scores


def verdict(scores: dict | None, records: list[dict], boundary: str = "") -> tuple[str, str]:
    """A word and a sentence: is the forecast better than persistence, and does the certificate pass?"""
    if scores is None or not scores["scores"]:
        if not records:
            return "Not scored", "There is neither a log nor a score to judge."
        skills = [v for v in (records[-1].get("skill") or {}).values() if is_number(v)]
        spread = f"skill {min(skills):+.2f} to {max(skills):+.2f} against persistence" if skills else "no defined skill"
        return "Not scored", f"No test scores yet: validation at epoch {records[-1]['epoch']} finds {spread}."
    leads = sorted({k for by_lead in scores["scores"].values() for k in by_lead}, key=float)
    word, sentences = "", []
    for k in dict.fromkeys((leads[0], leads[-1])):
        entries = [by_lead.get(k, {}) for by_lead in scores["scores"].values()]
        skills, best = ([e[s] for e in entries if is_number(e.get(s))] for s in ("skill", "best_skill"))
        if not skills:
            sentences.append(f"At {hours(k)} nothing to compare with.")
            continue
        better = sum(s > 0 for s in skills)
        share = "Better" if better == len(skills) else "Partly better" if better else "Not better"
        word = word or f"{share} than persistence at {hours(k)}"
        sentences.append(
            f"At {hours(k)} it beats persistence in {better} of {len(skills)} variables (skill {min(skills):+.2f} to "
            f"{max(skills):+.2f}) and the best baseline in {sum(s > 0 for s in best)}."
        )
    lines = scores["certificate"]
    passed, missing = (sum(line["pass"] is value for line in lines) for value in (True, None))
    sentences.append(f"The certificate passes in {passed} of {len(lines)} lines{f', {missing} n/a' * (missing > 0)}.")
    if outside := scores.get("outside_test"):
        sentences.append(f"{len(outside)} of the {len(scores['init_times'])} initial times lie outside the test part.")
    if boundary:
        sentences.append(f"Its edge was given by {boundary}.")
    word = f"{word or 'Nothing to compare with'}; certificate {'' if passed == len(lines) else 'not '}passed"
    return word, " ".join(sentences)


def criteria(scores: dict) -> list[list]:
    """For each criterion of the certificate its name, result, bar and how many of its lines passed."""
    groups: dict[str, list[dict]] = {}
    for line in scores["certificate"]:
        groups.setdefault(line["name"].rpartition(", ")[0], []).append(line)
    rows = []
    for name, group in groups.items():
        verdicts = [line["pass"] for line in group]
        mark = "✗ FAIL" if False in verdicts else "– n/a" if None in verdicts else "✓ PASS"
        rows.append([name, mark, group[0]["bar"], f"{verdicts.count(True)} of {len(group)}"])
    return rows


def score_tables(scores: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """(caption, header, rows): skill against each baseline and the best one, and RMSE, by lead time."""
    by_name = scores["scores"]
    leads = few_leads({k for by_lead in by_name.values() for k in by_lead})
    keys = {key: f"Skill against {baseline}" for key, baseline in BASELINES.items()}
    keys |= {"best_skill": "Skill against the best baseline", "rmse": "RMSE"}
    out = []
    for key, caption in keys.items():
        form = number if key == "rmse" else signed
        titles = [f"{n} ({lookup(n).units})" if key == "rmse" and lookup(n).units else n for n in by_name]
        values = ([form(by.get(k, {}).get(key)) for k in leads] for by in by_name.values())
        rows = [[title, *row] for title, row in zip(titles, values, strict=True)]
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
    """Which forecasts are best, median and worst; fewer if there are fewer."""
    order = sorted((i for i, s in enumerate(skills) if s is not None), key=lambda i: -skills[i])
    if len(order) < 2:
        return {"only": order[0]} if order else {}
    chosen = {"best": order[0], "median": order[(len(order) - 1) // 2], "worst": order[-1]}
    return chosen if len(order) > 2 else {k: chosen[k] for k in ("best", "worst")}


def frames(forecast: xr.Dataset, truth: Truth, name: str, i: int) -> dict:
    """Truth and forecast side by side, lead by lead: `labels`, `sides` {side: images}, `colours` [(colour, value)]."""
    start = forecast["init_time"].values[i]
    leads = range(0, forecast.sizes["lead_time"], -(-forecast.sizes["lead_time"] // FRAMES))
    thin = -(-max(forecast[name].shape[2:]) // WIDEST)
    times = [start + forecast["lead_time"].values[j] for j in leads]
    fields = [forecast[name].variable[i, j].values[::thin, ::thin] for j in leads]
    actual = [
        np.full(fields[0].shape, np.nan) if a is None else a[::thin, ::thin] for a in (truth(t, name) for t in times)
    ]
    colours, norm, _ = field_colours(name, fields + actual)
    up = frame_of(forecast, forecast[name].dims[2:], lines=False).origin == "lower"
    boundaries = getattr(norm, "boundaries", None)
    levels = np.linspace(norm.vmin, norm.vmax, 7) if boundaries is None else boundaries[:-1]
    shades = ["#" + "".join(f"{round(255 * c):02x}" for c in colours(norm(v))[:3]) for v in levels]
    return {
        "labels": [f"+{(t - start) / HOUR:g} h, valid {show_time(t)} UTC" for t in times],
        "sides": {k: [encode(f, colours, norm, up) for f in v] for k, v in (("truth", actual), ("forecast", fields))},
        "colours": [(shade, f"{v:.4g}") for shade, v in zip(shades, levels, strict=True)],
        "name": f"{name}, {lookup(name).units or 'no unit'}" + (f"; one cell in {thin}" if thin > 1 else ""),
    }


def encode(field: np.ndarray, colours, norm, up: bool) -> str:
    """A (y, x) field as the address of a lossless image with north up, one pixel a cell."""
    pixels = (colours(norm(np.ma.masked_invalid(field)))[..., :3] * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[::-1] if up else pixels).save(buffer, "webp", lossless=True, quality=60, method=4)
    return _address(buffer)


def clipped_rows(forecast: xr.Dataset) -> list[list[str]]:
    """For each variable its name, the mean and the largest share of clipped cells, and where that was."""
    rows = []
    for name in forecast.attrs.get("variables") or list(forecast.data_vars):
        if f"{name}_clipped_share" not in forecast:
            continue
        shares = forecast[f"{name}_clipped_share"].values[:, 1:]
        if np.isfinite(shares).any():
            i, j = np.unravel_index(np.nanargmax(shares), shares.shape)
            lead = forecast["lead_time"].values[j + 1] / HOUR
            where = f"+{lead:g} h from {show_time(forecast['init_time'].values[i])}" if shares[i, j] > 0 else "nowhere"
            rows.append([name, f"{np.nanmean(shares):.3%}", f"{shares[i, j]:.3%}", where])
    return rows


def _address(buffer: io.BytesIO) -> str:
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"

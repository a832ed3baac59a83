"""The parts of the morning report: certificate, skill, curves, what was left out, time, constants.

Every function takes the contents of a file (scores.json, the records of log.jsonl, a checkpoint's tables) and gives
markup. `scores` is scores.json as it is; a part whose input is None says what is missing and which command makes it.
"""

from data.variables import lookup
from plotting.report_charts import line_chart
from plotting.report_html import (
    Markup,
    bullets,
    details,
    is_number,
    join,
    number,
    paragraph,
    section,
    signed,
    table,
    tag,
)

BASELINES = {
    "skill": "persistence", "skill_yesterday": "the same hour yesterday", "skill_damped": "damped persistence",
    "skill_extrapolation": "extrapolation along the motion",
}  # fmt: skip
SHOWN = (1, 2, 3, 6, 12, 24)  # h, the lead times of the tables
WINDOW = 33.0  # km, the FSS window to draw, or the one nearest to it
ENOUGH = 100  # initial times; with fewer the certificate's amounts of detail are in part chance (docs/verification.md)
MANY = 12  # lines of the certificate or constants that are listed before the rest is folded away


def leads_of(table_: dict) -> list[str]:
    """The lead times of all variables, shortest first."""
    return sorted({k for by_lead in table_.values() for k in by_lead}, key=float)


def few(leads: list[str]) -> list[str]:
    """The lead times of a table: round hours where they exist, else six, evenly spread; always the last."""
    chosen = [k for k in leads if float(k) in SHOWN]
    if len(chosen) < 2:
        chosen = leads[:: -(-len(leads) // 6)]
    return chosen if leads[-1] in chosen else [*chosen, leads[-1]]


def hours(lead: str) -> str:
    return f"{float(lead):g} h" if float(lead) >= 1 else f"{60 * float(lead):g} min"


# ---- certificate and skill


def certificate(scores: dict | None, others: dict[str, dict]) -> Markup:
    """What failed, line by line; what passed, by criterion; and the counts of other evaluations of the same run."""
    if scores is None:
        return section("Certificate", missing("scores.json", "verify_forecast.py"), name="certificate")
    lines, notes = scores["certificate"], scores.get("certificate_notes") or {}
    groups: dict[str, list[dict]] = {}
    for line in lines:
        groups.setdefault(line["name"].rpartition(", ")[0], []).append(line)
    rows = []
    for name, group in groups.items():
        passed = sum(line["pass"] is True for line in group)
        unknown = sum(line["pass"] is None for line in group)
        mark = "✓ PASS" if passed == len(group) else "– n/a" if unknown == len(group) else "✗ FAIL"
        mark = "✓ PASS, rest n/a" if passed and passed + unknown == len(group) and unknown else mark
        kind = "good" if mark[0] == "✓" else "bad" if mark[0] == "✗" else "quiet"
        rows.append([name, tag("span", mark, class_=kind), group[0]["bar"], f"{passed} of {len(group)}"])
    failed = [[x["name"], number(x["value"]), x["bar"], notes.get(x["name"], "")] for x in lines if x["pass"] is False]
    unjudged = [[x["name"], x["bar"], notes.get(x["name"], "")] for x in lines if x["pass"] is None]
    total, starts = sum(x["pass"] is True for x in lines), len(scores["init_times"])
    return section(
        "Certificate",
        paragraph(f"{total} of {len(lines)} lines passed, {len(failed)} failed, {len(unjudged)} could not be judged.",
                  f" From {starts} initial times the lines on power, spread and drift are in part the chance of their "
                  f"weather: judge those from {ENOUGH} or more." if starts < ENOUGH else ""),
        table("Criteria", ["criterion", "result", "bar", "passed"], rows, left=2),
        details(
            f"The {len(failed)} lines that failed",
            table("Failed lines", ["line", "value", "bar", "where"], failed),
        ) if failed else None,
        details(
            f"The {len(unjudged)} lines that could not be judged",
            table("Lines not judged", ["line", "bar", "why"], unjudged, left=3),
        ) if unjudged else None,
        _others(others) if others else None,
        name="certificate",
    )  # fmt: skip


def _others(others: dict[str, dict]) -> Markup:
    rows = []
    for name, scores in others.items():
        lines, lead = scores["certificate"], leads_of(scores["scores"])[0]
        skills = [e[lead]["skill"] for e in scores["scores"].values() if is_number(e.get(lead, {}).get("skill"))]
        spread = f"{min(skills):+.2f} to {max(skills):+.2f}" if skills else "n/a"
        boundary = scores.get("boundary", "not known") or "none"  # files of earlier versions do not say
        passed = f"{sum(x['pass'] is True for x in lines)} of {len(lines)}"
        rows.append([name, boundary, str(len(scores["init_times"])), passed, spread])
    titles = ["folder", "boundary data", "initial times", "lines passed", "skill at the first lead"]
    return table("Other evaluations of this run", titles, rows, left=2)


def skill(scores: dict | None) -> Markup:
    """Skill by lead time against every baseline as charts and tables, and the errors themselves."""
    if scores is None or not scores["scores"]:
        return section("Skill by lead time", missing("scores.json", "verify_forecast.py"), name="skill")
    by_name, leads = scores["scores"], leads_of(scores["scores"])
    charts, tables = [], []
    for key, baseline in BASELINES.items():
        series = {n: [(float(k), e.get(key)) for k, e in sorted_leads(by)] for n, by in by_name.items()}
        if not any(is_number(v) for points in series.values() for _, v in points):
            tables.append(paragraph(f"Against {baseline}: not available in these scores."))
            continue
        title = f"Skill against {baseline}"
        charts.append(line_chart(title, series, "lead time (h)", "1 - RMSE / RMSE of the baseline", zero=True))
        rows = [[n, *(signed(by.get(k, {}).get(key)) for k in few(leads))] for n, by in by_name.items()]
        tables.append(table(title, ["variable", *map(hours, few(leads))], rows))
    rows = [
        [f"{n} ({lookup(n).units})" if lookup(n).units else n, *(number(by.get(k, {}).get("rmse")) for k in few(leads))]
        for n, by in by_name.items()
    ]
    tables.append(table("RMSE", ["variable", *map(hours, few(leads))], rows))
    cases = max((e.get("n_cases") or 0 for by in by_name.values() for e in by.values()), default=0)
    return section(
        "Skill by lead time",
        paragraph(f"{len(scores['init_times'])} initial times, up to {cases} cases at a lead. Above 0 the forecast is "
                  "better than the baseline, 1 is perfect."),
        tag("div", *charts, *_events(by_name), class_="charts"),
        details("The numbers", *tables),
        name="skill",
    )  # fmt: skip


def sorted_leads(by_lead: dict) -> list[tuple[str, dict]]:
    return sorted(by_lead.items(), key=lambda item: float(item[0]))


def _events(by_name: dict) -> list[Markup]:
    """The FSS of each threshold, with the baselines beside the forecast, for the variables that have events."""
    charts = []
    for name, by_lead in by_name.items():
        first = next(iter(by_lead.values()), {})
        for threshold, windows in (first.get("fss") or {}).items():
            window = min(windows, key=lambda w: abs(float(w) - WINDOW))
            series = {
                kind: [(float(k), ((e.get(f"{prefix}fss") or {}).get(threshold) or {}).get(window))
                       for k, e in sorted_leads(by_lead)]
                for kind, prefix in (("forecast", ""), ("persistence", "persistence_"),
                                     ("extrapolation", "extrapolation_"))
            }  # fmt: skip
            title = f"{name} at least {threshold} {lookup(name).units}".strip()
            charts.append(line_chart(title, series, "lead time (h)", f"FSS over {float(window):g} km (1: perfect)"))
    return charts


# ---- training


def curves(records: list[dict]) -> Markup:
    """Loss and terms, skill, learning rate, gradient norm, throughput by epoch."""
    if not records:
        return section("Training curves", missing("log.jsonl", "train_deterministic.py"), name="curves")

    def series(key: str) -> dict:
        names = dict.fromkeys(n for r in records for n in r.get(key) or {})
        return {n: [(r["epoch"], (r.get(key) or {}).get(n)) for r in records] for n in names}

    def one(key: str) -> dict:
        return {key: [(r["epoch"], r.get(key)) for r in records]}

    rollout = records[-1].get("rollout_hours")
    after = f"at {rollout:g} h" if is_number(rollout) else "at the end of the roll-out"
    charts = (
        line_chart("Loss and its terms", one("loss") | series("terms"), "epoch", "1: as persistence", log=True),
        line_chart("Validation skill, one step", series("skill"), "epoch", "against persistence", zero=True),
        line_chart(f"Validation skill {after}", series("rollout_skill"), "epoch", "against persistence", zero=True),
        line_chart("Learning rate", one("lr"), "epoch", "of AdamW", legend=False),
        line_chart("Gradient norm", one("grad_norm"), "epoch", "mean between validations", legend=False),
        line_chart("Throughput", one("samples_per_s"), "epoch", "samples per second", legend=False),
    )
    return section("Training curves", tag("div", *charts, class_="charts"), name="curves")


def resources(records: list[dict], sizes: list[list], checkpoint: dict | None) -> Markup:
    """Time and memory of training; sizes of what was written."""
    rows = []
    if records:
        last = records[-1]
        rate, samples = last.get("samples_per_s"), last.get("samples")
        rows += [["epochs and optimizer steps", f"{last.get('epoch')} and {last.get('step')}"]]
        if is_number(rate) and rate > 0 and is_number(samples):
            rows.append(["training, from samples and the last rate", f"about {clock_text(samples / rate)} (h:mm:ss)"])
            rows.append(["throughput", f"{rate:.3g} samples per second"])
        if is_number(last.get("data_wait")):
            rows.append(["share of time waiting for data", f"{last['data_wait']:.1%}"])
        peak = max((r.get("peak_memory_bytes") or 0 for r in records), default=0)
        rows.append(["peak memory", f"{peak / 1e9:.2f} GB" if peak else "not logged"])
    if checkpoint:
        rows.append(["parameters", f"{sum(v.numel() for v in checkpoint['ema'].values()):,}"])
    rows += sizes
    note = None if records else missing("log.jsonl", "train_deterministic.py")
    return section("Time and memory", note, table("What the run took", ["what", "how much"], rows), name="resources")


def clock_text(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def left_out(clipped: list[list], scores: dict | None, records: list[dict], notes: list[str]) -> Markup:
    """What was clipped to physical bounds, and what was skipped. `clipped` has a row for each variable: name, mean
    share, largest share, where."""
    items = list(notes)
    if scores is not None:
        items.append(f"{scores.get('skipped_without_truth', 0)} cases skipped for want of truth at their valid time")
        outside = scores.get("outside_test") or []
        items.append(
            f"{len(outside)} initial times outside the test part" + (f": {', '.join(outside)}" * bool(outside))
        )
        items += scores.get("baselines") or []
    if records and records[-1].get("skipped_steps"):
        items.append(f"{records[-1]['skipped_steps']} optimizer steps left out in training")
    split = records[-1].get("split") if records else (scores or {}).get("split")
    if split:
        parts = (f"{p} {' to '.join(split[p])} ({split.get('pairs', {}).get(p, '?')} pairs)"
                 for p in ("train", "validation", "test") if p in split)  # fmt: skip
        items.append(f"split: {'; '.join(parts)}; {split.get('gap_hours', 0):g} h left out between the parts")
    shares = table("Cells outside the physical bounds before clipping, share of all",
                   ["variable", "mean", "largest", "at"], clipped) if clipped else missing(
                       "forecast.zarr", "infer_iterative.py")  # fmt: skip
    return section("Clipped or skipped", shares, bullets(items), name="left-out")


def constants(checkpoint: dict | None, defaults: dict, meanings: dict[str, str]) -> Markup:
    """The constants of training that differ from those at the top of the present script."""
    if checkpoint is None:
        return section("Constants changed", missing("best.pt", "train_deterministic.py"), name="constants")
    config = checkpoint["config"]
    changed = [
        [n, shown(v), shown(defaults[n]) if n in defaults else "not known any more", meanings.get(n, "")]
        for n, v in config.items()
        if n not in defaults or v != defaults[n]
    ]
    body = table("Constants", ["constant", "this run", "script now", "meaning"], changed, left=4) if changed else None
    every = [[n, shown(v), meanings.get(n, "")] for n, v in config.items()]
    new = [n for n in defaults if n not in config]
    return section(
        "Constants changed",
        paragraph(
            f"{len(changed)} of {len(config)} constants of this run differ from those that now stand at the top of "
            "train_deterministic.py. What was edited there before the run does not show."
        ),
        body,
        details(
            f"All {len(every)} constants", table("Every constant", ["constant", "this run", "meaning"], every, left=3)
        ),
        paragraph(f"Newer than this run: {', '.join(new)}.") if new else None,
        name="constants",
    )


def shown(value) -> str:
    return " ".join(map(str, value)) or "(empty)" if isinstance(value, list) else f"{value}" or "(empty)"


def commands(steps: list[tuple[str, str]]) -> Markup:
    """How to go on: what a command does, and the command."""
    parts = [join(paragraph(what), tag("pre", tag("code", command))) for what, command in steps]
    return section("How to go on", *parts, name="next")


def missing(file: str, command: str) -> Markup:
    """A note in place of what cannot be shown."""
    return paragraph(f"Missing: {file}. ", tag("code", command), " writes it.", class_="missing")

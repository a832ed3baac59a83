"""Scores as text and as a certificate. `scores` is always {variable: {lead in hours as text: {score: value}}}."""

import math

ROWS = (1, 2, 3, 6, 12, 18, 24)  # hours, the lead times that the printed tables show where they exist
BLOCK = 4  # variables side by side in 100 columns


def certificate(scores: dict) -> list[dict]:
    """Lines {name, value, bar, pass} that say whether the forecasts are worth having and stay stable.

    A line is left out where its lead time was not scored or its value is not defined.
    """
    wanted = [
        ("1 h skill against persistence", "1", "skill", "> 0", lambda v: v > 0),
        ("drift at 24 h", "24", "drift", "-0.3 to 0.3", lambda v: abs(v) < 0.3),
        ("std ratio at last lead", None, "std_ratio", "0.8 to 1.2", lambda v: 0.8 <= v <= 1.2),
    ]
    lines = []
    for name, lead, score, bar, passes in wanted:
        for variable, by_lead in scores.items():
            value = by_lead.get(lead or max(by_lead, key=float), {}).get(score)
            if value is not None and math.isfinite(value):
                line = {"name": f"{name}, {variable}", "value": value, "bar": bar, "pass": passes(value)}
                lines.append(line)
    return lines


def certificate_text(lines: list[dict]) -> str:
    """One PASS or FAIL line per entry of `certificate`."""
    return "\n".join(
        f"{'PASS' if c['pass'] else 'FAIL'}  {c['name']:<44} {c['value']:+8.3f}   (wanted: {c['bar']})" for c in lines
    )


def error_tables(scores: dict, units: dict[str, str]) -> str:
    """RMSE, RMSE of persistence and skill against it: a row per lead time, variables side by side."""
    names, lines = list(scores), []
    for first in range(0, len(names), BLOCK):
        block = names[first : first + BLOCK]
        titles = (f"{n} ({units[n]})" if units.get(n) else n for n in block)
        lines.append("  lead " + "".join(f"|{t:^21.21}" for t in titles))
        lines.append("     h " + "|   RMSE persist skill" * len(block))
        for lead in table_leads(scores):
            entries = [scores[n].get(lead, {}) for n in block]
            cells = (
                f"|{number(e.get('rmse')):>7}{number(e.get('persistence_rmse')):>8}{signed(e.get('skill')):>6}"
                for e in entries
            )
            lines.append(f"{float(lead):>6.4g} " + "".join(cells))
        lines.append("")
    return "\n".join(lines).rstrip()


def event_table(by_lead: dict, window: str) -> str:
    """CSI, FSS over one window, each with that of persistence in brackets, and frequency bias, by threshold."""
    thresholds = list(next(iter(by_lead.values()))["csi"])
    lines = ["  lead " + "".join(f"|{f'at least {t}':^30}" for t in thresholds)]
    lines.append("     h " + "|CSI (pers.)  FSS (pers.)  bias" * len(thresholds))
    for lead in table_leads({"": by_lead}):
        e, cells = by_lead[lead], []
        for t in thresholds:
            csi, fss = (
                f"{plain(e[s][t] if s == 'csi' else e[s][t][window])} "
                f"({plain(e['persistence_' + s][t] if s == 'csi' else e['persistence_' + s][t][window])})"
                for s in ("csi", "fss")
            )
            cells.append(f"|{csi:>11} {fss:>12} {plain(e['frequency_bias'][t]):>5}")
        lines.append(f"{float(lead):>6.4g} " + "".join(cells))
    return "\n".join(lines)


def table_leads(scores: dict) -> list[str]:
    """The lead times to print: those of ROWS that exist and the last one; else up to eight, evenly spread."""
    leads = sorted({lead for by_lead in scores.values() for lead in by_lead}, key=float)
    chosen = [lead for lead in leads if float(lead) in ROWS]
    if len(chosen) < 2:
        chosen = leads[:: math.ceil(len(leads) / 8)]
    return chosen if leads[-1] in chosen else [*chosen, leads[-1]]


def number(value: float | None) -> str:
    """About three figures: "1234", "12.3", "0.45", and "-" for what is not defined."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def signed(value: float | None) -> str:
    """A skill, with its sign."""
    return "-" if value is None or not math.isfinite(value) else f"{value:+.2f}"


def plain(value: float | None) -> str:
    """A score between 0 and 1."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.2f}"


def without_nan(value):
    """The same nested dicts and lists with None for every number that is not finite, as JSON needs it."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

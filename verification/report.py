"""Scores and certificate as text. `scores` is always {variable: {lead in hours as text: {score: value}}}."""

import math
import textwrap

ROWS = (1, 2, 3, 6, 12, 18, 24)  # hours, the lead times that the printed tables show where they exist
WIDTH = 100  # columns of a line of the certificate
BLOCK = 4  # variables side by side in 100 columns


def certificate_text(lines: list[dict], notes: dict[str, str]) -> str:
    """The certificate to read: what passed and what is not available in one entry a criterion, failures one by one."""
    out, groups = [], {}
    for line in lines:
        groups.setdefault(_criterion(line), []).append(line)
    for criterion, group in groups.items():
        for line in group:
            if line["pass"] is False:
                where = f"(bar {line['bar']}; {notes[line['name']]})"
                out += _wrapped(f"FAIL  {line['name']:<30} {line['value']:+8.4g}  {where}")
        passed = ", ".join(f"{_variable(c)} {c['value']:+.3g}" for c in group if c["pass"])
        if passed:
            out += _wrapped(f"PASS  {criterion} (bar {group[0]['bar']}): {passed}")
        reasons: dict[str, list[str]] = {}
        for c in group:
            if c["pass"] is None:
                reasons.setdefault(notes[c["name"]].split("; worst")[0], []).append(_variable(c))
        for why, names in reasons.items():
            out += _wrapped(f"n/a   {criterion}, {', '.join(names)}: {why}")
    judged = [c for c in lines if c["pass"] is not None]
    total = f"certificate: {sum(c['pass'] for c in judged)} of {len(lines)} lines passed"
    missing = len(lines) - len(judged)
    return "\n".join([*out, total + (f"; {missing} not available" if missing else "")])


def _criterion(line: dict) -> str:
    return line["name"].rpartition(", ")[0]


def _variable(line: dict) -> str:
    return line["name"].rpartition(", ")[2]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * 10, break_on_hyphens=False, drop_whitespace=True)


def reference_table(scores: dict) -> str:
    """Skill against every baseline at 1 h (or the first lead) and the last: a row per variable; in brackets the 90 %
    interval by day of the skill against persistence."""
    leads = [table_leads(scores)[0], table_leads(scores)[-1]]
    leads = list(dict.fromkeys(leads))
    lines = ["        " + "".join(f"|{f'{float(k):.4g} h':^43}" for k in leads)]
    lines.append("        " + "| persistence             yesterday  damped  " * len(leads))
    for name, by_lead in scores.items():
        cells = []
        for k in leads:
            e = by_lead.get(k, {})
            interval = e.get("skill_interval")
            span = f"({signed(interval[0])} to {signed(interval[1])})" if interval else ""
            others = f"{signed(e.get('skill_yesterday')):>10}{signed(e.get('skill_damped')):>8}"
            cells.append(f"|{signed(e.get('skill')):>6} {span:<16} {others}  ")
        lines.append(f"{name:<8.8}" + "".join(cells))
    return "\n".join(lines)


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

"""The verdict of the morning report: what the scores say, in a word and in a sentence."""

from plotting.report_html import is_number
from plotting.report_sections import hours, leads_of


def verdict(scores: dict | None, records: list[dict], boundary: str = "", held: str = "") -> tuple[str, str]:
    """A word and a sentence: is the forecast better than persistence, and does the certificate pass?"""
    alarm = f"{records[-1].get('alarm')}. " if records and records[-1].get("alarm") else ""
    if scores is None or not scores["scores"]:
        return "Not scored", alarm + _unscored(records)
    leads, names = leads_of(scores["scores"]), list(scores["scores"])
    lines = scores["certificate"]
    word, told = "", []
    for k in dict.fromkeys((leads[0], leads[-1])):
        entries = [scores["scores"][n].get(k, {}) for n in names]
        skills = [e["skill"] for e in entries if is_number(e.get("skill"))]
        better = sum(s > 0 for s in skills)
        if not skills:
            told.append(f"at {hours(k)} nothing to compare with")
            continue
        share = "Better" if better == len(skills) else "Partly better" if better else "Not better"
        word = word or f"{share} than persistence at {hours(k)}"
        sure = sum(_above_zero(e.get("skill_interval")) for e in entries)
        told.append(
            f"at {hours(k)} it beats persistence in {better} of {len(skills)} variables (skill {min(skills):+.2f} to "
            f"{max(skills):+.2f}, the whole 90 % interval above zero in {sure})"
        )
    passed, missing = sum(line["pass"] is True for line in lines), sum(line["pass"] is None for line in lines)
    told.append(
        f"the certificate passes in {passed} of {len(lines)} lines" + (f", {missing} not judged" * bool(missing))
    )
    outside = scores.get("outside_test") or []
    if outside:
        told.append(f"{len(outside)} of the {len(scores['init_times'])} initial times lie outside the test part")
    if held:
        told.append(f"{held} are held (persistence), since validation did not show them forecast better")
    if boundary:
        told.append(f"its edge was given by {boundary}")
    sentence = "; ".join(told)
    word = f"{word or 'Nothing to compare with'}; certificate {'' if passed == len(lines) else 'not '}passed"
    return word, f"{alarm}{sentence[0].upper()}{sentence[1:]}."


def _unscored(records: list[dict]) -> str:
    """What the last validation says, in a sentence."""
    if not records:
        return "There is neither a log nor a score to judge."
    skills = [v for v in (records[-1].get("skill") or {}).values() if is_number(v)]
    spread = f"skill {min(skills):+.2f} to {max(skills):+.2f} against persistence" if skills else "no skill is defined"
    return f"No test scores yet: at epoch {records[-1]['epoch']} the validation finds {spread} one step ahead."


def _above_zero(interval) -> bool:
    return isinstance(interval, list) and len(interval) == 2 and is_number(interval[0]) and interval[0] > 0

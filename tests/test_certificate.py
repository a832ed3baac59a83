"""The certificate's bars, leads and verdicts on scores written by hand."""

import math

import numpy as np
import pytest

from verification.certificate import certificate, certificate_text, known_hours, lead_of

LEADS = ("1", "3", "6", "12", "24")
SHARP = "sharp: power ratio of waves of 5 cells and more"
DRIFT, ALIVE, AREA = "stable: drift", "alive: change ratio", "storms: area of 30 dBZ and more"


def about(value: float | None, width: float = 0.0) -> np.ndarray | None:
    """A value whose 90 % interval, with the three days of `entry`, is exact or has a half width of about `width`."""
    if value is None:
        return None
    return np.concatenate([[value], value + width / 4.23 * np.linspace(-1, 1, 500)])


def entry(own_weather: bool = True, **scores) -> dict:
    """What cases.summary gives at one lead: numbers become exact values."""
    exact = lambda v: {k: exact(x) for k, x in v.items()} if isinstance(v, dict) else v if isinstance(v, np.ndarray) else about(v)  # noqa: E501, E731  # fmt: skip
    return {"n_days": 3, "correlation_gain": about(0.1 if own_weather else -0.1)} | {k: exact(v) for k, v in scores.items()}  # noqa: E501  # fmt: skip


def lines_of(by_lead: dict, variable: str = "T2M", known: float = 24) -> dict[str, dict]:
    """The lines by name, each with its note."""
    lines, notes = certificate({variable: by_lead}, known)
    assert all(list(line) == ["name", "value", "interval", "bar", "pass", "variables"] for line in lines)
    return {line["name"]: line | {"note": notes[line["name"]]} for line in lines}


@pytest.mark.parametrize(
    ("name", "key", "good", "bad"),
    [
        (ALIVE, "change_std_ratio", 0.76, 0.74),
        (ALIVE, "change_std_ratio", 1.33, 1.34),
        (DRIFT, "drift", -0.29, -0.31),
        ("stable: spread", "std_ratio", 1.24, 0.79),
        ("stable: share clipped to bounds", "clipped_share", 0.0009, 0.001),
        ("no grid artefacts: line index", "line_index", {"2": 0.9, "4": -3.0}, {"2": 0.0, "4": 1.1}),
        (SHARP, "power_ratio", {"2-5": 9.0, "5-10": 0.81, "20-67": None}, {"2-5": 1.0, "5-10": 0.79}),
        ("no noise: power ratio of waves of 2-5 cells", "power_ratio", {"2-5": 0.1, "5-10": 9.0}, {"2-5": 1.3}),
        ("skill over the best baseline at 6 h", "best_skill", 0.01, 0.0),
    ],
)
def test_every_bar_is_where_the_text_puts_it(name, key, good, bad):
    for value, verdict in ((good, "PASS"), (bad, "FAIL")):
        assert lines_of({h: entry(**{key: value}) for h in LEADS})[name]["pass"] == verdict


def test_two_leads_on_both_sides_of_a_bar_fail_and_not_only_the_one_furthest_in_the_logarithm():
    by_lead = {h: entry(change_std_ratio=1.0) for h in LEADS}
    by_lead |= {"1": entry(change_std_ratio=0.76), "6": entry(change_std_ratio=1.35)}
    line = lines_of(by_lead)[ALIVE]
    assert (line["pass"], line["value"]) == ("FAIL", 1.35) and line["note"] == "T2M, 6 h"
    by_lead["1"] = entry(change_std_ratio=0.7)  # both are outside: the worst is further in the logarithm
    assert lines_of(by_lead)[ALIVE]["value"] == 0.7 and lines_of(by_lead)[ALIVE]["pass"] == "FAIL"


@pytest.mark.parametrize(
    ("value", "width", "verdict"),
    [(1.0, 0.1, "PASS"), (1.0, 0.6, "UNDECIDED"), (1.3, 0.1, "UNDECIDED"), (1.6, 0.1, "FAIL"), (1.6, 0.6, "UNDECIDED")],
)
def test_the_whole_interval_decides(value, width, verdict):
    line = lines_of({h: entry(change_std_ratio=about(value, width)) for h in LEADS})[ALIVE]
    assert line["pass"] == verdict
    assert line["interval"] == pytest.approx([value - width, value + width], abs=0.2 * width)


def test_one_lead_outside_fails_whatever_the_others_are_and_few_days_decide_nothing():
    by_lead = {h: entry(drift=about(0.0, 1.0)) for h in LEADS}
    assert lines_of(by_lead)[DRIFT]["pass"] == "UNDECIDED"
    by_lead["12"] = entry(drift=0.5)
    assert lines_of(by_lead)[DRIFT]["pass"] == "FAIL" and lines_of(by_lead)[DRIFT]["note"] == "T2M, 12 h"
    few = {h: entry(drift=0.5) | {"n_days": 2} for h in LEADS}
    assert lines_of(few)[DRIFT] | {"note": ""} == {
        "name": DRIFT, "value": 0.5, "interval": None, "bar": "-0.3 to 0.3", "pass": "UNDECIDED", "note": "",
        "variables": {"T2M": {"value": 0.5, "interval": None, "pass": "UNDECIDED"}},
    }  # fmt: skip


def test_drift_is_asked_at_every_lead_up_to_the_last_and_not_later():
    by_lead = {str(h): entry(drift=0.0) for h in range(1, 25)} | {"30": entry(drift=9.0)}
    assert lines_of(by_lead)[DRIFT]["pass"] == "PASS"
    by_lead["17"] = entry(drift=0.5)
    assert lines_of(by_lead)[DRIFT]["note"] == "T2M, 17 h"


def test_a_missing_lead_or_score_is_na_and_what_fails_needs_no_other_lead():
    lines = lines_of({"1": entry(drift=0.1, std_ratio=9.0, best_skill=math.nan)})
    assert lines[DRIFT]["pass"] == "n/a" and lines[DRIFT]["value"] == 0.1
    assert lines[DRIFT]["note"] == "T2M, no lead of 3, 6, 12, 24 h"
    assert lines["stable: spread"]["pass"] == "FAIL"
    assert lines["skill over the best baseline at 1 h"]["pass"] == "n/a"
    assert lines["skill over the best baseline at 3 h"]["note"] == "T2M, no lead of 3 h"
    assert lines[SHARP]["pass"] == "n/a" and "masked cells" in lines[SHARP]["note"]


def test_the_character_of_a_forecast_counts_only_where_its_weather_is_that_of_the_day():
    good = {"drift": 0.0, "power_ratio": {"5-10": 1.0}, "change_std_ratio": 2.0, "best_skill": 0.1}
    lines = lines_of({h: entry(h != "24", **good) for h in LEADS})
    assert lines[DRIFT]["pass"] == lines[SHARP]["pass"] == "n/a"
    assert lines[DRIFT]["note"] == "T2M, no closer to this weather than a baseline at 24 h"
    assert lines[ALIVE]["pass"] == "FAIL", "what is wrong stays wrong"
    assert lines["skill over the best baseline at 24 h"]["pass"] == "PASS", "skill needs no such condition"


def test_a_line_has_all_variables_and_the_verdict_of_the_worst():
    entries = {n: {h: entry(drift=d) for h in LEADS} for n, d in (("T2M", 0.1), ("U10", -0.5), ("V10", 0.2))}
    lines, notes = certificate(entries)
    line = next(one for one in lines if one["name"] == DRIFT)
    assert (line["pass"], line["value"], notes[DRIFT]) == ("FAIL", -0.5, "U10, 1 h")
    assert {n: v["pass"] for n, v in line["variables"].items()} == {"T2M": "PASS", "U10": "FAIL", "V10": "PASS"}
    text = certificate_text(lines, notes)
    assert "FAIL       stable: drift (-0.3 to 0.3): U10; worst -0.5 (-0.5 to -0.5) U10, 1 h; PASS T2M V10" in text
    assert not any(line["name"].startswith("storms") for line in lines), "none of them is reflectivity"
    seven = {n: entries["T2M"] for n in ("REFC", "T2M", "D2M", "U10", "V10", "CAPE", "CIN")}
    assert len(certificate(seven)[0]) <= 40 and len({one["name"] for one in certificate(seven)[0]}) == 19


def test_storms_are_compared_with_persistence_and_extrapolation_over_33_km():
    fss = lambda v: {"20": {"9": 0.0, "33": v}}  # noqa: E731
    scores = {"frequency_bias": {"20": 1.0, "30": 0.8, "40": 0.5}, "fss": fss(0.6), "persistence_fss": fss(0.5)}
    beside = {"fss_beside_extrapolation": fss(0.6), "extrapolation_fss": fss(0.7)}
    lines = lines_of({k: entry(False, **scores, **beside) for k in ("1", "2", "3")}, "REFC", 3)
    gain, loss = (lines[f"storms: FSS above {other}"] for other in ("persistence", "extrapolation"))
    assert (gain["pass"], loss["pass"]) == ("PASS", "FAIL") and gain["value"] == pytest.approx(0.1)
    lines = lines_of({k: entry(**scores) for k in ("1", "2", "3")}, "REFC", 3)
    assert lines[AREA]["pass"] == "PASS" and lines["storms: area of 40 dBZ and more"]["pass"] == "FAIL"
    assert lines["storms: FSS above extrapolation"]["pass"] == "n/a"


def test_persistence_does_not_pass_the_line_on_coherence():
    for own, verdict in ((0.5, "FAIL"), (0.6, "PASS")):  # that of persistence is 0.5
        pair = {"coherence": {"5-10": own}, "persistence_coherence": {"5-10": 0.5}}
        assert lines_of({h: entry(**pair) for h in LEADS})["in place: coherence above persistence"]["pass"] == verdict


@pytest.mark.parametrize(("early", "value"), [(2.0, 0.5), (0.0, 99.0), (None, 0.25), (4.0, 0.25)])
def test_timing_compares_with_the_better_neighbour_and_a_forecast_that_meets_it_exactly_fails(early, value):
    scores = entry(timing_rmse=1.0, early_rmse=early, late_rmse=4.0)
    line = lines_of(dict.fromkeys(("1", "2", *LEADS), scores))["on time: RMSE / RMSE one step off"]
    assert (line["value"], line["pass"]) == (value, "PASS" if value < 1 else "FAIL")
    still = entry(timing_rmse=0.0, early_rmse=0.0, late_rmse=0.0)  # a field that does not change says nothing
    assert lines_of(dict.fromkeys(("1", "2", *LEADS), still))[line["name"]]["pass"] == "n/a"


def test_only_leads_that_can_be_known_are_asked():
    # 64 cells of 3 km: half of them, 96 km, are crossed at 20 m/s in 80 minutes; half of HRRR's 1059 rows in 22 h
    assert known_hours((3000.0, 3000.0), (64, 64), False) == pytest.approx(4 / 3)
    assert known_hours((3000.0, 3000.0), (1059, 1799), False) == pytest.approx(22.06, abs=0.01)
    assert known_hours((1000.0, 1000.0), (64, 64), False) == 1 and known_hours((3000.0,) * 2, (64, 64), True) == 24
    by_lead = {"1": entry(drift=0.0, best_skill=0.1)} | {h: entry(False, drift=9.0, best_skill=-1.0) for h in LEADS[1:]}
    lines = lines_of(by_lead, known=4 / 3)
    assert lines[DRIFT]["pass"] == "PASS" and [n for n in lines if n.startswith("skill")] == [
        "skill over the best baseline at 1 h"
    ]


def test_leads_of_other_steps():
    five = {f"{m / 60:g}": {} for m in range(5, 35, 5)}  # radar, half an hour
    assert lead_of(five, 1) == "0.0833333" and lead_of(five, 6) == "0.5" and lead_of(five, 24) is None
    assert lead_of({"0.5": {}, "1": {}, "6": {}}, 6) == "6"  # has hours
    assert lead_of({"3": {}, "6": {}, "24": {}}, 1) == "3" and lead_of({"3": {}, "6": {}, "24": {}}, 24) == "24"

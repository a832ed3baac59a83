"""The certificate's bars, leads and reasons on scores written by hand."""

import math

import pytest

from verification.certificate import certificate, certificate_text, lead_of

DAY = [str(h) for h in range(1, 25)]


def judge(scores: dict, boundary: str = "") -> tuple[dict, dict]:
    """{name: (value, pass)} and notes."""
    lines, notes = certificate(scores, boundary)
    assert all(list(line) == ["name", "value", "interval", "bar", "pass"] for line in lines)
    assert len(lines) == len(notes)
    return {line["name"]: (line["value"], line["pass"]) for line in lines}, notes


@pytest.mark.parametrize(
    ("name", "key", "good", "bad"),
    [
        ("1 h normalised RMSE", "normalised_rmse", 1.99, 2.0),
        ("1 h skill against persistence", "skill", 0.01, 0.0),
        ("alive: change ratio", "change_std_ratio", 0.7, 1.31),
        ("stable to 24 h: drift", "drift", -0.3, -0.31),
        ("stable to 24 h: std ratio", "std_ratio", 1.2, 0.79),
        ("stable to 24 h: clipped share", "clipped_share", 0.0009, 0.001),
    ],
)
def test_every_bar_is_where_the_text_puts_it(name, key, good, bad):
    for value, passes in ((good, True), (bad, False)):
        lines, _ = judge({"T2M": {h: {key: value} for h in DAY}})
        assert lines[f"{name}, T2M"] == (value, passes)


def test_the_value_of_several_leads_is_the_worst_and_the_note_says_where():
    by_lead = {"1": {"drift": 0.1, "std_ratio": 0.9}, "12": {"drift": -0.5, "std_ratio": 1.05}}
    by_lead |= {"24": {"drift": 0.2, "std_ratio": 1.0}, "30": {"drift": 9.0}}  # past 24 h
    lines, notes = judge({"T2M": by_lead})
    assert lines["stable to 24 h: drift, T2M"] == (-0.5, False) and notes["stable to 24 h: drift, T2M"] == "12 h"
    assert lines["stable to 24 h: std ratio, T2M"] == (0.9, True)


def test_every_lead_must_be_inside_the_bar_and_not_only_the_one_furthest_in_the_logarithm():
    ratios = {"1": 0.72, "6": 1.35, "24": 1.0}  # |log 0.72| is the larger
    lines, notes = judge({"T2M": {k: {"change_std_ratio": v} for k, v in ratios.items()}})
    assert lines["alive: change ratio, T2M"] == (1.35, False) and notes["alive: change ratio, T2M"] == "6 h"


def test_a_missing_lead_score_or_variable_is_neither_a_pass_nor_hidden():
    entry = {"skill": math.nan, "drift": 0.1, "std_ratio": 9.0, "change_std_ratio": 1.0}
    lines, notes = judge({"REFC": {"1": entry}, "T2M": {}})
    assert lines["1 h skill against persistence, REFC"] == (None, None)
    assert lines["stable to 24 h: drift, REFC"] == (0.1, None) and lines["alive: change ratio, REFC"] == (1.0, None)
    assert lines["stable to 24 h: std ratio, REFC"] == (9.0, False), "what fails needs no other lead"
    assert notes["stable to 24 h: drift, REFC"] == "no lead of 24 h; worst +0.1 at 1 h"
    assert notes["alive: change ratio, REFC"] == "no lead of 6, 24 h; worst +1 at 1 h"
    assert all(passed is None for name, (_, passed) in lines.items() if name.endswith("T2M"))
    text = certificate_text(*certificate({"REFC": {"1": entry}}))
    assert "n/a   stable to 24 h: drift (-0.3 to 0.3): REFC: no lead of 24 h" in text
    assert "FAIL  stable to 24 h: std ratio (0.8 to 1.2): REFC +9; 1 h" in text
    assert text.endswith("certificate: 0 of 13 lines passed; 12 n/a")


def test_sharpness_looks_at_every_band_above_five_cells_that_is_available():
    bands = {"2-5": 0.01, "5-10": 0.85, "10-20": 1.24, "20-67": None}
    entry = {"power_ratio": bands, "coherence": dict.fromkeys(bands, 0.5)}
    lines, notes = judge({"T2M": {"1": entry, "6": entry, "24": entry}})
    assert lines["sharp: power ratio, T2M"] == (1.24, True)  # 1.24 is further from 1 than 0.85: log
    assert notes["sharp: power ratio, T2M"] == "10-20 cells, coherence 0.50, 1 h"
    worse = entry | {"power_ratio": bands | {"5-10": 0.79}}
    assert judge({"T2M": {"1": entry, "6": worse, "24": entry}})[0]["sharp: power ratio, T2M"] == (0.79, False)


def test_storms_are_compared_with_persistence_and_extrapolation_over_33_km():
    fss = lambda v: {"20": {"9": 0.0, "33": v}}  # noqa: E731
    entry = {"frequency_bias": {"30": 0.8}, "fss": fss(0.6), "persistence_fss": fss(0.5)}
    beside = {"fss_beside_extrapolation": fss(0.6), "extrapolation_fss": fss(0.7)}
    lines, _ = judge({"REFC": {k: entry | beside for k in "123456"}, "T2M": {"1": {}}})
    assert lines["storms: FSS above persistence, REFC"] == (pytest.approx(0.1), True)
    assert lines["storms: FSS above extrapolation, REFC"] == (pytest.approx(-0.1), False)
    assert lines["storms: frequency bias at 30 dBZ, REFC"] == (0.8, True)
    assert not any("storms" in n and "T2M" in n for n in lines)
    assert judge({"REFC": {k: entry for k in "123"}})[0]["storms: FSS above extrapolation, REFC"] == (None, None)


def test_the_edge_band_is_judged_at_all_leads_only_with_boundary_data():
    scores = {"T2M": {h: {"edge_rmse": 1.0, "interior_rmse": 1.0} for h in DAY} | {"30": {}}}
    scores["T2M"]["2"] = {"edge_rmse": 2.0, "interior_rmse": 1.0}
    name = "no grid artefacts: edge / interior RMSE, T2M"
    assert judge(scores)[0][name] == (1.0, True) and judge(scores, "boundary.zarr")[0][name] == (2.0, False)


def test_the_line_index_is_the_mean_of_the_three_nearest_leads():
    of = lambda v: {"line_index": {"2": v, "4": 0.0, "8": None, "16": None}}  # noqa: E731
    scores = {"T2M": {"1": of(0.9), "2": of(0.9), "3": of(0.9), "5": of(0.0), "6": of(3.0), "7": of(0.3)}}
    lines, notes = judge(scores)
    assert lines["no grid artefacts: line index, T2M"] == (pytest.approx(1.1), False)  # (0 + 3 + 0.3) / 3 at 6 h
    assert notes["no grid artefacts: line index, T2M"] == "2 cells, 6 h"


@pytest.mark.parametrize(
    ("early", "expected"), [(2.0, (0.5, True)), (0.0, (99.0, False)), (None, (0.25, True)), (4.0, (0.25, True))]
)
def test_timing_compares_with_the_better_neighbour_and_a_forecast_that_meets_it_exactly_fails(early, expected):
    entry = {"timing_rmse": 1.0, "early_rmse": early, "late_rmse": 4.0}
    name = "timing: RMSE / one step off, T2M"
    assert judge({"T2M": dict.fromkeys("123", entry)})[0][name] == expected
    still = dict.fromkeys(entry, 0.0)  # a field that does not change says nothing
    assert judge({"T2M": dict.fromkeys("123", still)})[0][name] == (None, None)


def test_leads_of_other_steps():
    five = {f"{m / 60:g}": {} for m in range(5, 35, 5)}  # radar, half an hour
    assert lead_of(five, 1) == "0.0833333" and lead_of(five, 6) == "0.5" and lead_of(five, 24) is None
    assert lead_of({"0.5": {}, "1": {}, "6": {}}, 6) == "6"  # has hours
    assert lead_of({"3": {}, "6": {}, "24": {}}, 1) == "3" and lead_of({"3": {}, "6": {}, "24": {}}, 24) == "24"

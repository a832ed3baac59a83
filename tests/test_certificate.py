"""The certificate's bars, leads and reasons on scores written by hand."""

import json
import math

import numpy as np
import pytest

from verification.certificate import certificate, lead_of
from verification.outputs import write_certificate
from verification.report import certificate_text


def judge(scores: dict, boundary: str = "") -> tuple[dict, dict]:
    """{name: line} and notes."""
    lines, notes = certificate(scores, boundary)
    assert all(set(line) == {"name", "value", "bar", "pass"} for line in lines) and len(lines) == len(notes)
    return {line["name"]: line for line in lines}, notes


def value_and_pass(line: dict) -> tuple:
    return line["value"], line["pass"]


@pytest.mark.parametrize(
    ("name", "key", "good", "bad"),
    [
        ("1 h normalised RMSE", "normalised_rmse", 1.99, 2.0),
        ("1 h skill against persistence", "skill", 0.01, 0.0),
        ("alive: change ratio", "change_std_ratio", 0.7, 1.31),
        ("stable to 24 h: drift", "drift", -0.29, -0.3),
        ("stable to 24 h: std ratio", "std_ratio", 1.2, 0.79),
        ("stable to 24 h: clipped share", "clipped_share", 0.0009, 0.001),
    ],
)
def test_every_bar_is_where_the_text_puts_it(name, key, good, bad):
    for value, passes in ((good, True), (bad, False)):
        lines, _ = judge({"T2M": {"1": {key: value}, "6": {key: value}, "24": {key: value}}})
        assert value_and_pass(lines[f"{name}, T2M"]) == (value, passes)


def test_the_value_of_several_leads_is_the_worst_and_the_note_says_where():
    by_lead = {"1": {"drift": 0.1, "std_ratio": 0.9}, "12": {"drift": -0.5, "std_ratio": 1.05}, "24": {"drift": 0.2}}
    by_lead["30"] = {"drift": 9.0}  # past 24 h
    lines, notes = judge({"T2M": by_lead})
    assert value_and_pass(lines["stable to 24 h: drift, T2M"]) == (-0.5, False)
    assert notes["stable to 24 h: drift, T2M"] == "12 h" and lines["stable to 24 h: std ratio, T2M"]["value"] == 0.9


def test_what_cannot_be_judged_is_neither_a_pass_nor_hidden():
    lines, notes = judge({"REFC": {"1": {"skill": math.nan, "drift": 0.1, "std_ratio": 1.0}}})
    assert value_and_pass(lines["1 h skill against persistence, REFC"]) == (None, None)
    assert value_and_pass(lines["stable to 24 h: drift, REFC"]) == (None, None)
    assert notes["stable to 24 h: drift, REFC"].startswith("no lead of 24 h; worst +0.1")
    assert "no such lead" in notes["sharp: power ratio, REFC"]
    text = certificate_text(*certificate({"REFC": {"1": {"drift": 0.1}}}))
    assert "n/a   stable to 24 h: drift, REFC: no lead of 24 h" in text
    assert text.endswith("certificate: 0 of 13 lines passed; 13 not available")


def test_sharpness_looks_at_every_band_above_five_cells_that_is_available():
    bands = {"2-5": 0.01, "5-10": 0.85, "10-20": 1.24, "20-67": None}
    entry = {"power_ratio": bands, "coherence": dict.fromkeys(bands, 0.5)}
    lines, notes = judge({"T2M": {"1": entry, "6": entry}})
    assert value_and_pass(lines["sharp: power ratio, T2M"]) == (1.24, True)  # 1.24 is further from 1 than 0.85: log
    assert notes["sharp: power ratio, T2M"] == "10-20 cells, coherence 0.50, 1 h; not available: 24 h (no such lead)"
    worse = entry | {"power_ratio": bands | {"5-10": 0.79}}
    assert judge({"T2M": {"1": entry, "6": worse}})[0]["sharp: power ratio, T2M"]["pass"] is False


def test_storms_are_compared_with_persistence_and_extrapolation_over_33_km():
    fss = lambda v: {"20": {"9": 0.0, "33": v}}  # noqa: E731
    entry = {"frequency_bias": {"30": 0.8}, "fss": fss(0.6), "persistence_fss": fss(0.5)}
    beside = {"fss_beside_extrapolation": fss(0.6), "extrapolation_fss": fss(0.7)}
    lines, _ = judge({"REFC": {k: entry | beside for k in "123456"}, "T2M": {"1": {}}})
    assert lines["storms: FSS above persistence, REFC"]["value"] == pytest.approx(0.1)
    assert value_and_pass(lines["storms: FSS above extrapolation, REFC"]) == (pytest.approx(-0.1), False)
    assert lines["storms: frequency bias at 30 dBZ, REFC"]["pass"] is True and not any(
        "storms" in n and "T2M" in n for n in lines
    )
    lines, _ = judge({"REFC": {k: entry for k in "123"}})
    assert value_and_pass(lines["storms: FSS above extrapolation, REFC"]) == (None, None)


def test_the_edge_band_is_judged_at_all_leads_only_with_boundary_data():
    scores = {"T2M": {"1": {"edge_rmse": 1.0, "interior_rmse": 1.0}, "2": {"edge_rmse": 2.0, "interior_rmse": 1.0}}}
    name = "no grid artefacts: edge / interior RMSE, T2M"
    assert value_and_pass(judge(scores)[0][name]) == (1.0, True)
    assert value_and_pass(judge(scores, "boundary.zarr")[0][name]) == (2.0, False)


def test_the_line_index_is_the_mean_of_the_three_nearest_leads():
    of = lambda v: {"line_index": {"2": v, "4": 0.0, "8": None, "16": None}}  # noqa: E731
    scores = {"T2M": {"1": of(0.9), "2": of(0.9), "3": of(0.9), "5": of(0.0), "6": of(3.0), "7": of(0.3)}}
    lines, notes = judge(scores)
    assert lines["no grid artefacts: line index, T2M"]["value"] == pytest.approx(1.1)  # (0 + 3 + 0.3) / 3 at 6 h
    assert notes["no grid artefacts: line index, T2M"].startswith("2 cells, around 6 h")


def test_timing_compares_with_the_better_neighbour_and_a_forecast_that_meets_it_exactly_fails():
    entry = {"timing_rmse": 1.0, "early_rmse": 2.0, "late_rmse": 4.0}
    name = "timing: RMSE / one step off, T2M"
    assert value_and_pass(judge({"T2M": {"1": entry}})[0][name]) == (0.5, True)
    assert value_and_pass(judge({"T2M": {"1": entry | {"early_rmse": 0.0}}})[0][name]) == (99.0, False)
    still = {"timing_rmse": 0.0, "early_rmse": 0.0, "late_rmse": 0.0}  # a field that does not change says nothing
    assert value_and_pass(judge({"T2M": {"1": still}})[0][name]) == (None, None)


def test_leads_of_other_steps():
    five = {f"{m / 60:g}": {} for m in range(5, 35, 5)}  # radar, half an hour
    assert lead_of(five, 1) == "0.0833333" and lead_of(five, 6) == "0.5" and lead_of(five, 24) is None
    assert lead_of({"0.5": {}, "1": {}, "6": {}}, 6) == "6"  # has hours
    assert lead_of({"3": {}, "6": {}, "24": {}}, 1) == "3" and lead_of({"3": {}, "6": {}, "24": {}}, 24) == "24"


def test_a_store_that_cannot_be_written_is_a_note(tmp_path):
    result = {"certificate": [{"value": np.nan}], "certificate_notes": {}, "init_times": []}
    assert write_certificate(str(tmp_path / "absent.zarr"), result).startswith("note: the certificate was not written")
    assert json.dumps([]) and not (tmp_path / "absent.zarr").exists()

"""Drawn cases of every kind that benchmarks/fuzz.py plays by the thousand; and it can tell good from bad."""

import json

import pytest

from benchmarks import fuzz
from benchmarks.fuzz_base import Kind
from data import dataset

CASES = {
    "pairs": 2,
    "planted": 3,
    "train": 1,
    "roll": 1,
    "scores": 3,
    "checkpoint": 6,
    "store_bytes": 3,
    "grib": 30,
    "split": 60,
    "constants": 10,
}


@pytest.mark.parametrize("kind", CASES)
def test_drawn_cases_end_as_they_must(kind):
    fuzz.prepare()
    player = fuzz.Player(60.0, None)
    fuzz.play_drawn(player, kind, fuzz.kind_of(kind), CASES[kind], 20240520)
    assert player.counts[kind].total() >= CASES[kind] // 2
    assert not player.failures, json.dumps(player.failures, indent=1)


def test_the_campaign_counts_a_broken_program_and_plays_it_again(command, tmp_path, monkeypatch):
    """Pairs one step too late: values come back at the wrong time."""
    file = tmp_path / "fuzz.json"
    original = dataset.Series.targets
    with monkeypatch.context() as broken:
        broken.setattr(dataset.Series, "targets", lambda s, t, steps: original(s, t - s.lead, steps))
        code, out, err = command(fuzz, "--cases", 6, "--kinds", "pairs", "--json", file)
        assert code == 1, out + err
        result = json.loads(file.read_text())
        assert result["failed"] == len(result["failures"]) > 0
        assert result["cases"] == sum(result["kinds"]["pairs"].get(k, 0) for k in OUTCOMES) >= 6
        assert "not those that were written" in result["failures"][0]["why"]
        assert command(fuzz, "--replay", file)[0] == 1
    code, out, err = command(fuzz, "--replay", file)
    assert code == 0, out + err


OUTCOMES = ("accepted", "refused", "wrong", "traceback", "hang")


def test_a_hang_is_counted_and_named(tmp_path):
    def forever(case, folder):
        while True:
            pass

    player = fuzz.Player(0.2, tmp_path / "running")
    player("pairs", Kind(None, forever, 1), {"number": 1})
    assert player.counts["pairs"] == {"hang": 1} and "Late" in player.failures[0]["why"]
    assert json.loads((tmp_path / "running").read_text()) == {"kind": "pairs", "case": {"number": 1}}


RECORD = {"start": "2023-12-31T21:35", "step": 5, "places": [4, 2, 3, 1, 0, 6], "lead_steps": 1, "history": 1,
          "unit": "days", "epoch": "1900-01-01", "time_dtype": "float64", "calendar": "standard", "dtype": "<f4",
          "names": ["t2m", "x1"], "height": 8, "width": 9, "format": 3, "consolidated": True, "chunks": [1, 8, 9],
          "dims": 0, "one_chunk_an_hour": True, "shards": False, "coordinates": "none", "extras": False,
          "fill": "none", "static": False}  # fmt: skip
GRIB = {"names": ["T2M"], "hours": 1, "lead": 0, "height": 8, "width": 9, "lambert": False, "bits": 8, "scanning": 0,
        "suffix": ".grib2", "spoil": None, "header": False, "order": False}  # fmt: skip
SCORES = {"ground": "wide", "steps": 1, "inits": [20], "bias": 0.0, "seed": 1}
FOUND = {  # what the campaign found: (kind, case, what must come of it)
    "times as fractions of days": ("pairs", RECORD, "accepted"),
    "GRIB on latitudes and longitudes": ("grib", GRIB, "accepted"),
    "and from south to north": ("grib", GRIB | {"scanning": 0x40}, "accepted"),
    "an infinite value in a forecast": ("scores", SCORES | {"hole": "inf"}, "refused"),
    "a perfect forecast": ("scores", SCORES | {"hole": ""}, "accepted"),
    "no step at all": ("constants", {"command": "infer", "given": {"hours": ["5e-324", "refused"]}}, "refused"),
    "a forecast beyond the calendar": ("constants", {"command": "infer", "given": {"hours": ["900000", "refused"]}},
                                       "refused"),
    "more starts than hours": ("constants", {"command": "infer", "given": {"test_starts": [str(10**30), "accepted"]}},
                               "accepted"),
    "the root as a forecast": ("constants", {"command": "infer", "given": {"out": ["/", "refused"]}}, "refused"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FOUND)
def test_what_the_campaign_found_stays_mended(fault, tmp_path):
    kind, case, expected = FOUND[fault]
    assert fuzz.kind_of(kind).play(case, tmp_path) == expected

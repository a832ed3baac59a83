"""verify_forecast.py on stores whose scores are known: fields whose value encodes their time."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import verify_forecast
from data.forecast_store import ForecastWriter
from data.grid import Grid
from tests.conftest import hour, small_grid, write_store
from verification import baselines
from verification.climate import estimate

SHAPE = (24, 28)
PATTERN = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
TEST_PART = {"split": {"test": ["2024-05-21T07", "2024-05-25T00"]}}
HOUR = np.timedelta64(1, "h")


def hours_since(time: np.datetime64) -> float:
    return float((time - hour(0)) / HOUR)


def truth(name: str, time: np.datetime64) -> np.ndarray:
    """T2M: one kelvin an hour on top of a pattern; REFC: a 45 dBZ storm moving a column an hour in -10 dBZ."""
    if name == "T2M":
        return 280 + hours_since(time) + PATTERN
    storm = np.full(SHAPE, -10, np.float32)
    storm[8:14, 2:8] = 45
    return np.roll(storm, int(hours_since(time)) % 20, axis=1)


def moving(name: str, time: np.datetime64) -> np.ndarray:
    """A pattern that moves two columns every five minutes; rain if the name is REFC."""
    steps = int((time - hour(0)) / np.timedelta64(5, "m"))
    field = np.roll(PATTERN, 2 * steps, axis=1)
    return np.where(field > 0.8, 42.0, 0.0) if name == "REFC" else 280 + field + 0.01 * steps


def write_forecast(path: Path, fields, inits, leads, names=("T2M",), grid: Grid | None = None, attributes=None) -> Path:
    """A forecast store; fields(name, init_time, lead_time) gives each field."""
    grid, lead_times = grid or small_grid(*SHAPE), np.array([np.timedelta64(round(n * 60), "m") for n in leads])
    with ForecastWriter(path, names, grid, np.array(inits), lead_times, attributes or TEST_PART) as store:
        for i, init in enumerate(inits):
            for j, lead in enumerate(lead_times):
                at = [np.broadcast_to(fields(n, init, lead), grid.shape) for n in names]
                store.write(i, j, np.stack(at), np.zeros(len(names)))
    return path


@pytest.fixture
def verify(tmp_path, command):
    """Write a forecast, score it, and give (exit code, printed, last error, contents of scores.json or None)."""

    def call(fields, inits=(30, 31), leads=(0, 1, 2, 24, 25), names=("T2M",), store=None, more=(), **keys):
        store = store or write_store(
            tmp_path / "truth.zarr", truth, [hour(n) for n in range(60) if n != 33], names, small_grid(*SHAPE)
        )
        forecast = write_forecast(tmp_path / "f.zarr", fields, [hour(n) for n in inits], leads, names, **keys)
        out = tmp_path / "new" / "scores.json"
        arguments = ("--forecast", forecast, "--zarr", store, "--out", out, "--figures", "False", *more)
        code, printed, errors = command(verify_forecast, *arguments)
        return code, printed, errors.splitlines()[-1] if code else "", json.loads(out.read_text()) if not code else None

    return call


@pytest.fixture
def verify_moving(verify, tmp_path):
    """Score make(name, valid time) against moving(): (printed, scores.json, {name of line: pass})."""

    def call(make, names, inits, minutes, truth=moving, step=60, grid=None, attributes=None):
        first, last = hour(min(inits)), hour(max(inits)) + np.timedelta64(max(minutes) + 2 * step, "m")
        times = np.arange(first - np.timedelta64(2 * step, "m"), last, np.timedelta64(step, "m"))
        grid = grid or small_grid(*SHAPE)
        store = write_store(tmp_path / "moving.zarr", truth, times, names, grid)
        fields = lambda n, init, lead: (make if lead else truth)(n, init + lead)  # noqa: E731
        leads = [m / 60 for m in minutes]
        attributes = attributes or {"source": "a test"}
        code, printed, error, result = verify(
            fields, inits, leads, names, store=store, grid=grid, attributes=attributes
        )
        assert code == 0, error
        return printed, result, {line["name"]: line["pass"] for line in result["certificate"]}

    return call


def perfect(name: str, init: np.datetime64, lead: np.timedelta64) -> np.ndarray:
    return truth(name, init + lead)


def test_a_constant_error_gives_the_scores_worked_by_hand(verify):
    # one kelvin too warm at every lead; persistence is wrong by the lead in hours, yesterday by 24 or 48 K
    code, printed, _, result = verify(lambda n, t, lead: truth(n, t + lead) + (lead > np.timedelta64(0, "ns")))
    scores = result["scores"]["T2M"]
    assert code == 0 and list(scores) == ["1", "2", "24", "25"]
    for lead, back in ((1, 24), (2, 24), (24, 24), (25, 48)):
        s = scores[str(lead)]
        assert s["rmse"] == pytest.approx(1, abs=1e-4) and s["bias"] == pytest.approx(1, abs=1e-4)
        assert s["persistence_rmse"] == pytest.approx(lead, abs=1e-4)
        assert s["skill"] == pytest.approx(1 - 1 / lead, abs=1e-4)
        assert s["std_ratio"] == pytest.approx(1, abs=1e-4)
        # pooled over cases: with two of them an hour apart, their means add 0.5 K of spread
        between = 0.5 if s["n_cases"] == 2 else 0.0
        assert s["drift"] == pytest.approx(1 / np.hypot(PATTERN.std(), between), rel=1e-3)
        assert s["power_ratio"]["2-5"] == pytest.approx(1, abs=1e-3) and s["power_ratio"]["20-67"] is None
        assert s["coherence"]["2-5"] == pytest.approx(1, abs=1e-3)
        assert s["yesterday_rmse"] == pytest.approx(back, abs=1e-4)
        assert s["best_skill"] == pytest.approx(min(1 - 1 / lead, 1 - 1 / back), abs=1e-4)
        assert s["best_baseline"] == ("yesterday" if lead == 25 and back < lead else "persistence")
    # hour 33 is missing from the truth: 31 + 2 is skipped, said and counted
    assert scores["1"]["n_cases"] == 2 and scores["2"]["n_cases"] == 1 and result["skipped_without_truth"] == 1
    assert "1 skipped: no analysis at that time" in printed
    drift = next(c for c in result["certificate"] if c["name"] == "stable: drift")
    assert drift["pass"] == "n/a" and "n/a        stable: drift" in printed  # no lead of 3, 6, 12 h


def test_climatology_is_the_mean_by_hour_of_day_of_the_training_hours_alone(verify, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(baselines, "estimate", lambda times, load: seen.extend(times) or estimate(times, load))
    split = {"train": [str(hour(5)), str(hour(8))], "test": [str(hour(9)), str(hour(40))]}
    _, printed, _, result = verify(perfect, (30,), (0, 1, 2), attributes={"split": split})
    assert seen == [hour(n) for n in (5, 6, 7, 8)] and "climatology: mean by hour of day over 1 days" in printed
    # valid at 07 UTC of the second day, 280 + 31: hours 6, 7, 8 with weights 1 2 1 are 280 + 7 in the mean
    entry = result["scores"]["T2M"]["1"]
    assert entry["climatology_rmse"] == pytest.approx(24, abs=1e-3) and entry["skill_climatology"] == 1
    # valid at 08 UTC: hour 9 was never seen, so hours 7 and 8 with weights 1 2 are 280 + 7.667
    assert result["scores"]["T2M"]["2"]["climatology_rmse"] == pytest.approx(32 - 23 / 3, abs=1e-3)
    unseen = verify(perfect, (31,), (0, 25), attributes={"split": split})[3]["scores"]["T2M"]["25"]  # 08 UTC is seen
    assert unseen["n_cases_climatology"] == 1
    named = verify(perfect, (30,), (0, 1), attributes={"split": {}}, more=("--climate", tmp_path / "truth.zarr"))
    assert "over 2 days" in named[1], "without a training part, the hours before the first forecast"
    never = verify(perfect, (32,), (0, 2), attributes={"split": split})[3]["scores"]["T2M"]["2"]  # 10 UTC is not
    assert never["n_cases_climatology"] == 0 and never["climatology_rmse"] is None


@pytest.mark.parametrize(("days", "expected"), [(15, 7.0), (14, 7.25)])
def test_climatology_is_smoothed_over_the_hours_beside_only_with_few_days(days, expected):
    times = hour(0) + np.arange(24 * days) * HOUR
    of_day = lambda t: hours_since(t) % 24  # noqa: E731
    climatology = estimate(times, lambda t: {"T2M": np.full((2, 2), of_day(t) + (of_day(t) == 8))})
    assert climatology.days == days and climatology.at("T2M", hour(7)) == pytest.approx(np.full((2, 2), expected))


def test_initial_times_outside_the_test_part_are_labelled(verify):
    _, printed, _, result = verify(perfect)
    assert result["outside_test"] == ["2024-05-21T06:00"] and "outside test" in printed
    attributes = {"split": {"test": ["2024-05-21T01", "2024-05-21T06"]}}  # 06 is its last hour, 07 and 23 come later
    _, printed, _, result = verify(perfect, inits=(30, 31, 47), attributes=attributes)
    assert len(result["init_times"]) == 3 and result["outside_test"] == [] and "outside test" not in printed
    _, printed, _, result = verify(perfect, attributes={"split": {}})
    assert result["outside_test"] == result["init_times"] and "outside test (not known): 2" in printed


def test_variables_whose_validation_skill_is_not_shown_are_named(verify, tmp_path):
    records = [
        {"epoch": 5, "score": 0.9, "skill": {"T2M": 0.5}},
        {"epoch": 10, "score": 0.2, "skill": {"T2M": -0.1, "U10": -0.2}, "own_forecasts": True},  # that of best.pt
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    _, printed, _, result = verify(perfect)
    assert printed.count("warning: T2M: validation skill not shown; treat its forecast as persistence") == 1
    assert result["validation_skill_not_shown"] == ["T2M"]
    (tmp_path / "log.jsonl").unlink()
    assert "warning" not in verify(perfect)[1]


def test_a_perfect_forecast_of_reflectivity_is_scored_above_the_floor(verify):
    fields = lambda n, t, lead: np.maximum(truth(n, t + lead), 0)  # noqa: E731
    _, printed, _, result = verify(fields, leads=(0, 1), names=("REFC",))
    s = result["scores"]["REFC"]["1"]
    assert s["rmse"] == 0 and s["csi"]["40"] == s["frequency_bias"]["20"] == s["fss"]["40"]["9"] == 1
    # persistence: the 6 x 6 storm one column behind: 30 cells shared of 42
    assert s["persistence_csi"]["30"] == pytest.approx(30 / 42) and 0 < s["persistence_fss"]["40"]["9"] < 1
    assert list(s["fss"]["40"]) == ["9"] and "at least 40" in printed and "1 (0.714)" in printed
    assert max(map(len, printed.partition("  lead")[2].partition("wrote")[0].splitlines())) <= 110


def test_masked_cells_are_left_out_and_any_other_missing_cell_is_refused(verify, tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[:, :3] = True
    masked = lambda n, time: np.where(mask, np.nan, truth(n, time))  # noqa: E731
    grid = small_grid(*SHAPE)
    store = write_store(tmp_path / "m.zarr", masked, [hour(n) for n in range(60)], ("T2M",), grid)
    _, _, _, result = verify(lambda n, t, lead: masked(n, t + lead) + 2, leads=(0, 1), store=store)
    assert result["scores"]["T2M"]["1"]["rmse"] == pytest.approx(2, abs=1e-4)
    assert result["scores"]["T2M"]["1"]["power_ratio"]["2-5"] is None
    code, _, error, _ = verify(perfect, leads=(0, 1), store=store)
    assert code == 2 and "T2M, initial time 2024-05-21T06:00, valid 2024-05-21T07:00" in error and "72 cells" in error
    code, _, error, _ = verify(lambda n, t, lead: truth(n, t + lead) + (np.inf if lead else 0), leads=(0, 1))
    assert code == 2 and "forecast has 672 infinite values" in error and "valid 2024-05-21T07:00" in error


# ---- stores that lack something: nothing crashes and what is not available says why


def test_radar_of_five_minutes_is_judged_in_steps(verify_moving):
    """Half an hour of one variable without latitude, longitude or any attribute."""
    near = lambda n, t: np.maximum(moving(n, t) + 0.01 * PATTERN, 0)  # noqa: E731
    printed, result, lines = verify_moving(near, ("REFC",), (6, 6.5), range(0, 35, 5), step=5, grid=Grid(SHAPE))
    assert "no coordinates" in printed and list(result["scores"]["REFC"])[-1] == "0.5"
    skill = "skill over the best baseline at 1 h"
    assert lines[skill] == "UNDECIDED", "one day decides nothing"
    assert result["certificate_notes"][skill] == "REFC, 5 min"
    assert lines["stable: drift"] == "n/a"  # 12 steps are within the hour that can be known
    assert result["scores"]["REFC"]["0.0833333"]["n_cases_extrapolation"] == 2
    # an hour of it and more has a lead of 1 h: hours count
    _, result, _ = verify_moving(near, ("REFC",), (6,), range(0, 70, 5), step=5, grid=Grid(SHAPE))
    assert result["certificate_notes"][skill] == "REFC, 1 h"


def test_one_dry_hour(verify_moving):
    dry = lambda n, t: np.zeros(SHAPE)  # noqa: E731
    printed, result, lines = verify_moving(dry, ("REFC",), (6,), (0, 60), truth=dry)
    entry = result["scores"]["REFC"]["1"]
    assert entry["rmse"] == 0 and entry["skill"] is entry["best_skill"] is None and entry["fss"]["20"]["9"] is None
    assert entry["skill_interval"] is None and entry["frequency_bias"]["30"] is None
    for name in (
        "sharp: power ratio of waves of 5 cells and more",
        "storms: FSS above persistence",
        "alive: change ratio",
    ):
        assert lines[name] == "n/a" and f"n/a        {name} (" in printed


def test_baselines_that_are_not_available_are_said(verify_moving):
    printed, result, _ = verify_moving(moving, ("REFC", "T2M"), (6,), (0, 60))
    assert "climatology: not available" in printed and result["scores"]["T2M"]["1"]["skill_climatology"] is None
    # the truth store has the two hours before 4 but not the field 3 h before
    printed, _, lines = verify_moving(moving, ("REFC",), (4,), (0, 60), attributes={"lead": "3h"})
    assert "extrapolation: not available for 1 of 1" in printed
    assert lines["storms: FSS above extrapolation"] == "n/a"


def test_the_strip_that_boundary_data_gave_is_left_out_and_said(verify_moving):
    edge = np.pad(np.zeros((22, 26)), 1, constant_values=9.0)
    wrong = lambda n, t: moving(n, t) + edge  # noqa: E731
    printed, result, _ = verify_moving(wrong, ("T2M",), (6,), (0, 60), attributes={"split": {}})
    assert result["scores"]["T2M"]["1"]["rmse"] > 1 and result["known_hours"] == 1 and "left out" not in printed
    for attributes in ({"boundary": "host.zarr"}, {"boundary": "host.zarr", "boundary_width": 1}):
        printed, result, _ = verify_moving(wrong, ("T2M",), (6,), (0, 60), attributes=attributes)
        assert result["scores"]["T2M"]["1"]["rmse"] == 0 and result["boundary_width"] == 1
        assert "scores exclude the 1 outermost rows and columns, which the boundary data drew" in printed
        assert result["known_hours"] == 24
    with pytest.raises(AssertionError, match="boundary_width: got 99, expected cells, under half of 24"):
        verify_moving(wrong, ("T2M",), (6,), (0, 60), attributes={"boundary": "host.zarr", "boundary_width": 99})


def test_scoring_again_keeps_the_store_whole(verify_moving, tmp_path):
    verify_moving(moving, ("T2M",), (6,), (0, 60))
    paths = [str(tmp_path / n) for n in ("f.zarr", "moving.zarr", "s.json")]
    before = xr.open_zarr(paths[0]).load()
    verify_forecast.main(verify_forecast.Config(*paths, figures=False))
    assert before.identical(xr.open_zarr(paths[0]).load())


def test_a_store_that_cannot_be_written_is_a_note(tmp_path):
    result = {"certificate": [], "certificate_notes": {}, "init_times": []}
    written = verify_forecast.write_certificate(str(tmp_path / "absent.zarr"), result)
    assert written.startswith("note: the certificate was not written") and not (tmp_path / "absent.zarr").exists()

"""verify_forecast.py on stores whose scores are known: fields whose value encodes their time."""

import json
from pathlib import Path

import numpy as np
import pytest

import verify_forecast
from data.forecast_store import ForecastWriter
from data.grid import Grid
from tests.conftest import SEVEN, hour, small_grid, weather, write_store

SHAPE = (24, 28)
PATTERN = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
TEST_PART = {"split": {"test": ["2024-05-21T07", "2024-05-25T00"]}}


def hours_since(time: np.datetime64) -> float:
    return float((time - hour(0)) / np.timedelta64(1, "h"))


def truth(name: str, time: np.datetime64) -> np.ndarray:
    """T2M: one kelvin an hour on top of a pattern; REFC: a 45 dBZ storm moving a column an hour in -10 dBZ."""
    if name == "T2M":
        return 280 + hours_since(time) + PATTERN
    storm = np.full(SHAPE, -10, np.float32)
    storm[8:14, 2:8] = 45
    return np.roll(storm, int(hours_since(time)) % 20, axis=1)


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
    """Write a forecast, score it, and give (exit code, printed, errors, contents of scores.json or None)."""

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
        assert s["yesterday_rmse"] == pytest.approx(back, abs=1e-4)
    # hour 33 is missing from the truth: 31 + 2 is skipped, said and counted
    assert scores["1"]["n_cases"] == 2 and scores["2"]["n_cases"] == 1 and result["skipped_without_truth"] == 1
    assert "1 skipped for want of truth" in printed
    drift = next(c for c in result["certificate"] if c["name"] == "stable to 24 h: drift, T2M")
    assert drift["pass"] is False and "FAIL  stable to 24 h: drift, T2M" in printed


def test_initial_times_outside_the_test_part_are_labelled(verify):
    _, printed, _, result = verify(lambda n, t, lead: truth(n, t + lead))
    assert result["outside_test"] == ["2024-05-21T06:00"] and "outside test" in printed


def test_initial_times_after_the_test_part_are_as_unseen_as_it(verify):
    attributes = {"split": {"test": ["2024-05-21T01", "2024-05-21T06"]}}  # 06 is its last hour, 07 and 23 come later
    _, printed, _, result = verify(lambda n, t, lead: truth(n, t + lead), inits=(30, 31, 47), attributes=attributes)
    assert len(result["init_times"]) == 3 and result["outside_test"] == [] and "outside test" not in printed


def test_without_a_known_split_every_initial_time_is_labelled(verify):
    _, printed, _, result = verify(lambda n, t, lead: truth(n, t + lead), attributes={"split": {}})
    assert result["outside_test"] == result["init_times"] and "outside test (not known): 2" in printed


def test_a_perfect_forecast_of_reflectivity_is_scored_above_the_floor(verify):
    fields = lambda n, t, lead: np.maximum(truth(n, t + lead), 0)  # noqa: E731
    _, printed, _, result = verify(fields, leads=(0, 1), names=("REFC",))
    s = result["scores"]["REFC"]["1"]
    assert s["rmse"] == 0 and s["csi"]["40"] == s["frequency_bias"]["20"] == s["fss"]["40"]["9"] == 1
    # persistence: the 6 x 6 storm one column behind: 30 cells shared of 42
    assert s["persistence_csi"]["30"] == pytest.approx(30 / 42) and 0 < s["persistence_fss"]["40"]["9"] < 1
    assert result["fss_windows_km"]["REFC"] == [9.0] and "at least 40" in printed


def test_masked_cells_are_left_out_and_any_other_missing_cell_is_refused(verify, tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[:, :3] = True
    masked = lambda n, time: np.where(mask, np.nan, truth(n, time))  # noqa: E731
    grid = small_grid(*SHAPE)
    store = write_store(tmp_path / "m.zarr", masked, [hour(n) for n in range(60)], ("T2M",), grid)
    _, _, _, result = verify(lambda n, t, lead: masked(n, t + lead) + 2, leads=(0, 1), store=store)
    assert result["scores"]["T2M"]["1"]["rmse"] == pytest.approx(2, abs=1e-4)
    assert result["scores"]["T2M"]["1"]["power_ratio"]["2-5"] is None
    code, _, error, _ = verify(lambda n, t, lead: truth(n, t + lead), leads=(0, 1), store=store)
    assert code == 2 and "T2M, initial time 2024-05-21T06:00, valid 2024-05-21T07:00" in error and "72 cells" in error


def test_leads_of_half_an_hour_are_found_by_timestamp(verify, tmp_path):
    times = [hour(n / 2) for n in range(120)]
    store = write_store(tmp_path / "half.zarr", truth, times, ("T2M",), small_grid(*SHAPE))
    _, _, _, result = verify(lambda n, t, lead: truth(n, t + lead) + 3, leads=(0, 0.5, 1), store=store)
    assert result["scores"]["T2M"]["0.5"]["rmse"] == pytest.approx(3, abs=1e-4)


def test_mistakes_are_one_line_with_the_fix_and_write_nothing(verify, tmp_path, command):
    perfect = lambda n, t, lead: truth(n, t + lead)  # noqa: E731
    assert "no valid time" in verify(perfect, inits=(900,))[2]
    other = small_grid(*SHAPE)
    other.latitude = other.latitude + 1
    assert "other latitudes" in verify(perfect, grid=other)[2]
    assert "Nearest: T2M" in verify(perfect, more=("--variables", "T2N"))[2]
    store, out = tmp_path / "truth.zarr", tmp_path / "nothing" / "scores.json"
    for forecast, words in ((tmp_path / "absent.zarr", "no such forecast"), (store, "a training store")):
        code, _, error = command(verify_forecast, "--forecast", forecast, "--zarr", store, "--out", out)
        assert code == 2 and words in error and "Fix:" in error and error.count("\n") == 1
    assert not out.parent.exists() and not (tmp_path / "new").exists()


def test_the_figures_stand_beside_the_scores(seven_store, tmp_path, command):
    from data.store import Store

    forecast = write_forecast(
        tmp_path / "f.zarr", lambda n, t, lead: np.maximum(weather(n, t + lead), 0 if n == "REFC" else -1e9),
        [hour(30)], (0, 1, 6), SEVEN, Store(seven_store).grid,
    )  # fmt: skip
    out = tmp_path / "scores.json"
    code, printed, _ = command(verify_forecast, "--forecast", forecast, "--zarr", seven_store, "--out", out)
    assert code == 0 and max(map(len, printed.partition("  lead")[2].partition("wrote")[0].splitlines())) <= 100
    for name in ("skill_by_lead", "spectra", "maps_REFC", "maps_T2M"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000 and f"{name}.png" in printed

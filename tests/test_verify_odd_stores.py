"""verify_forecast.py on stores that lack something: nothing crashes and what is not available says why."""

import json

import numpy as np
import pytest
import xarray as xr

import verify_forecast
from data.forecast_store import ForecastWriter
from data.grid import Grid
from tests.conftest import hour, small_grid, write_store
from verification import references
from verification.climate import estimate

SHAPE = (24, 28)
PATTERN = np.random.default_rng(0).normal(size=SHAPE)


def moving(name: str, time: np.datetime64) -> np.ndarray:
    """A pattern that moves two columns a step of five minutes; rain where the name is REFC."""
    steps = int((time - hour(0)) / np.timedelta64(5, "m"))
    field = np.roll(PATTERN, 2 * steps, axis=1)
    return np.where(field > 0.8, 42.0, 0.0) if name == "REFC" else 280 + field + 0.01 * steps


@pytest.fixture
def verify(tmp_path, command):
    """Score a forecast of `make(name, valid time)`: (printed text, scores.json, certificate by name)."""

    def call(make, names, inits, minutes, truth=moving, step=60, grid=None, attributes=None, figures=True):
        grid = grid or small_grid(*SHAPE)
        leads = np.array([np.timedelta64(m, "m") for m in minutes])
        inits = [hour(n) for n in inits]
        last = max(inits) + leads.max() + np.timedelta64(step, "m")
        times = np.arange(min(inits) - np.timedelta64(2 * step, "m"), last, np.timedelta64(step, "m"))
        store = write_store(tmp_path / "truth.zarr", truth, times, names, grid)
        with ForecastWriter(tmp_path / "f.zarr", names, grid, np.array(inits), leads, attributes or {}) as out:
            for i, init in enumerate(inits):
                for j, lead in enumerate(leads):
                    fields = [make(n, init + lead) if j else truth(n, init) for n in names]
                    out.write(i, j, np.stack([np.broadcast_to(f, SHAPE) for f in fields]), np.zeros(len(names)))
        arguments = ("--forecast", tmp_path / "f.zarr", "--zarr", store, "--out", tmp_path / "out" / "scores.json")
        code, printed, errors = command(verify_forecast, *arguments, "--figures", figures)
        assert code == 0, errors
        result = json.loads((tmp_path / "out" / "scores.json").read_text())
        return printed, result, {line["name"]: line for line in result["certificate"]}

    return call


def test_radar_of_five_minutes_is_judged_in_steps(verify):
    """Half an hour of one variable without latitude, longitude or any attribute."""
    near = lambda n, t: np.maximum(moving(n, t) + 0.01 * PATTERN, 0)  # noqa: E731
    minutes = range(0, 35, 5)
    printed, result, lines = verify(near, ("REFC",), (6, 6.5), minutes, step=5, grid=Grid(SHAPE))
    assert "no coordinates" in printed and list(result["scores"]["REFC"])[-1] == "0.5"
    assert lines["1 h skill against persistence, REFC"]["pass"] is True
    assert lines["timing: RMSE / one step off, REFC"]["pass"] is True
    assert result["certificate_notes"]["1 h skill against persistence, REFC"] == "5 min"
    assert lines["1 h normalised RMSE, REFC"]["pass"] is None  # the forecast holds no statistics
    assert lines["stable to 24 h: drift, REFC"]["pass"] is None
    assert result["scores"]["REFC"]["0.0833333"]["n_cases_extrapolation"] == 2
    # two hours of it have a lead of 1 h: hours count
    _, result, _ = verify(near, ("REFC",), (6,), range(0, 70, 5), step=5, grid=Grid(SHAPE), figures=False)
    assert result["certificate_notes"]["1 h skill against persistence, REFC"] == "1 h"


def test_one_dry_hour(verify):
    dry = lambda n, t: np.zeros(SHAPE)  # noqa: E731
    printed, result, lines = verify(dry, ("REFC",), (6,), (0, 60), truth=dry)
    entry = result["scores"]["REFC"]["1"]
    assert entry["rmse"] == 0 and entry["skill"] is None and entry["fss"]["20"]["9"] is None
    assert entry["skill_interval"] is None and entry["frequency_bias"]["30"] is None
    for name in ("sharp: power ratio", "storms: FSS above persistence", "alive: change ratio"):
        assert lines[f"{name}, REFC"]["pass"] is None and f"n/a   {name}, REFC" in printed


def test_masked_cells_leave_spectra_out_and_say_so(verify):
    masked = lambda n, t: np.where(np.arange(28) < 3, np.nan, moving(n, t))  # noqa: E731
    _, result, lines = verify(masked, ("REFC", "T2M"), (6,), (0, 60, 120, 180), truth=masked, figures=False)
    for name in ("sharp: power ratio", "no grid artefacts: line index"):
        assert lines[f"{name}, T2M"]["pass"] is None and "masked" in result["certificate_notes"][f"{name}, T2M"]
    entry = result["scores"]["REFC"]["1"]
    assert entry["objects"]["truth"]["matched_share"] == 1 and entry["n_cases_extrapolation"] == 1
    assert lines["timing: RMSE / one step off, T2M"]["pass"] is True


def test_baselines_that_are_not_available_are_said(verify):
    printed, result, _ = verify(moving, ("REFC", "T2M"), (6,), (0, 60), figures=False)
    assert "damped persistence: not available" in printed and result["scores"]["T2M"]["1"]["skill_damped"] is None
    # the truth store has the two hours before 6 but not those before 4
    printed, result, lines = verify(moving, ("REFC",), (4,), (0, 60), figures=False, attributes={"lead": "3h"})
    assert "extrapolation: not available for 1 of 1" in printed
    assert lines["storms: FSS above extrapolation, REFC"]["pass"] is None


def test_damped_persistence_knows_training_hours_only(verify, monkeypatch):
    seen = []
    monkeypatch.setattr(references, "estimate", lambda times, *a: seen.extend(times) or estimate(times, *a))
    split = {"train": [str(hour(5)), str(hour(8))], "test": [str(hour(9)), str(hour(40))]}
    printed, result, _ = verify(moving, ("T2M",), (6, 12), (0, 60), figures=False, attributes={"split": split})
    assert seen == [hour(n) for n in (5, 6, 7, 8)] and "4 training hours" in printed
    assert result["scores"]["T2M"]["1"]["damped_rmse"] > 0


def test_boundary_data_bring_all_leads_to_the_edge_line(verify):
    edge = np.pad(np.zeros((22, 26)), 1, constant_values=9.0)
    late = lambda n, t: moving(n, t) + (edge if t > hour(7.5) else 0.1 * PATTERN)  # noqa: E731
    name = "no grid artefacts: edge / interior RMSE, T2M"
    assert verify(late, ("T2M",), (6,), (0, 60, 120), figures=False)[2][name]["pass"] is True
    held = verify(late, ("T2M",), (6,), (0, 60, 120), figures=False, attributes={"boundary": "other.zarr"})
    assert held[2][name]["pass"] is False and held[1]["certificate_notes"][name] == "2 h"


def test_scoring_again_keeps_the_store_whole(verify, tmp_path):
    verify(moving, ("T2M",), (6,), (0, 60), figures=False)
    before = xr.open_zarr(tmp_path / "f.zarr").load()
    verify_forecast.main(
        verify_forecast.Config(
            str(tmp_path / "f.zarr"), str(tmp_path / "truth.zarr"), str(tmp_path / "s.json"), figures=False
        )
    )
    assert before.identical(xr.open_zarr(tmp_path / "f.zarr").load())

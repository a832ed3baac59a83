"""The path a user takes, on synthetic storms: store, training, forecast, scores, figures; and the shell scripts."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import xarray as xr

import infer_iterative
import verify_forecast
from data import synthetic_storms
from tests.conftest import PROJECT, SEVEN
from tests.model_files import train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    synthetic_storms.main(synthetic_storms.Config(out=str(folder / "store.zarr"), hours=130, size=24))
    store, out = str(folder / "store.zarr"), str(folder / "forecast.zarr")
    assert train(store, folder, figure=True, epochs=2, gap="6h") == 0
    cfg = infer_iterative.Config(str(folder / "best.pt"), store, ["test"], 4.0, test_starts=5, out=out)
    infer_iterative.main(cfg)
    verify_forecast.main(verify_forecast.Config(out, store, str(folder / "scores.json")))
    return folder


def test_every_promised_file_is_there(run_dir):
    names = {p.name for p in run_dir.iterdir()}
    assert {"store.zarr", "last.pt", "best.pt", "log.jsonl", "loss_curves.png", "forecast.zarr", "scores.json",
            "skill_by_lead.png", "spectra.png", "maps_REFC.png", "maps_T2M.png"} <= names  # fmt: skip
    assert not [n for n in names if "partial" in n or "tmp" in n]


def test_the_scores_are_of_test_hours_and_of_every_variable_and_lead(run_dir):
    scores = json.loads((run_dir / "scores.json").read_text())
    assert set(scores["scores"]) == set(SEVEN)
    assert list(scores["scores"]["T2M"]) == ["1", "2", "3", "4"]
    assert len(scores["init_times"]) == 5 and scores["outside_test"] == []
    first, last = scores["split"]["test"]
    assert all(first <= t <= last for t in scores["init_times"])
    for entry in scores["scores"]["REFC"].values():
        assert {"rmse", "persistence_rmse", "bias", "skill", "csi", "fss"} <= set(entry)
    assert all({"name", "value", "interval", "bar", "pass"} <= set(line) for line in scores["certificate"])


def test_persistence_in_the_scores_is_that_of_the_store(run_dir):
    """Recomputed from the two stores with nothing but xarray."""
    truth, forecast = xr.open_zarr(run_dir / "store.zarr"), xr.open_zarr(run_dir / "forecast.zarr")
    scores = json.loads((run_dir / "scores.json").read_text())["scores"]["T2M"]["3"]
    inits = forecast.init_time.values
    later = truth.T2M.sel(time=inits + forecast.lead_time.values[3]).values

    def rmse(fields) -> float:
        return float(((fields - later) ** 2).mean() ** 0.5)

    assert scores["persistence_rmse"] == pytest.approx(rmse(truth.T2M.sel(time=inits).values), rel=1e-4)
    assert scores["rmse"] == pytest.approx(rmse(forecast.T2M[:, 3].values), rel=1e-4)


def script(*arguments, cwd=PROJECT, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_without_a_store_the_script_says_how_to_get_one_and_exits_2(tmp_path):
    done = script("./train_optimized.sh", str(tmp_path / "none.zarr"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error:") and len(done.stderr.splitlines()) == 1
    assert "build_hrrr" in done.stderr and "demo" in done.stderr
    done = script("./train_optimized.sh", "--help")
    assert done.returncode == 0 and "demo" in done.stdout and "PYTHON=" in done.stdout


def test_an_unfit_interpreter_is_refused(tmp_path):
    """A copy of the script in a folder without .venv, given a program that is no Python."""
    (tmp_path / "train_optimized.sh").write_text((PROJECT / "train_optimized.sh").read_text())
    done = script("bash", "train_optimized.sh", "setup", cwd=tmp_path, PYTHON="/bin/false")
    assert done.returncode == 2 and "3.11 to 3.13" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / ".venv").exists()

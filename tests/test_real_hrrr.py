"""Real HRRR hours over Idaho, from GRIB2 files to scores, by the commands of the README."""

import json

import pytest

import infer_iterative
import train_deterministic
import verify_forecast
from data import build_hrrr, check_store
from data.store import Store
from tests.conftest import REAL

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("idaho")
    store = str(folder / "idaho.zarr")
    build_hrrr.main(build_hrrr.Config(source="grib", path=str(REAL / "hrrr_grib"), out=store))
    cfg = train_deterministic.Config(
        zarr=store, run_dir=str(folder), train_end="2018-07-22T22", val_end="2018-07-23T05", epochs=12, batch_size=4,
        accumulate=1, base_features=8, validate_every=6, rollout_hours=3.0,
    )  # fmt: skip
    assert train_deterministic.main(cfg) == 0
    return folder


def test_the_store_holds_the_41_hours_and_is_sound(run_dir, command):
    store = Store(run_dir / "idaho.zarr")
    assert len(store.times) == 41 and sorted(store.names) == ["CAPE", "CIN", "D2M", "T2M", "U10", "V10"]
    assert set(store.grid.static) == {"orography", "land_sea_mask"}
    assert (store.dataset["forecast_hour"] == 1).all()
    code, out, _ = command(check_store, run_dir / "idaho.zarr")
    assert code == 0 and "sound" in out


def test_the_last_ten_hours_are_the_test(run_dir):
    split = json.loads((run_dir / "log.jsonl").read_text().splitlines()[-1])["split"]
    assert (
        split["test"] == ["2018-07-23T08:00", "2018-07-23T17:00"] and split["pairs"]["test"] == 8
    )  # from 09: the model looks back an hour


def test_temperature_beats_persistence_on_the_test_hours(run_dir):
    out, store = str(run_dir / "hour.zarr"), str(run_dir / "idaho.zarr")
    infer_iterative.main(infer_iterative.Config(str(run_dir / "best.pt"), store, ["test"], 1.0, 24, out=out))
    verify_forecast.main(verify_forecast.Config(out, store, str(run_dir / "hour.json"), figures=False))
    scores = json.loads((run_dir / "hour.json").read_text())
    assert len(scores["init_times"]) == 8 and scores["outside_test"] == []
    assert scores["scores"]["T2M"]["1"]["n_cases"] == 8
    assert scores["scores"]["T2M"]["1"]["skill"] > 0.1

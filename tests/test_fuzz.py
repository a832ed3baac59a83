"""Random cases of every kind end as they must, and the benchmark can tell good from bad."""

import json
import signal

import numpy as np
import pytest
import zarr

from benchmarks import fuzz, fuzz_cases
from data.store import Store

CASES = {"stores": 2, "constants": 4, "planted": 3, "training": 1, "roll_out": 1, "checkpoint": 6, "store_bytes": 3,
         "flips": 20, "grib": 12}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_random_cases_end_as_they_must(kind):
    signal.signal(signal.SIGALRM, fuzz.raise_hang)
    results = [fuzz.play(kind, number, 20240520, 60.0) for number in range(CASES[kind])]
    assert not [reason for _, reason in results if reason]


def test_a_broken_program_is_counted_and_repeated_by_its_number(command, tmp_path, monkeypatch):
    file, load = tmp_path / "fuzz.json", Store.load
    monkeypatch.setattr(Store, "load", lambda store, time, names: load(store, time, names) + 1)
    code, out, err = command(fuzz, "--cases", 3, "--kinds", "stores", "--json", file)
    assert code == 1, out + err
    result = json.loads(file.read_text())
    assert result["cases"] == 3 and result["failed"] == len(result["failures"]) > 0
    failure = result["failures"][0]
    assert failure["result"] == "wrong" and "is not what was written" in failure["reason"]
    repeat = ("--kinds", "stores", "--first", failure["number"], "--cases", 1)
    assert command(fuzz, *repeat)[0] == 1
    monkeypatch.undo()
    assert not fuzz.play("stores", failure["number"], 0, 60.0)[1]


def test_a_hang_and_a_traceback_are_counted(monkeypatch):
    signal.signal(signal.SIGALRM, fuzz.raise_hang)

    def forever(rng, folder):
        while True:
            pass

    monkeypatch.setitem(fuzz.CASES, "grib", forever)
    assert fuzz.play("grib", 0, 0, 0.2)[0] == "hang"
    monkeypatch.setitem(fuzz.CASES, "grib", lambda rng, folder: 1 / 0)
    assert fuzz.play("grib", 0, 0, 60.0)[0] == "traceback"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"hours": 5e-324}, 2),
        ({"hours": 900000}, 2),
        ({"init_time": "test", "test_starts": 10**30}, 0),
        ({"out": "/"}, 2),
    ],
)
def test_what_the_benchmark_found_stays_mended(given, code, tmp_path):
    assert fuzz_cases.infer(tmp_path, **fuzz_cases.sound_forecast() | given)[0] == code


def test_a_forecast_that_is_infinite_in_one_cell_is_not_scored(tmp_path):
    fuzz_cases.infer(tmp_path, **fuzz_cases.sound_forecast())
    zarr.open_group(tmp_path / "f.zarr", mode="r+")["T2M"][0, 1, 3, 3] = np.inf
    constants = {"forecast": tmp_path / "f.zarr", "zarr": fuzz_cases.ground() / "store.zarr", "figures": False}
    code, _ = fuzz_cases.command(fuzz_cases.verify_forecast, constants | {"out": tmp_path / "s.json"})
    assert code == 2 and not (tmp_path / "s.json").exists()

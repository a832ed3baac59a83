"""Forecasts whose writing is interrupted: killed, the disk full, two at once. Never half a forecast."""

import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

import infer_iterative as inference
import verify_forecast as verification
from data.forecast_store import ForecastWriter
from tests.conftest import PROJECT, hour, small_grid, weather, write_store
from tests.model_files import write_checkpoint
from tests.test_bad_input import contents
from training.checkpoint import load_checkpoint, save_checkpoint

NAMES = ("T2M", "U10")
LEADS = np.arange(4) * np.timedelta64(1, "h")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    store = write_store(folder / "store.zarr", weather, [hour(n) for n in range(40)], NAMES)
    write_checkpoint(folder / "best.pt", store, list(NAMES))
    return folder


@pytest.fixture
def infer(command, run, tmp_path):
    def call(*options):
        return command(inference, "--checkpoint", run / "best.pt", "--zarr", run / "store.zarr", "--out",
                       tmp_path / "f.zarr", "--init_time", hour(34), "--hours", 3, *options)  # fmt: skip

    return call


def verified(command, run, path, out) -> tuple:
    return command(verification, "--forecast", path, "--zarr", run / "store.zarr", "--out", out, "--figures", "False")


def killed(code: str, *arguments) -> None:
    """Run Python code in another process that must end by SIGKILL."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], cwd=PROJECT, timeout=120)
    assert done.returncode == -signal.SIGKILL


KILL_WHILE_WRITING = """
    import os, sys
    import infer_iterative, data.forecast_store as store
    write = store.ForecastWriter.write

    def last(self, init, lead, *rest):
        write(self, init, lead, *rest)
        if lead == 2:
            os.kill(os.getpid(), 9)

    store.ForecastWriter.write = last
    run, out = sys.argv[1:]
    infer_iterative.main(infer_iterative.Config(f"{run}/best.pt", f"{run}/store.zarr", ["2024-05-21T10"], 3.0, out=out))
"""


def test_a_forecast_that_is_killed_is_no_forecast_and_the_same_command_makes_it(infer, command, run, tmp_path):
    path = tmp_path / "f.zarr"
    killed(KILL_WHILE_WRITING, run, path)
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr.partial"]
    assert verified(command, run, path, tmp_path / "s.json")[0] == 2
    begun = tmp_path / "f.zarr.partial" / "store"  # two of three hours
    code, _, err = verified(command, run, begun, tmp_path / "s.json")
    assert code == 2 and "missing in only one" in err
    assert infer()[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]
    assert verified(command, run, path, tmp_path / "s.json")[0] == 0


def test_an_older_forecast_outlives_a_kill_at_the_worst_moment(infer, tmp_path):
    path = tmp_path / "f.zarr"
    assert infer()[0] == 0
    before = contents(path)
    path.rename(tmp_path / "f.zarr.old")  # between the two renames that replace it
    with pytest.raises(RuntimeError), ForecastWriter(path, ["T2M"], small_grid(), np.array([hour(0)]), LEADS, {}):
        raise RuntimeError("the next one does not come to its end either")
    assert contents(path) == before and [p.name for p in tmp_path.iterdir()] == ["f.zarr"]


@pytest.mark.parametrize("room", [100, 700, 1500], ids=["for no metadata", "for no field", "for no metadata of all"])
def test_a_full_disk_ends_in_one_line_and_leaves_the_older_forecast(room, infer, tmp_path):
    """Files that may not grow beyond `room` bytes: the system refuses in mid-writing, as a full disk does."""
    assert infer()[0] == 0
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        code, _, err = infer()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert "f.zarr: File too large, expected room to write. Fix: make room" in err
    assert contents(tmp_path) == before
    assert infer()[0] == 0


def test_two_forecasts_into_one_path_do_not_mix(infer, tmp_path):
    path = tmp_path / "f.zarr"
    with ForecastWriter(path, ["T2M"], small_grid(), np.array([hour(0)]), LEADS, {}) as first:
        for k in range(4):
            code, _, err = infer()
            assert code == 2 and "another process" in err
            first.write(0, k, np.full((1, 12, 16), 280.0), np.zeros(1))
    assert (xr.open_zarr(path).T2M == 280).all()
    assert infer()[0] == 0


def test_ten_days_stay_finite_and_what_is_clipped_is_counted(infer, run, tmp_path):
    checkpoint = load_checkpoint(run / "best.pt")
    checkpoint["ema"]["head.bias"].fill_(1e30)  # every step drives every field far out of its bounds
    save_checkpoint(checkpoint, tmp_path / "wild.pt")
    assert infer("--checkpoint", tmp_path / "wild.pt", "--hours", 240)[0] == 0
    out = xr.open_zarr(tmp_path / "f.zarr")
    assert np.allclose(out.T2M[0, 1:], 340) and np.allclose(out.U10[0, 1:], 100)
    assert (out.T2M_clipped_share[0, 1:] == 1).all() and out.T2M_clipped_share[0, 0] == 0
    checkpoint["ema"]["head.bias"].fill_(np.nan)
    save_checkpoint(checkpoint, tmp_path / "wild.pt")
    code, _, err = infer("--checkpoint", tmp_path / "wild.pt")
    assert code == 2 and "not finite after 1 steps" in err
    assert xr.open_zarr(tmp_path / "f.zarr").equals(out)


def test_fields_stand_where_they_belong(tmp_path):
    """Two forecasts hour by hour, then a third with its leads out of order; every field says whose it is."""
    grid, inits = small_grid(), np.array([hour(n) for n in range(3)])
    order = [(i, k) for k in range(4) for i in (0, 1)] + [(2, k) for k in (2, 0, 1, 3)]
    field = np.empty((2, *grid.shape), np.float32)  # the caller's array, which it fills anew
    with ForecastWriter(tmp_path / "f.zarr", NAMES, grid, inits, LEADS, {}) as out:
        for i, k in order:
            field[:] = [[[100 * i + 10 * k]], [[100 * i + 10 * k + 1]]]
            out.write(i, k, field, np.array([i, k], np.float32))
    ds = xr.open_zarr(tmp_path / "f.zarr")
    for i, k in order:
        assert (ds.T2M[i, k] == 100 * i + 10 * k).all() and (ds.U10[i, k] == 100 * i + 10 * k + 1).all()
        assert (ds.T2M_clipped_share[i, k], ds.U10_clipped_share[i, k]) == (i, k)

"""Tests that need a GPU. Each starts a new process, because the other tests hide the GPU."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from tests.conftest import PROJECT, TINY

pytestmark = pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU here")


def on_gpu(*command, gpu=True) -> str:
    """What a command prints, with or without the GPU."""
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    machine = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | hidden
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, cwd=PROJECT, env=machine, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-1500:]
    return done.stdout


def test_a_step_on_the_full_domain_peaks_below_one_gigabyte():
    measure = (
        "import json, train_deterministic; from benchmarks.memory import measured; "
        "print(json.dumps(measured((1059, 1799), 'lean', train_deterministic.Config())))"
    )
    peaks = json.loads(on_gpu("-c", measure).splitlines()[-1])
    assert set(peaks) == {"training", "fine_tuning", "roll_out"}
    assert all(peak["allocated"] < 1e9 for peak in peaks.values()), peaks


def test_a_run_on_the_gpu_goes_on_and_forecasts_as_on_the_cpu(seven_store, tmp_path):
    run, epochs = ["train_deterministic.py", "--zarr", seven_store, "--run_dir", tmp_path / "run", *TINY], ["--epochs"]
    first = on_gpu(*run, *epochs, 2)
    assert "on cuda" in first
    on_gpu(*run, *epochs, 3)
    assert [json.loads(line)["epoch"] for line in (tmp_path / "run" / "log.jsonl").open()][-1] == 3
    fields = []
    for gpu in (True, False):
        out = tmp_path / f"{gpu}.zarr"
        on_gpu("infer_iterative.py", "--checkpoint", tmp_path / "run" / "best.pt", "--zarr", seven_store, "--hours", 2,
               "--out", out, gpu=gpu)  # fmt: skip
        fields.append(xr.open_zarr(out).load())
    for name in ("T2M", "U10", "REFC"):
        ours, theirs = (f[name].values for f in fields)
        assert np.isfinite(ours).all() and not np.array_equal(ours[:, 1:], ours[:, :-1])
        # bfloat16 keeps 8 bits of what the network adds
        assert np.abs(ours - theirs).max() < 0.02 * theirs.std()

"""Several processes train the model of one, and end together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import train_deterministic
from tests.conftest import PROJECT, TINY, hour, weather, write_store
from tests.model_files import read_records
from training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    def detailed(name, time):
        rng = np.random.default_rng([len(name), int((time - hour(0)) / np.timedelta64(1, "h"))])
        return weather(name, time) + rng.normal(size=(12, 16))

    path = tmp_path_factory.mktemp("store") / "s.zarr"
    return write_store(path, detailed, [hour(n) for n in range(36)], ("T2M", "U10"))


def arguments(store, run_dir, *options) -> list:
    return ["--zarr", store, "--run_dir", run_dir, *TINY, "--validate_every", 3, *options]


def start(store, run_dir, *options) -> subprocess.Popen:
    """Two processes that train."""
    how = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [sys.executable, *how, "train_deterministic.py", *map(str, arguments(store, run_dir, *options))],
        cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out[-1000:] + err[:3000]  # torchrun's own words come last and say little
    return out


def distance(a: Path, b: Path) -> float:
    """The largest difference between the averaged weights of two runs."""
    weights = [torch.cat([v.flatten() for v in load_checkpoint(d / "last.pt")["ema"].values()]) for d in (a, b)]
    return float((weights[0] - weights[1]).abs().max())


def test_two_processes_give_the_weights_and_the_log_of_one_and_resume_as_one(store, tmp_path, command):
    """Up to the rounding of a sum of gradients, which grows from step to step."""
    one, two, options = tmp_path / "one", tmp_path / "two", ("--lr", 1e-4)
    both = start(store, two, *options, "--epochs", 5)
    code, said, err = command(train_deterministic, *arguments(store, one, *options, "--epochs", 5))
    assert code == 0, err
    for text in (said, finish(both)):  # the first process speaks
        assert [sum(x.startswith(w) for x in text.splitlines()) for w in ("train T2M", "model:", "done:")] == [1, 1, 1]
    assert load_checkpoint(one / "last.pt")["step"] == load_checkpoint(two / "last.pt")["step"] == 32
    assert distance(one, two) < 1e-6
    for a, b in zip(read_records(one), read_records(two), strict=True):
        assert (a["epoch"], a["step"]) == (b["epoch"], b["step"])
        for key in ("loss", "grad_norm", "score"):
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-5)
    # trained by two, continued by one
    for run_dir in (two, one):
        assert command(train_deterministic, *arguments(store, run_dir, *options, "--epochs", 6))[0] == 0
    assert distance(one, two) < 1e-6


def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(store, tmp_path):
    run_dir, options = tmp_path / "run", ("--rollout_epochs", 0, "--validate_every", 1)
    process = start(store, run_dir, *options, "--epochs", 300)
    deadline = time.monotonic() + 120
    while not (run_dir / "last.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "SIGKILL" in err
    done = load_checkpoint(run_dir / "last.pt")["epoch"]
    out = finish(start(store, run_dir, *options, "--epochs", done + 1))
    assert f"(epoch {done + 1} of {done + 1})" in out

"""Several processes train the model of one: same plan, same weights; and end together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT, TINY, hour, weather, write_store

import train_deterministic


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    def detailed(name, time):
        rng = np.random.default_rng([len(name), int((time - hour(0)) / np.timedelta64(1, "h"))])
        return weather(name, time) + rng.normal(size=(12, 16))

    return write_store(
        tmp_path_factory.mktemp("store") / "s.zarr", detailed, [hour(n) for n in range(40)], ("T2M", "U10")
    )


def arguments(store, run, *options) -> list:
    return ["--zarr", store, "--run_dir", run, "--rollout_hours", 6, *TINY, "--accumulate", 4, *options]


def start(store, run, *options) -> subprocess.Popen:
    """Two processes that train."""
    how = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [sys.executable, *how, "train_deterministic.py", *map(str, arguments(store, run, *options))],
        cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out[-1000:] + err[:3000]  # torchrun's own words come last and say little
    return out, err


def weights(run) -> torch.Tensor:
    return torch.cat([v.flatten() for v in torch.load(run / "last.pt", weights_only=True)["ema"].values()])


def test_two_processes_give_the_weights_and_the_log_of_one_and_resume_as_one(store, tmp_path, command):
    """By AdamW at a low rate: Muon makes its updates orthogonal in bfloat16, which turns the rounding of a sum of
    gradients into 1e-4 of a weight within five steps. After one step the weights are the same with it too."""
    epochs = ("--epochs", 4, "--rollout_epochs", 2, "--validate_every", 2, "--muon_lr", 0, "--lr", 1e-4)
    two = start(store, tmp_path / "two", *epochs)
    code, said, err = command(train_deterministic, *arguments(store, tmp_path / "one", *epochs))
    assert code == 0, err
    for text in (said, finish(two)[0]):  # one of them speaks
        assert [sum(x.startswith(w) for x in text.splitlines()) for w in ("train T2M", "model:", "done:")] == [
            1,
            1,
            1,
        ]
    a, b = (torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("one", "two"))
    assert a["step"] == b["step"] and a["step"] > 8
    assert (weights(tmp_path / "one") - weights(tmp_path / "two")).abs().max() < 1e-6
    assert a["position"]["samples"] == b["position"]["samples"]
    logs = [(tmp_path / n / "log.jsonl").read_text().splitlines() for n in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 2
    # trained by two, continued by one
    for name in ("two", "one"):
        again = arguments(store, tmp_path / name, *epochs[:1], 5, *epochs[2:])
        assert command(train_deterministic, *again)[0] == 0
    assert (weights(tmp_path / "one") - weights(tmp_path / "two")).abs().max() < 1e-6


def test_one_step_by_muon_is_the_same_with_two_processes(store, tmp_path, command):
    options = ("--epochs", 1, "--rollout_epochs", 0, "--accumulate", 64)
    two = start(store, tmp_path / "2", *options)
    assert command(train_deterministic, *arguments(store, tmp_path / "1", *options))[0] == 0
    finish(two)
    assert torch.load(tmp_path / "2" / "last.pt", weights_only=True)["step"] == 1
    assert (weights(tmp_path / "1") - weights(tmp_path / "2")).abs().max() < 1e-6


def test_no_thread_of_the_group_outlives_the_team():
    """One that does aborts the process when it wants the interpreter after its end. The first optimizer imports modules
    of torch that take the present group for a default argument."""
    script = (
        "import sys, torch; from pathlib import Path; sys.path.insert(0, '.'); from training.team import Team\n"
        "with Team() as team:\n"
        "    torch.optim.AdamW([torch.zeros(3, requires_grad=True)]); assert team.highest(team.rank) == 1\n"
        "    assert team.first_text('second' * team.rank) == 'second' and team.first_text('') == ''\n"
        "    team.refuse_difference(7)\n"
        "    try:\n        team.refuse_difference(team.rank)\n        raise SystemExit('two steps in one run')\n"
        "    except ValueError:\n        pass\n"
        "    assert any('gloo' in p.read_text() for p in Path('/proc/self/task').glob('*/comm'))\n"
        "print([p.read_text() for p in Path('/proc/self/task').glob('*/comm')], file=sys.stderr)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python",
         sys.executable, "-c", script], cwd=PROJECT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    _, err = finish(process)
    assert err.count("python") >= 2 and "gloo" not in err


def test_a_killed_process_ends_the_run_with_an_error_and_it_resumes(store, tmp_path):
    run, options = tmp_path / "run", ("--epochs", 300, "--rollout_epochs", 0, "--validate_every", 1)
    process = start(store, run, *options)
    stop = time.monotonic() + 90
    while not (run / "last.pt").exists() and time.monotonic() < stop:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=90)
    assert process.returncode != 0 and "SIGKILL" in err
    done = torch.load(run / "last.pt", weights_only=True)["epoch"]
    out, _ = finish(start(store, run, "--epochs", done + 1, *options[2:]))
    assert f"(epoch {done + 1} of {done + 1})" in out

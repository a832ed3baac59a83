"""Whole runs under faults that are real: killed anywhere, stopped twice, numbers that are none, weights that explode,
memory and hours that are gone. The others check what a run reads and writes."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import train_step
import zarr
from training.lock import RunLock
from training.trouble import Exploded, new_guard, watch

import train_deterministic
from benchmarks.chaos import TRAINING, plant, same, training_result, write_source
from models.unet import ResidualUNet
from tests.test_checkpoint import forked, full_disk
from training import trouble
from training.checkpoint import load_checkpoint

SHORT = {"epochs": 2, "rollout_epochs": 1, "validate_every": 1, "accumulate": 4}


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_deterministic, "save_loss_curves", lambda log, path: None)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "source.zarr"
    write_source(path)
    return path


def train(source, run_dir, **constants) -> int:
    constants = {**TRAINING, **SHORT, "zarr": str(source), "run_dir": str(run_dir), **constants}
    return train_deterministic.main(train_deterministic.Config(**constants))


@pytest.fixture(scope="module")
def unbroken(source, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(source, run_dir) == 0
    return training_result(run_dir)


def test_a_run_that_is_killed_anywhere_ends_as_an_unbroken_one(source, unbroken, tmp_path):
    """`python -m benchmarks.chaos` does the same a hundred times; here one kill of each kind."""
    run_dir, reached = tmp_path / "run", []
    for moment, count in (("accumulation", 8), ("half a file", 6), ("files", 30)):

        def work(moment=moment, count=count):
            plant(moment, count)
            train(source, run_dir)

        assert forked(work) == -signal.SIGKILL
        reached.append(load_checkpoint(run_dir / "last.pt")["step"] if (run_dir / "last.pt").exists() else 0)
    assert reached == sorted(reached) and len(set(reached)) > 2, reached
    assert train(source, run_dir) == 0
    assert same(training_result(run_dir), unbroken)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_after_its_step_with_its_exit_code(source, tmp_path, monkeypatch, number, code, capsys):
    update, steps, before = train_deterministic.update_ema, [], own_children()

    def signalled(*arguments):
        update(*arguments)
        steps.append(signal.raise_signal(number))

    monkeypatch.setattr(train_deterministic, "update_ema", signalled)
    assert train(source, tmp_path / "run", save_every=60.0) == code == 128 + number and len(steps) == 1
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 1
    assert f"stopped by {number.name} at step 1" in capsys.readouterr().out
    assert not multiprocessing.active_children() and own_children() <= before


def own_children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_second_signal_stops_at_once_and_leaves_the_last_checkpoint_whole(source, tmp_path):
    def work():
        update = train_deterministic.update_ema

        def signalled(ema, model, n):
            update(ema, model, n)
            if n == 2:
                signal.raise_signal(signal.SIGTERM)
                plant_second()

        def plant_second():
            def in_the_middle(number):
                os.truncate(f"/proc/self/fd/{number}", 100)
                signal.raise_signal(signal.SIGTERM)

            os.fsync = in_the_middle

        train_deterministic.update_ema = signalled
        train(source, tmp_path / "run")

    assert forked(work) == -signal.SIGTERM
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 2  # steps 0 and 1 were saved
    assert (tmp_path / "run" / "last.pt.tmp").stat().st_size == 100


def test_a_second_run_is_refused_before_it_reads_the_checkpoint(source, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_text("half of something")
    with RunLock(tmp_path / "run"), pytest.raises(ValueError, match="another training is running"):
        train(source, tmp_path / "run")


def test_a_full_disk_ends_the_run_in_one_line_and_it_goes_on(source, unbroken, tmp_path):
    run_dir = tmp_path / "run"
    with full_disk(60_000), pytest.raises(ValueError, match=r"cannot be written.*Fix: make room"):
        train(source, run_dir)
    assert not list(run_dir.glob("*.tmp*"))
    assert train(source, run_dir) == 0
    assert same(training_result(run_dir), unbroken)


# ---- numbers


def spoil(source: Path, to: Path, name: str, index: int, value: float) -> Path:
    """The store, with a cell of one hour that no longer is what it was."""
    import shutil

    shutil.copytree(source, to)
    zarr.open_array(to / name, mode="r+")[index, 3, 3] = value
    return to


def test_a_loss_that_is_not_finite_is_traced_to_its_hour_variable_and_term(source, tmp_path, capsys):
    run_dir, one = tmp_path / "run", {"rollout_epochs": 0, "validate_every": 1}
    assert train(source, run_dir, epochs=1, **one) == 0
    step = load_checkpoint(run_dir / "last.pt")["step"]
    bad = spoil(source, tmp_path / "bad.zarr", "U10", 15, 1e30)  # the last training hour: a target, never a state
    with pytest.raises(ValueError) as found:
        train(bad, run_dir, epochs=2, **one)
    said = str(found.value)
    assert "initial times 2024-05-20T14:00: U10 at lead step 1, term" in said and "mse" in said and "Fix: " in said
    kept = torch.load(next(run_dir.glob("fault_step_*.pt")), weights_only=True)
    assert kept["init_times"] == ["2024-05-20T14:00"] and kept["targets"][0][0, 1, 3, 3] == 1e30
    assert kept["states"].isfinite().all() and kept["step"] >= step
    assert train(bad, run_dir, epochs=2, skip_steps=1, **one) == 0
    assert "note: left out step" in capsys.readouterr().out
    log = [json.loads(x) for x in (run_dir / "log.jsonl").read_text().splitlines()]
    assert [r["skipped_steps"] for r in log] == [0, 1] and np.isfinite(log[1]["loss"])
    assert all(v.isfinite().all() for v in load_checkpoint(run_dir / "last.pt")["model"].values())


@pytest.mark.parametrize("times", [1, 2])
def test_an_exploded_loss_goes_back_once_with_half_the_rate(source, tmp_path, monkeypatch, capsys, times):
    """Every weight fifty times as large after step 8, as memory that fails may have it; and saved like that, once."""
    update, left = train_deterministic.update_ema, [times]

    def broken(ema, model, n):
        update(ema, model, n)
        if n == 8 and left[0]:
            left[0] -= 1
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(50)

    monkeypatch.setattr(train_deterministic, "update_ema", broken)
    monkeypatch.setattr(trouble, "SEEN", 5)
    constants = {"rollout_epochs": 0, "epochs": 1, "accumulate": 1}
    if times == 2:
        with pytest.raises(ValueError, match=r"exploded again with half the learning rate.*Fix: another --run_dir"):
            train(source, tmp_path / "run", **constants)
        return
    assert train(source, tmp_path / "run", **constants) == 0
    assert "back to step 8, once, with half the learning rate" in capsys.readouterr().out
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    assert last["position"]["guard"]["rate"] == 0.5 and left == [0]
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert log["rate"] == 0.5 and log["loss"] < 2


def test_what_counts_as_an_explosion():
    guard = new_guard()
    for loss in [1.0] * 30 + [30.0, 30.0, 1.0, 30.0, 30.0]:
        watch(guard, loss, 20)
    with pytest.raises(Exploded, match="30 in the last of 3 steps, 1 before"):
        watch(guard, 30.0, 20)
    for _ in range(9):
        watch(guard, 1e9, 0)  # 0: never


# ---- memory: the CPU's allocator refuses for real what no machine has


def test_a_full_memory_in_the_night_is_answered_by_lean_mode(source, tmp_path, monkeypatch, capsys):
    forward, calls = ResidualUNet.forward, []

    def hungry(self, *arguments, **where):
        if not self.lean and torch.is_grad_enabled():
            calls.append(1)
            if len(calls) > 12:
                torch.empty(2**50)
        return forward(self, *arguments, **where)

    monkeypatch.setattr(ResidualUNet, "forward", hungry)
    assert train(source, tmp_path / "run", epochs=2, rollout_epochs=0, memory="fast") == 0
    said = capsys.readouterr().out
    assert "the memory of cpu ran out at step" in said and "in lean mode, which needs less" in said
    assert load_checkpoint(tmp_path / "run" / "last.pt")["config"]["memory"] == "lean"


def test_a_full_memory_in_the_rehearsal_is_an_error_before_the_first_step(source, tmp_path, monkeypatch):
    forward = ResidualUNet.forward
    monkeypatch.setattr(ResidualUNet, "forward", lambda self, *a, **w: (torch.empty(2**50), forward(self, *a, **w))[1])
    with pytest.raises(ValueError, match=r"memory: got a step of fast mode that does not fit on cpu.*--memory lean"):
        train(source, tmp_path / "run", memory="fast")
    assert not (tmp_path / "run").exists()


# ---- data


def test_a_chunk_that_goes_in_the_night_ends_the_run_or_costs_a_step(source, tmp_path, monkeypatch, capsys):
    store = spoil(source, tmp_path / "s.zarr", "T2M", 0, 290.0)
    learn = train_step.Learner.__call__

    def losing(self, *arguments):
        for chunk in (store / "T2M" / "c" / "9").glob("*/*"):
            chunk.unlink()
        return learn(self, *arguments)

    monkeypatch.setattr(train_step.Learner, "__call__", losing)
    constants = {"epochs": 1, "rollout_epochs": 0, "cache_gb": 0.0, "patience": 0.0}
    with pytest.raises(ValueError, match=r"2024-05-20T09:00 cannot be read.*chunk of T2M is gone.*--skip_steps 1"):
        train(store, tmp_path / "a", **constants)
    zarr.open_array(store / "T2M", mode="r+")[9] = 290.0
    assert train(store, tmp_path / "b", skip_steps=3, **constants) == 0
    assert "note: left out step" in capsys.readouterr().out
    log = json.loads((tmp_path / "b" / "log.jsonl").read_text())
    assert 1 <= log["skipped_steps"] <= 3 and log["loss"] > 0


def test_a_forecast_on_a_full_disk_leaves_the_old_one(source, tmp_path, monkeypatch):
    import infer_iterative

    assert train(source, tmp_path / "run", epochs=1, rollout_epochs=0) == 0
    constants = infer_iterative.Config(str(tmp_path / "run" / "best.pt"), str(source), ["2024-05-20T20"], 3.0)
    constants.out = str(tmp_path / "f.zarr")
    infer_iterative.main(constants)
    before = {p: p.read_bytes() for p in (tmp_path / "f.zarr").rglob("*") if p.is_file()}
    with full_disk(300), pytest.raises((OSError, ValueError)):
        infer_iterative.main(constants)
    assert {p: p.read_bytes() for p in (tmp_path / "f.zarr").rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.zarr", "run"]

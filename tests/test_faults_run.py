"""Whole runs under real faults: killed or stopped anywhere, a full disk, a damaged checkpoint, a lost chunk."""

import os
import shutil
import signal

import pytest

import train_deterministic as training
from benchmarks.chaos import same, training_result, write_source
from tests.model_files import train as train_tiny
from tests.test_checkpoint import forked, full_disk
from training.checkpoint import load_checkpoint
from training.optimizer import Optimizer

CONSTANTS = {"epochs": 5, "validate_every": 2, "save_every": 0.0, "gap": "1h", "train_end": "2024-05-20T15",
             "val_end": "2024-05-20T19"}  # 14 pairs: 4 epochs of 4 steps, then 5 steps of roll-outs  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "source.zarr"
    write_source(path)
    return path


def train(source, run_dir, **constants) -> int:
    return train_tiny(source, run_dir, **CONSTANTS | constants)


@pytest.fixture(scope="module")
def unbroken(source, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(source, run_dir) == 0
    return training_result(run_dir)


def strike(name: str, count: int, number: int) -> None:
    """Send this process a signal before the count-th call of a function of the training script."""
    function, calls = getattr(training, name), iter(range(1, 10_000))

    def struck(*arguments, **options):
        if next(calls) == count:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    setattr(training, name, struck)


MOMENTS = (  # the function, which of its calls, and the step of last.pt then: killed, or stopped after the step
    ("learn", 5 + 6, 1, 2),  # five calls of the trial; inside the second step
    ("save_checkpoint", 3, 3, 6),
    ("write_log", 1, 8, 9),  # between best.pt and last.pt of a validation
    ("push", 5, 17, 18),  # two calls of the trial; inside the second roll-out
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])  # SIGINT: tests/test_nine_faults.py
def test_a_run_that_is_stopped_anywhere_ends_like_an_unbroken_one(number, source, unbroken, tmp_path):
    run_dir, steps = tmp_path / "run", []
    for name, count, *_ in MOMENTS:

        def work(name=name, count=count):
            strike(name, count, number)
            assert train(source, run_dir) == 128 + number

        assert forked(work) == (-number if number == signal.SIGKILL else 0)
        steps.append(load_checkpoint(run_dir / "last.pt")["step"])
    assert train(source, run_dir) == 0
    assert same(training_result(run_dir), unbroken)
    assert steps == [m[2 + (number != signal.SIGKILL)] for m in MOMENTS]


def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(source, tmp_path, capsys):
    assert train(source, tmp_path, epochs=2, rollout_epochs=0) == 0
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    assert train(source, tmp_path, rollout_epochs=0, epochs=3) == 0
    said = capsys.readouterr().out
    assert "note: " in said and "last.pt" in said and "resuming from" in said and "resumed at step 8 " in said
    assert load_checkpoint(last)["step"] == 12


def test_a_full_disk_ends_the_run_in_one_line_and_it_goes_on(source, unbroken, tmp_path):
    run_dir = tmp_path / "run"
    with full_disk(60_000), pytest.raises(ValueError, match=r"cannot be written.*Fix: make room"):
        train(source, run_dir)
    assert not list(run_dir.glob("*tmp*"))
    assert train(source, run_dir) == 0
    assert same(training_result(run_dir), unbroken)


def test_a_signal_in_the_last_step_ends_a_finished_run(source, tmp_path, monkeypatch):
    step, calls = Optimizer.step, []

    def struck(*arguments):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(Optimizer, "step", struck)
    assert train(source, tmp_path, epochs=1) == 143
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 4 and not (tmp_path / "log.jsonl").exists()
    assert train(source, tmp_path, epochs=1) == 0  # what is left: the validation
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1 and (tmp_path / "best.pt").exists()


def test_a_chunk_that_is_lost_during_a_run_ends_it_with_the_hour(source, tmp_path, monkeypatch):
    store = shutil.copytree(source, tmp_path / "s.zarr")
    monkeypatch.setattr(training, "free_memory", lambda: 0)  # keep no decoded hours
    learn = training.learn

    def losing(*arguments):
        shutil.rmtree(store / "T2M/c/9", ignore_errors=True)
        return learn(*arguments)

    monkeypatch.setattr(training, "learn", losing)
    with pytest.raises(ValueError, match=r"s\.zarr: .*T2M.*2024-05-20T09:00"):
        train(store, tmp_path / "run", epochs=1)

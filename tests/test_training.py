"""Whole trainings: their files and log, when they save, and what ends them."""

import signal
from datetime import datetime, timedelta

import pytest
import torch

import train_deterministic as training
from tests.model_files import read_records, train
from training.checkpoint import load_checkpoint
from training.signals import RunLock


def test_until_chooses_the_epochs_once(seven_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "epochs_until", lambda *_: 2)
    assert train(seven_store, tmp_path, epochs=9, until="07:00") == 0
    assert "training plans 2 epochs to end before 07:00 local time" in capsys.readouterr().out
    last = load_checkpoint(tmp_path / "last.pt")
    assert (last["epoch"], last["config"]["epochs"]) == (2, 2)
    monkeypatch.setattr(training, "epochs_until", None)  # a call would fail
    soon = (datetime.now() + timedelta(hours=1)).strftime("%H:%M")
    assert train(seven_store, tmp_path, epochs=9, until=soon) == 0
    assert "this run is finished: 2 epochs" in capsys.readouterr().out


@pytest.fixture(scope="module")
def finished(seven_store, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    assert train(seven_store, run_dir, epochs=5, validate_every=2) == 0
    return run_dir


def test_a_run_leaves_its_files_and_a_log_with_every_key(finished):
    names = {p.name for p in finished.iterdir()}
    assert names == {"last.pt", "best.pt", "previous.pt", "log.jsonl", "loss_curves.png"}
    records = read_records(finished)
    keys = {"epoch", "step", "samples", "loss", "terms", "lr", "grad_norm", "rmse", "persistence_rmse", "skill",
            "rollout_skill", "score", "samples_per_s", "data_wait", "peak_memory_bytes", "split"}  # fmt: skip
    assert all(keys <= set(r) for r in records)
    assert [(r["epoch"], r["step"], r["own_forecasts"]) for r in records] == [(2, 20, False), (4, 40, False),
                                                                             (5, 54, True)]  # fmt: skip
    assert all(set(r["terms"]) == {"l1", "spectral", "mse", "gradient"} and r["loss"] > 0 for r in records)
    assert records[0]["samples"] == 80  # 40 pairs twice


def test_a_finished_run_says_so_and_goes_on_with_more_epochs(finished, seven_store, tmp_path, capsys):
    before = {p.name: p.read_bytes() for p in finished.iterdir()}
    assert train(seven_store, finished, epochs=5, validate_every=2) == 0
    assert "this run is finished: 5 epochs, 54 steps" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in finished.iterdir()} == before
    for name in ("last.pt", "log.jsonl"):
        (tmp_path / name).write_bytes(before[name])
    assert train(seven_store, tmp_path, epochs=6, validate_every=3) == 0
    assert "resumed at step 54 (epoch 6 of 6)" in capsys.readouterr().out
    assert [r["epoch"] for r in read_records(tmp_path)] == [2, 4, 5, 6]


def test_the_last_epochs_have_their_own_best_checkpoint(finished):
    """Roll-outs cost RMSE: the best of them is wanted, even if an epoch on pairs has scored higher."""
    assert load_checkpoint(finished / "best.pt")["epoch"] == 5


def test_a_second_run_in_the_same_folder_is_refused_before_it_reads_anything(seven_store, tmp_path):
    (tmp_path / "last.pt").write_text("half of something")
    with RunLock(tmp_path), pytest.raises(ValueError, match="another training is running"):
        train(seven_store, tmp_path)


def test_sigusr1_saves_and_the_run_goes_on(seven_store, tmp_path, monkeypatch):
    learn, save, calls, saved = training.learn, training.save_checkpoint, [], []

    def signalled(*arguments):
        calls.append(1)
        if len(calls) == 8 + 10:  # two trial steps of 4 batches each, then the third step
            signal.raise_signal(signal.SIGUSR1)
        return learn(*arguments)

    monkeypatch.setattr(training, "learn", signalled)
    monkeypatch.setattr(training, "save_checkpoint", lambda c, p, k: (saved.append((p.name, c["step"])), save(c, p, k)))
    assert train(seven_store, tmp_path, save_every=60.0) == 0
    assert saved == [("last.pt", 3), ("best.pt", 10), ("last.pt", 10)]


@pytest.mark.parametrize("bad", [9, 10])
def test_steps_without_a_finite_gradient_are_skipped_and_ten_in_a_row_end_the_run(bad, seven_store, tmp_path,
                                                                                   monkeypatch, capsys):  # fmt: skip
    learn, calls = training.learn, []

    def broken(parts, *arguments):
        out = learn(parts, *arguments)
        calls.append(1)
        if 8 + 4 * 3 < len(calls) <= 8 + 4 * (3 + bad):  # the trial, three good steps
            next(parts.optimizer.model.parameters()).grad[0] = torch.nan
            out[1] = torch.nan
        return out

    monkeypatch.setattr(training, "learn", broken)
    if bad == 10:
        with pytest.raises(ValueError, match=r"loss: not finite in 10 steps in a row up to step 12, .*Fix: a lower"):
            train(seven_store, tmp_path, epochs=2, save_every=0.0)
        assert load_checkpoint(tmp_path / "last.pt")["step"] == 12
    else:
        assert train(seven_store, tmp_path, epochs=2) == 0
        assert read_records(tmp_path)[-1]["loss"] > 0 and load_checkpoint(tmp_path / "last.pt")["step"] == 20
    assert capsys.readouterr().out.count(": its gradient is not finite") == bad
    last = load_checkpoint(tmp_path / "last.pt")
    assert all(v.isfinite().all() for part in ("model", "ema") for v in last[part].values())


def test_a_step_that_does_not_fit_is_an_error_before_the_first_step(seven_store, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "learn", full)
    with pytest.raises(ValueError, match=r"memory: a fast step does not fit on cpu.*Fix: --memory lean, or a smaller"):
        train(seven_store, tmp_path / "run", memory="fast")
    assert not (tmp_path / "run").exists()

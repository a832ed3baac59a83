"""Training: accumulation, averaging, schedule, checkpoints, resuming, the log."""

import json
import os
import signal
import time
from contextlib import nullcontext
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import torch

import train_deterministic
import train_step
from benchmarks import memory
from losses.terms import mse
from losses.weather import EVERY
from tests.conftest import SIZES
from training.checkpoint import KEYS, load_checkpoint, save_checkpoint
from training.device import autocast, training_autocast
from training.lock import RunLock
from training.progress import Progress
from training.schedule import (
    Task,
    ema_decay,
    generator,
    pair_tasks,
    rollout_tasks,
    two_phases,
    update_ema,
    warmup_cosine,
)
from verification.validation import change_sums, persistence_alarm, skill_table


@pytest.mark.parametrize("pairs,batch,accumulate", [(12, 1, 4), (13, 1, 4), (13, 3, 2), (5, 2, 16)])
def test_accumulated_gradients_equal_the_full_batch_and_the_tail_counts(pairs, batch, accumulate):
    torch.manual_seed(0)
    x, y = torch.randn(pairs, 1, 4, 4), torch.randn(pairs, 1, 4, 4)
    plan = pair_tasks(list(range(pairs)), batch, accumulate)
    assert sorted(i for step in plan for task in step for i in task.starts) == list(range(pairs))
    for step in plan:
        members = [i for task in step for i in task.starts]
        whole, parts = (torch.nn.Conv2d(1, 1, 3, padding=1) for _ in range(2))
        parts.load_state_dict(whole.state_dict())
        mse(whole(x[members]), y[members]).mean().backward()
        for task in step:
            b = list(task.starts)
            (mse(parts(x[b]), y[b]).mean() * task.share).backward()
        assert torch.allclose(whole.weight.grad, parts.weight.grad, atol=1e-6)


def test_the_average_of_the_weights_follows_the_stated_decay():
    assert ema_decay(0) == 0.1 and ema_decay(90) == 0.91 and ema_decay(10**6) == 0.999
    model, ema = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(ema.weight, 0.0)
    torch.nn.init.constant_(model.weight, 1.0)
    update_ema(ema, model, 0)
    assert ema.weight.item() == pytest.approx(0.9)
    update_ema(ema, model, 1)  # decay 2/11
    assert ema.weight.item() == pytest.approx(0.9 * 2 / 11 + 9 / 11)


def test_the_learning_rate_rises_then_falls_as_a_cosine():
    factors = [warmup_cosine(n, 100, 10) for n in range(101)]
    assert factors[0] == 0.1 and factors[9] == 1.0 and factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5) and factors[100] == pytest.approx(0.0)


def test_the_last_epochs_have_a_lower_cosine_of_their_own():
    factors = [two_phases(n, 100, 20, 0.1, 0.2) for n in range(121)]
    assert factors[:100] == [warmup_cosine(n, 100, 10) for n in range(100)]
    assert max(factors[100:]) == pytest.approx(0.2) and factors[120] == pytest.approx(0.0)


@pytest.mark.parametrize("batches", [0, 3])
def test_roll_outs_have_batches_of_their_own(batches):
    data = SimpleNamespace(
        pairs=np.arange(8), chains=np.arange(8), blocks=(8, 8), rollout_epochs=1, longest=6, steps_per_epoch=2
    )
    cfg = train_deterministic.Config(epochs=2, batch_size=4, accumulate=1, rollout_accumulate=batches)
    pairs, chains = (train_deterministic.plan(cfg, data, epoch)[1] for epoch in (0, 1))
    assert [sum(t.steps for t in step) for step in pairs] == [1, 1]
    assert [sum(t.steps for t in step) for step in chains] == [max(batches, 1)] * 2


@pytest.mark.parametrize("longest,accumulate", [(24, 4), (4, 4), (3, 8), (1, 16)])
def test_chains_of_the_fine_tuning_fit_and_add_up(longest, accumulate):
    plan = rollout_tasks(list(range(7)), 2, accumulate, longest, 200, torch.Generator().manual_seed(0))
    assert len(plan) == 200
    reached = set()
    for step in plan:
        assert sum(t.steps for t in step) == accumulate and sum(t.steps * t.share for t in step) == pytest.approx(1)
        assert all(t.skip + t.steps <= longest and len(t.starts) == 2 for t in step)
        reached |= {t.skip + k + 1 for t in step for k in range(t.steps)}
    assert reached == set(range(1, longest + 1))  # every lead up to the longest is trained
    assert {i for step in plan for t in step for i in t.starts} == set(range(7))
    from_analyses = sum(t.skip == 0 for step in plan for t in step) / sum(len(step) for step in plan)
    assert from_analyses > 0.45  # half of them by rule, more where a chain has little room for other steps


def test_a_chain_needs_the_truth_of_its_steps_and_of_the_one_before():
    assert Task((0,), 0, 1, 1.0).targets == range(0, 1)
    assert Task((0,), 0, 4, 0.25).targets == range(0, 4)
    assert Task((0,), 3, 2, 0.5).targets == range(2, 5)


@pytest.mark.parametrize("mode", ["lean", "fast"])
def test_the_loss_of_each_step_sees_forecast_and_truth_a_step_earlier(mode, monkeypatch):
    made = memory.Step((32, 32), mode, train_deterministic.Config(base_features=8, blocks=1, flip=False, season=0.0))
    monkeypatch.setattr(train_step, "training_autocast", lambda device, half: nullcontext())
    states, seen, changes = torch.full((1, 2, 7, 32, 32), 0.5), [], []
    loss, power = made.learn.loss.forward, made.learn.loss.change

    def change(before, target, valid):
        changes.append([round(float(x[:, 3].mean()), 3) for x in (before, target)])
        return power(before, target, valid)

    def spy(pred, target, valid, width, channels, since):
        if channels == EVERY or channels.start == 3:  # a wind
            t = 3 if channels == EVERY else 0
            values = [pred[:, t], target[:, t], *([] if since is None else [since[0][:, t]])]
            seen.append([round(float(v.detach().mean()), 3) for v in values])
        return loss(pred, target, valid, width, channels, since)

    monkeypatch.setattr(made.learn.loss, "change", change)
    monkeypatch.setattr(made.learn.loss, "forward", spy)
    for task in (Task((0,), 0, 2, 0.5), Task((0,), 2, 2, 0.5)):
        targets = [torch.full((1, 7, 32, 32), 10.0 + k) for k in task.targets]  # the value tells the step
        made.learn(memory.START, task, (states, targets, []), torch.Generator().manual_seed(0), made.sums)
    # the untrained model is persistence: the forecast stays what it was
    now = seen[0][0]
    assert [s[1] for s in seen] == [10, 11, 12, 13]
    assert len(seen[0]) == 2  # from an analysis: its detail has a place
    assert [s[2:] for s in seen[1:]] == [[now], [now], [now]] and changes == [[10, 11], [11, 12], [12, 13]]


def test_a_training_step_takes_bfloat16_where_the_processor_has_units_for_it(monkeypatch):
    cpu = torch.device("cpu")
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"amx_bf16": has})
        for half in (True, False):
            with training_autocast(cpu, half):
                expected = torch.bfloat16 if has and half else torch.float32
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
        with autocast(cpu):  # forecasts
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_random_numbers_depend_on_the_counters_alone():
    a, b, c = (torch.rand(3, generator=generator(*n)) for n in ((0, 2, 5, 7), (0, 2, 5, 7), (0, 2, 5, 8)))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_skill_by_hand():
    truth, analysis = torch.full((1, 2, 2), 4.0), torch.zeros(1, 2, 2)
    forecast = torch.tensor([[[3.0, 3.0], [5.0, 5.0]]])  # error 1 in every cell, persistence 4
    table = skill_table(change_sums(forecast, analysis, truth, None), ("T2M",))
    assert table["rmse"] == {"T2M": 1.0} and table["persistence_rmse"] == {"T2M": 4.0}
    assert table["skill"] == {"T2M": 0.75}
    assert table["change_ratio"]["T2M"] == pytest.approx(np.sqrt(17) / 4)


def test_the_alarm_names_a_model_that_is_persistence():
    assert "is persistence" in persistence_alarm({"T2M": 0.0, "U10": 0.001}, {"T2M": 0.0, "U10": 0.01})
    assert "no better than persistence" in persistence_alarm({"T2M": -0.2, "U10": 0.0}, {"T2M": 0.6, "U10": 0.5})
    assert persistence_alarm({"T2M": 0.3, "U10": -0.1}, {"T2M": 0.6, "U10": 0.5}) == ""


@pytest.fixture(scope="module")
def trained(seven_store, tmp_path_factory):
    """A run of two epochs on the tiny store."""
    run_dir = tmp_path_factory.mktemp("run")
    cfg = train_deterministic.Config(zarr=str(seven_store), run_dir=str(run_dir), epochs=2, validate_every=1, **SIZES)
    assert train_deterministic.main(cfg) == 0
    return cfg, run_dir


def test_a_run_leaves_its_files_and_they_say_what_was_done(trained):
    cfg, run_dir = trained
    assert {p.name for p in run_dir.iterdir()} == {"last.pt", "best.pt", "previous.pt", "log.jsonl", "loss_curves.png"}
    records = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records] == [1, 2]
    for key in ("step", "samples", "loss", "terms", "lr", "grad_norm", "rmse", "persistence_rmse", "skill",
                "samples_per_s", "data_wait", "peak_memory_bytes", "split"):  # fmt: skip
        assert key in records[-1], key
    assert set(records[-1]["terms"]) == {"l1", "spectral", "mse", "gradient"}
    assert records[-1]["split"]["train"][0] == "2024-05-20T00:00"
    checkpoint = load_checkpoint(run_dir / "best.pt")
    assert set(checkpoint) == set(KEYS)
    assert checkpoint["config"]["base_features"] == cfg.base_features
    assert not any(k.startswith(("module.", "_orig_mod.")) for k in [*checkpoint["model"], *checkpoint["ema"]])


def test_running_a_finished_run_again_says_so_and_changes_nothing(trained, capsys):
    cfg, run_dir = trained
    before = {p.name: p.read_bytes() for p in run_dir.iterdir()}
    assert train_deterministic.main(cfg) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in run_dir.iterdir()} == before


def test_more_epochs_go_on_from_where_the_run_ended(trained, capsys, tmp_path):
    cfg, run_dir = trained
    for name in ("last.pt", "log.jsonl"):
        (tmp_path / name).write_bytes((run_dir / name).read_bytes())
    longer = train_deterministic.Config(**{**vars(cfg), "epochs": 3, "run_dir": str(tmp_path)})
    assert train_deterministic.main(longer) == 0
    said = capsys.readouterr().out
    assert "resumed at step" in said and "planned for 2 epochs and goes on to 3" in said
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("moment", ["the last step of an epoch", "writing the log", "writing last.pt"])
def test_a_run_that_stops_around_a_validation_ends_like_an_unbroken_one(moment, trained, tmp_path, monkeypatch):
    """The moments between the last step of an epoch and last.pt, where files of two ages lie side by side."""
    cfg, unbroken = trained
    again = train_deterministic.Config(**{**vars(cfg), "run_dir": str(tmp_path), "save_every": 0.0})
    steps, saves = [], []
    original = {n: getattr(train_deterministic, n) for n in ("update_ema", "write_log", "save_checkpoint")}

    def update(ema, model, n):
        original["update_ema"](ema, model, n)
        steps.append(n)
        if moment == "the last step of an epoch" and len(steps) == 10:  # 40 pairs, four a step
            os.kill(os.getpid(), signal.SIGINT)

    def log(*arguments):
        if moment == "writing the log":
            raise RuntimeError("the power went out")
        original["write_log"](*arguments)

    def save(checkpoint, path, **more):
        saves.append(path.name)
        if moment == "writing last.pt" and "best.pt" in saves and path.name == "last.pt":
            raise RuntimeError("the power went out")
        original["save_checkpoint"](checkpoint, path, **more)

    for name, function in (("update_ema", update), ("write_log", log), ("save_checkpoint", save)):
        monkeypatch.setattr(train_deterministic, name, function)
    if moment == "the last step of an epoch":
        assert train_deterministic.main(again) == 128 + signal.SIGINT
        assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 0 and len(steps) == 10
    else:
        with pytest.raises(RuntimeError):
            train_deterministic.main(again)
    monkeypatch.undo()
    assert train_deterministic.main(again) == 0
    for name in ("last.pt", "best.pt"):
        ours, theirs = (load_checkpoint(d / name) for d in (tmp_path, unbroken))
        assert ours["step"] == theirs["step"]
        assert all(torch.equal(ours["ema"][k], theirs["ema"][k]) for k in theirs["ema"])
    ours, theirs = ([json.loads(x) for x in (d / "log.jsonl").read_text().splitlines()] for d in (tmp_path, unbroken))
    for kept in ("epoch", "step", "loss", "terms", "rmse", "skill", "grad_norm"):
        assert [r[kept] for r in ours] == [r[kept] for r in theirs], kept


def test_a_second_training_in_the_same_folder_is_refused(tmp_path):
    with RunLock(tmp_path), pytest.raises(ValueError, match="another training is running"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):  # free again
        assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_replaces_the_old_one_whole_or_not_at_all(tmp_path, monkeypatch):
    good = dict.fromkeys(KEYS, 1)
    save_checkpoint(good, tmp_path / "last.pt")

    def broken(*_):
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(ValueError, match=r"last\.pt: cannot be written \(no space left\)"):
        save_checkpoint({**good, "step": 2}, tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1


def test_the_one_before_stays_as_previous(tmp_path):
    for step in (1, 2):
        save_checkpoint({**dict.fromkeys(KEYS, 1), "step": step}, tmp_path / "last.pt", keep_previous=True)
    assert load_checkpoint(tmp_path / "previous.pt")["step"] == 1
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 2


def test_a_quiet_run_says_nothing_and_its_preview_shows_a_forecast(seven_store, tmp_path, capfd):
    constants = SIZES | {"preview_every": 1, "quiet": True, "epochs": 2, "validate_every": 2, "rollout_epochs": 0}
    assert train_deterministic.main(train_deterministic.Config(str(seven_store), str(tmp_path), **constants)) == 0
    assert capfd.readouterr() == ("", "")
    picture = matplotlib.image.imread(tmp_path / "preview.png")
    assert picture.shape[1] > 800 and len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50


def test_the_end_of_a_run_is_foretold_once(capsys):
    at = Progress(step=10, started=time.monotonic() - 40)
    for _ in range(2):
        at.tell_end(40)
    said = capsys.readouterr().out
    assert said.count("estimate: 0:02:00 to go, expected end 20") == 1
    Progress(step=10).tell_end(40)
    assert not capsys.readouterr().out

"""Checkpoints and the lock under faults that are real: SIGKILL, flipped bits, files cut off, a full disk."""

import contextlib
import os
import resource
import signal
import time

import numpy as np
import pytest
import torch

from benchmarks.chaos import plant
from tests.test_nine_faults import same
from training.checkpoint import FORMAT, KEYS, Damaged, load_checkpoint, newest_checkpoint, save_checkpoint
from training.files import remove_leftovers
from training.lock import RunLock
from training.log import write_log


def checkpoint(step: int) -> dict:
    weights = torch.randn(40, generator=torch.Generator().manual_seed(step))
    return {**dict.fromkeys(KEYS, 1), "format": FORMAT, "step": step, "model": {"w": weights}}


def forked(work) -> int:
    """The exit status of a process that does `work` and nothing else."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)  # a child that hangs fails the test, not the suite
        try:
            work()
        finally:
            os._exit(1 if isinstance(__import__("sys").exc_info()[1], BaseException) else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def full_disk(size: int):
    """No file of this process can grow beyond `size` bytes: the system refuses, as it does where the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("moment", ["files", "half a file"])
def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(tmp_path, moment):
    for count in range(1, 20):
        run = tmp_path / str(count)
        run.mkdir()
        save_checkpoint(checkpoint(1), run / "last.pt", keep_previous=True)
        save_checkpoint(checkpoint(2), run / "last.pt", keep_previous=True)

        def work(run=run, count=count):
            plant(moment, count)
            save_checkpoint(checkpoint(3), run / "last.pt", keep_previous=True)

        status = forked(work)
        found, note = newest_checkpoint(run)
        assert same(found, checkpoint(found["step"])) and found["step"] in (2, 3) and not note
        assert load_checkpoint(run / "previous.pt")["step"] in (1, 2)
        remove_leftovers(run)
        assert {p.name for p in run.iterdir()} == {"last.pt", "previous.pt"}
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert status == 0 and count == {"files": 7, "half a file": 3}[moment] and found["step"] == 3


def test_any_flipped_bit_is_seen_or_harmless_and_the_one_before_is_taken(tmp_path):
    last, rng = tmp_path / "last.pt", np.random.default_rng(0)
    for step in (1, 2):
        save_checkpoint(checkpoint(step), last, keep_previous=True)
    whole, seen = last.read_bytes(), 0
    for place in rng.choice(8 * len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        last.write_bytes(damaged)
        found, note = newest_checkpoint(tmp_path)
        seen += bool(note)
        assert same(found, checkpoint(1 if note else 2)), place
        assert not note or ("last.pt" in note and "going on from" in note and "previous.pt" in note)
    assert seen > 100  # the rest lie in the zip file's padding
    last.write_bytes(whole)
    weights = whole.index(checkpoint(2)["model"]["w"].numpy().tobytes())
    damaged = bytearray(whole)
    damaged[weights] ^= 1
    last.write_bytes(damaged)  # in a weight, where torch itself would not look
    assert not same(torch.load(last, weights_only=True), checkpoint(2))
    with pytest.raises(Damaged, match="not as it was written"):
        load_checkpoint(last)


def test_a_file_that_is_cut_off_or_gone_gives_way_to_the_one_before(tmp_path):
    last = tmp_path / "last.pt"
    assert newest_checkpoint(tmp_path) == (None, "")
    for step in (1, 2):
        save_checkpoint(checkpoint(step), last, keep_previous=True)
    whole = last.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        last.write_bytes(whole[:size])
        assert newest_checkpoint(tmp_path)[0]["step"] == 1
    last.unlink()
    found, note = newest_checkpoint(tmp_path)
    assert found["step"] == 1 and "last.pt is gone" in note
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(whole[:100])
    with pytest.raises(Damaged, match=r"previous\.pt"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("content, said", [
    ({"weights": torch.ones(3)}, r"got a table of 1 entries \(weights\), which lacks format, model"),
    ({"state_dict": {}, "epoch": 3, "pytorch-lightning_version": "2"}, r"got a table of 3 entries \(state_dict, epoch"),
    (torch.ones(3), "got a Tensor"),
    ({**dict.fromkeys(KEYS, 1), "format": 99}, "got checkpoint format 99, expected 1"),
])  # fmt: skip
def test_a_file_of_another_layout_is_explained(tmp_path, content, said):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=said):
        load_checkpoint(tmp_path / "a.pt")


def test_on_a_full_disk_the_old_files_stay_whole_and_nothing_half_lies_around(tmp_path):
    save_checkpoint(checkpoint(1), tmp_path / "last.pt")
    write_log([{"epoch": 1}], tmp_path / "log.jsonl")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with full_disk(1000):
        with pytest.raises(ValueError, match=r"last\.pt: cannot be written \(File too large\).*Fix: make room"):
            save_checkpoint(checkpoint(2), tmp_path / "last.pt", keep_previous=True)
        with pytest.raises(ValueError, match=r"log\.jsonl: cannot be written"):
            write_log([{"epoch": n} for n in range(1000)], tmp_path / "log.jsonl")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    save_checkpoint(checkpoint(2), tmp_path / "last.pt", keep_previous=True)
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 2


def test_the_lock_is_refused_while_its_holder_lives_and_free_when_it_is_killed(tmp_path):
    run = tmp_path / "a" / "run"
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)  # a child that hangs fails the test, not the suite
        with RunLock(run):
            (run / "held").touch()
            time.sleep(60)
    try:
        while not (run / "held").exists():
            time.sleep(0.005)
        with pytest.raises(ValueError, match="another training is running"), RunLock(run):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with RunLock(run):
        pass
    assert (run / "held").exists()


def test_a_refused_run_leaves_no_folder(tmp_path):
    with RunLock(tmp_path / "a" / "run"):
        assert (tmp_path / "a" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []

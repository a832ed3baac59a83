"""Checkpoints under real faults: SIGKILL, flipped bits, files cut off, a full disk."""

import contextlib
import os
import pickle
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from training.checkpoint import (
    FORMAT,
    KEYS,
    Damaged,
    file_hash,
    load_checkpoint,
    newest_checkpoint,
    replace_file,
    save_checkpoint,
)
from training.log import write_log


def checkpoint(step: int) -> dict:
    weights = torch.randn(40, generator=torch.Generator().manual_seed(step))
    return {**dict.fromkeys(KEYS, 1), "format": FORMAT, "step": step, "model": {"w": weights}}


def is_checkpoint(found: dict, step: int) -> bool:
    """Whether it is checkpoint(step), bit by bit."""
    expected = checkpoint(step)
    weights, others = torch.equal(found["model"]["w"], expected["model"]["w"]), set(KEYS) - {"model"}
    return weights and found.keys() == expected.keys() and all(found[k] == expected[k] for k in others)


def forked(work) -> int:
    """The exit status of a process that does `work` and nothing else."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)  # a child that hangs fails the test, not the suite
        try:
            work()
        finally:
            os._exit(1 if sys.exc_info()[1] else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def full_disk(size: int):
    """No file of this process can grow beyond `size` bytes: the system refuses, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def die_before(count: int) -> None:
    """SIGKILL this process before its count-th call of a function that changes files."""
    calls = iter(range(1, 1000))

    def deadly(function):
        def call(*arguments, **options):
            if next(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for owner, name in ((os, "fsync"), (os, "link"), (os, "replace"), (Path, "unlink"), (Path, "write_bytes")):
        setattr(owner, name, deadly(getattr(owner, name)))


def test_a_kill_at_any_moment_of_saving_leaves_a_complete_checkpoint(tmp_path):
    for count in range(1, 20):
        run = tmp_path / str(count)
        run.mkdir()
        for step in (1, 2):
            save_checkpoint(checkpoint(step), run / "last.pt", keep_previous=True)

        def work(run=run, count=count):
            die_before(count)
            save_checkpoint(checkpoint(3), run / "last.pt", keep_previous=True)

        status = forked(work)
        found, note = newest_checkpoint(run)
        assert found["step"] in (2, 3) and is_checkpoint(found, found["step"]) and not note
        if (run / "previous.pt").exists():
            previous = load_checkpoint(run / "previous.pt")["step"]
            assert previous in {2: (1, 2), 3: (2,)}[found["step"]]
        save_checkpoint(checkpoint(4), run / "last.pt", keep_previous=True)
        assert {p.name for p in run.iterdir()} == {"last.pt", "previous.pt"}  # nothing half-written remains
        assert load_checkpoint(run / "previous.pt")["step"] == found["step"]
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert (status, count, found["step"]) == (0, 7, 3)


def test_any_flipped_bit_is_detected_or_harmless(tmp_path):
    last, rng = tmp_path / "last.pt", np.random.default_rng(0)
    for step in (1, 2):
        save_checkpoint(checkpoint(step), last, keep_previous=True)
    content, detected = last.read_bytes(), 0
    for place in rng.choice(8 * len(content), 300, replace=False):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        last.write_bytes(damaged)
        found, note = newest_checkpoint(tmp_path)
        detected += bool(note)
        assert is_checkpoint(found, 1 if note else 2), place
        assert not note or ("last.pt" in note and "resuming from" in note and "previous.pt" in note)
    assert detected > 100  # the others lie in the padding of the zip file
    damaged = bytearray(content)
    damaged[content.index(checkpoint(2)["model"]["w"].numpy().tobytes())] ^= 1
    last.write_bytes(damaged)  # in a weight, where torch itself does not look
    assert not is_checkpoint(torch.load(last, weights_only=True), 2)
    with pytest.raises(Damaged, match=r"checksum of .* is wrong"):
        load_checkpoint(last)


def test_previous_pt_replaces_a_file_that_is_cut_off_or_missing(tmp_path):
    last = tmp_path / "last.pt"
    assert newest_checkpoint(tmp_path) == (None, "")
    for step in (1, 2):
        save_checkpoint(checkpoint(step), last, keep_previous=True)
    content = last.read_bytes()
    for size in (0, 1, 100, len(content) // 2, len(content) - 1):
        last.write_bytes(content[:size])
        assert newest_checkpoint(tmp_path)[0]["step"] == 1
    last.unlink()
    found, note = newest_checkpoint(tmp_path)
    assert found["step"] == 1 and "last.pt is missing" in note
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(content[:100])
    with pytest.raises(Damaged, match=r"previous\.pt"):
        newest_checkpoint(tmp_path)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code_was_run",)


def raw(content: bytes):
    return lambda path: path.write_bytes(content)


def saved(content):
    return lambda path: torch.save(content, path)


NO_CHECKPOINT = {  # what is written to last.pt, and what is said about it
    "missing": (lambda path: None, "no such file"),
    "a folder": (Path.mkdir, "no such file"),
    "empty": (raw(b""), "is not a complete zip file"),
    "a table": (raw(b"time,T2M\n1,2\n"), "is not a complete zip file"),
    "a GRIB file": (raw(b"GRIB" + bytes(20)), "is not a complete zip file"),
    "a pickle with code": (raw(pickle.dumps(RunsCode())), "is not a complete zip file"),
    "other tensors": (
        saved({"weights": torch.ones(3)}),
        "got a dict with the keys weights, expected a",
    ),
    "another library's": (saved({"state_dict": {}, "epoch": 3}), "got a dict with the keys state_dict, epoch"),
    "a bare tensor": (saved(torch.ones(3)), "got a Tensor with the keys none"),
    "another format": (saved(dict.fromkeys([*KEYS, "rng"], 1)), "got format 1, expected 2."),
    "with code": (
        saved({**checkpoint(1), "config": RunsCode()}),
        "holds Python objects, which could run code, ",
    ),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINT)
def test_a_file_that_is_no_checkpoint_is_an_error_in_one_line_and_runs_no_code(kind, tmp_path, monkeypatch):
    write, message = NO_CHECKPOINT[kind]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "last.pt")
    with pytest.raises(ValueError, match=rf"last\.pt: {message}.*Fix: [^\n]*$") as error:
        load_checkpoint(tmp_path / "last.pt")
    assert "weights_only" not in str(error.value), "the advice is to trust the file"
    if message.startswith(("got", "holds")):  # complete, so no reason to take the checkpoint before
        save_checkpoint(checkpoint(1), tmp_path / "previous.pt")
        with pytest.raises(ValueError, match=message):
            newest_checkpoint(tmp_path)
    assert not (tmp_path / "code_was_run").exists()


@pytest.mark.parametrize("write, name", [
    (lambda path: save_checkpoint(checkpoint(2), path, keep_previous=True), "last.pt"),
    (lambda path: write_log([{"epoch": n} for n in range(1000)], path), "log.jsonl"),
    (lambda path: replace_file(path, lambda temporary: temporary.write_bytes(bytes(2000))), "loss_curves.png"),
])  # fmt: skip
def test_on_a_full_disk_the_old_file_is_intact(tmp_path, write, name):
    save_checkpoint(checkpoint(1), tmp_path / name)
    old = (tmp_path / name).read_bytes()
    with full_disk(1000), pytest.raises(ValueError, match=rf"{name}: cannot be written \(File too large\).*Fix: make"):
        write(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == old
    write(tmp_path / name)
    assert (tmp_path / name).read_bytes() != old


def test_the_checkpoint_before_remains_also_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("this file system has no hard links")

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2, 3):
        save_checkpoint(checkpoint(step), tmp_path / "last.pt", keep_previous=True)
    assert [load_checkpoint(tmp_path / n)["step"] for n in ("last.pt", "previous.pt")] == [3, 2]


def test_the_hash_is_sha_256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

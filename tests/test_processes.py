"""Several processes share the work of one, train its model, and end together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

from tests.conftest import PROJECT, TINY, hour, noisy, write_store
from tests.model_files import read_records, train
from training.checkpoint import load_checkpoint
from training.processes import Processes


def as_two(work, folder: Path) -> str:
    """What the first of two processes prints that do `work`, with the variables that torchrun would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(2):
        if pid := os.fork():
            children.append(pid)
            continue
        signal.alarm(120)  # a child that hangs fails the test, not the suite
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": str(rank)}
        with open(folder / f"printed{rank}", "w", buffering=1) as out, contextlib.redirect_stdout(out):
            try:
                work()
            except BaseException:
                traceback.print_exc(file=out)
                os._exit(1)
        os._exit(0)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    printed = [(folder / f"printed{rank}").read_text() for rank in range(2)]
    assert codes == [0, 0] and not printed[1], printed  # the first process speaks
    return printed[0]


def threads() -> list[str]:
    return [p.read_text() for p in Path("/proc/self/task").glob("*/comm")]


def test_two_processes_share_add_up_and_end_together(tmp_path):
    def work():
        with Processes() as processes:
            rank = processes.rank
            assert (processes.size, processes.first) == (2, rank == 0)
            assert processes.share([10, 11, 12]) == [[10, 12], [11]][rank]
            tensors = torch.full((2, 2), 1.0 + rank), torch.tensor([10 + rank]), torch.tensor([rank]).double()
            processes.sum_(*tensors)
            assert [t.tolist() for t in tensors] == [[[3.0, 3.0], [3.0, 3.0]], [21], [1.0]]
            assert processes.highest(5 - rank) == 5
            processes.same(7, "step")
            with pytest.raises(ValueError, match=r"step: got 0 to 1 in the processes .*the same in all. Fix: "):
                processes.same(rank, "step")
            assert any("gloo" in name for name in threads())
            print("printed once")
        assert not any("gloo" in name for name in threads())  # one would abort the process at its end

    assert as_two(work, tmp_path) == "printed once\n"


def test_a_single_process_has_all_the_work_and_exchanges_nothing(monkeypatch, capsys):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.distributed, "init_process_group", None)
    with Processes() as processes:
        assert (processes.size, processes.rank, processes.first, processes.orphaned) == (1, 0, True, 0)
        tensor = torch.ones(2)
        processes.sum_(tensor)
        processes.same(3, "step")
        assert processes.share([1, 2]) == [1, 2] and processes.highest(3) == 3 and tensor.tolist() == [1, 1]
        print("here")
    assert capsys.readouterr().out == "here\n"


@pytest.mark.parametrize("size, number", [("1", 0), ("2", signal.SIGTERM)])
def test_processes_stop_when_torchrun_has_died(monkeypatch, size, number):
    monkeypatch.setenv("WORLD_SIZE", size)
    processes = Processes()
    assert processes.orphaned == 0
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert processes.orphaned == number


# ---- training


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    return write_store(path, noisy, [hour(n) for n in range(36)], ("T2M", "U10"))


def test_two_processes_give_the_weights_and_the_log_of_one_and_one_goes_on(store, tmp_path, capfd):
    """Up to the rounding of a sum of gradients, which grows from step to step."""
    one, two, constants = tmp_path / "one", tmp_path / "two", {"lr": 1e-4, "validate_every": 3}
    assert train(store, one, epochs=5, **constants) == 0
    said = capfd.readouterr().out, as_two(lambda: train(store, two, epochs=5, **constants), tmp_path)
    for text in said:
        assert [sum(x.startswith(w) for x in text.splitlines()) for w in ("train T2M", "model:", "done:")] == [1, 1, 1]

    def distance() -> float:
        """The largest difference between the averaged weights of both runs."""
        ema = [torch.cat([v.flatten() for v in load_checkpoint(d / "last.pt")["ema"].values()]) for d in (one, two)]
        return float((ema[0] - ema[1]).abs().max())

    assert load_checkpoint(one / "last.pt")["step"] == load_checkpoint(two / "last.pt")["step"] == 32
    assert distance() < 1e-6
    for a, b in zip(read_records(one), read_records(two), strict=True):
        assert (a["epoch"], a["step"]) == (b["epoch"], b["step"])
        for key in ("loss", "grad_norm", "score"):
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-5)
    for run_dir in (two, one):  # trained by two, continued by one
        assert train(store, run_dir, epochs=6, **constants) == 0
    assert distance() < 1e-6


def test_under_torchrun_a_killed_process_ends_the_run_which_can_go_on(store, tmp_path):
    run_dir, options = tmp_path / "run", ("--rollout_epochs", 0, "--validate_every", 1, "--epochs", 300)
    how = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    process = subprocess.Popen(
        [*how, "train_deterministic.py", *map(str, ("--zarr", store, "--run_dir", run_dir, *TINY, *options))],
        cwd=PROJECT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (run_dir / "last.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0 and "SIGKILL" in err
    done = load_checkpoint(run_dir / "last.pt")["epoch"]
    assert train(store, run_dir, rollout_epochs=0, validate_every=1, epochs=done + 1) == 0
    assert load_checkpoint(run_dir / "last.pt")["epoch"] == done + 1

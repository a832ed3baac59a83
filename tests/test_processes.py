"""Several processes share the work of one, add up what they found, and end together."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from tests.conftest import PROJECT
from training.processes import Processes

SCRIPT = """
import sys
from pathlib import Path

import torch

from training.processes import Processes


def threads():
    return [p.read_text() for p in Path("/proc/self/task").glob("*/comm")]


with Processes() as processes:
    rank = processes.rank
    assert (processes.size, processes.first) == (2, rank == 0)
    assert processes.share([10, 11, 12]) == [[10, 12], [11]][rank]
    parameter = torch.zeros(3, requires_grad=True)
    torch.optim.AdamW([parameter])  # imports modules of torch that may keep the group alive
    tensors = torch.full((2, 2), 1.0 + rank), torch.full((3,), 10 + rank), torch.ones(1, dtype=torch.float64) * rank
    processes.sum_(*tensors)
    assert [t.tolist() for t in tensors] == [[[3.0, 3.0], [3.0, 3.0]], [21, 21, 21], [1.0]]
    assert processes.highest(5 - rank) == 5
    processes.same(7, "step")
    try:
        processes.same(rank, "step")
    except ValueError as error:
        message = str(error)
    assert message.startswith("step: got 0 to 1 in the processes of one run, expected the same in all. Fix: ")
    assert processes.orphaned == 0
    assert any("gloo" in name for name in threads())
    print("printed once")
assert not any("gloo" in name for name in threads())  # one would abort the process at its end
print("ended")
"""


def test_two_processes_share_add_up_and_end_together(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py")], cwd=PROJECT, text=True, capture_output=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stdout.count("ended") == 2 and done.stdout.count("printed once") == 1


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

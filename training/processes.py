"""The processes of one run, which torchrun starts on one or several machines: each computes its share of a step.

    torchrun --nproc_per_node=4 train.py

All processes know the same plan, so the same command gives the same weights with any number of them, up to rounding.
"""

import contextlib
import os
import signal

import torch
from torch import Tensor


class Processes:
    """A context manager. Attributes: size (processes in all), rank (0 to size - 1), first (whether rank is 0).

    Only the first process prints: stdout of the others goes nowhere. A single process exchanges nothing.
    """

    def __init__(self):
        self.size, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        self.first = self.rank == 0
        self._parent, self._exit = os.getppid(), contextlib.ExitStack()

    def __enter__(self) -> "Processes":
        if self.size > 1:
            import torch.distributed.nn  # before the group exists: its default arguments would keep the group alive

            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
            self._exit.callback(torch.distributed.destroy_process_group)
        if not self.first:
            nothing = self._exit.enter_context(open(os.devnull, "w"))
            self._exit.enter_context(contextlib.redirect_stdout(nothing))
        return self

    def __exit__(self, *error) -> None:
        self._exit.close()

    def share(self, items: list) -> list:
        """The items of this process; every process passes the same list."""
        return items[self.rank :: self.size]

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes, in one exchange per dtype. Every process passes tensors of
        the same shapes in the same order."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(t.dtype for t in tensors):  # a set would differ in order between processes
            group = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.flatten() for t in group])
            torch.distributed.all_reduce(flat)
            for t, total in zip(group, flat.split([t.numel() for t in group]), strict=True):
                t.copy_(total.view_as(t))

    def highest(self, number: int) -> int:
        """The highest of the numbers that the processes pass. A process waits here for all the others."""
        if self.size == 1:
            return number
        highest = torch.tensor(number)
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
        return int(highest)

    def same(self, number: int, what: str) -> None:
        """ValueError if the processes pass different numbers. what: names the number in the message."""
        low, high = -self.highest(-number), self.highest(number)
        if low != high:
            raise ValueError(
                f"{what}: got {low} to {high} in the processes of one run, expected the same in all. "
                "Fix: start them with the same command, in folders that all of them share"
            )

    @property
    def orphaned(self) -> int:
        """SIGTERM if torchrun, which ends its processes together, has died itself; else 0."""
        return int(signal.SIGTERM) if self.size > 1 and os.getppid() != self._parent else 0

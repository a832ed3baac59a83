"""Several processes that train one model together: torchrun starts them, each takes its share of every optimizer step.

The plan of an epoch is that of a single process. So the same command gives the same weights, up to rounding, with any
number of processes, and a run may be resumed with another number.
"""

import contextlib
import os
import signal

import torch
import torch.distributed as dist
import torch.distributed.nn  # noqa: F401  before any group exists: it keeps the present one in default arguments for good
from torch import Tensor

TEXT = 4000  # bytes of a message between processes


class Team:
    """The processes of this run; one alone where torchrun did not start it. A context manager.

    Only the first process prints, unless it is to be quiet, and writes files.
    """

    def __init__(self, quiet: bool = False):
        self.size, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        self.first, self.quiet, self._quiet = self.rank == 0, quiet, contextlib.ExitStack()
        self._parent = os.getppid()

    def __enter__(self) -> "Team":
        if self.size > 1:
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        if self.quiet or not self.first:
            self._quiet.enter_context(contextlib.redirect_stdout(self._quiet.enter_context(open(os.devnull, "w"))))
        return self

    def __exit__(self, *error) -> None:
        self._quiet.close()
        if self.size > 1:
            dist.destroy_process_group()

    def share(self, items: list) -> list:
        """Those of `items`, the same in every process, that this one takes."""
        return items[self.rank :: self.size]

    def add_up(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes; in one exchange where they are of one kind."""
        if self.size == 1:
            return
        for kind in dict.fromkeys(t.dtype for t in tensors):  # a set would have another order in each process
            same = [t for t in tensors if t.dtype == kind]
            flat = torch.cat([t.flatten() for t in same])
            dist.all_reduce(flat)
            for t, total in zip(same, flat.split([t.numel() for t in same]), strict=True):
                t.copy_(total.view_as(t))

    def add_gradients(self, parameters: list, *sums: Tensor) -> None:
        """Sum the gradients and the vectors `sums` over the processes; one without a task in this step counts as 0."""
        if self.size > 1:
            for p in parameters:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            self.add_up(*(p.grad for p in parameters), *sums)

    def first_text(self, text: str) -> str:
        """The text of the first process that has one, in all of them."""
        if self.size == 1:
            return text
        speaker = self.size - self.highest(self.size - self.rank if text else 0)
        said = torch.zeros(TEXT, dtype=torch.uint8)
        if self.rank == speaker:
            encoded = torch.frombuffer(bytearray(text.encode()[:TEXT]), dtype=torch.uint8)
            said[: len(encoded)] = encoded
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return bytes(said.tolist()).rstrip(b"\0").decode(errors="ignore")

    def refuse_difference(self, step: int) -> None:
        """ValueError where the processes do not go on from the same optimizer step."""
        lowest, highest = -self.highest(-step), self.highest(step)
        if lowest != highest:
            raise ValueError(f"run_dir: got checkpoints of steps {lowest} and {highest} in processes of one run, "
                             "expected the same files for all. Fix: a folder that all of them see")  # fmt: skip

    @property
    def orphaned(self) -> int:
        """SIGTERM where torchrun, which ends its processes together, has died itself; else 0."""
        return signal.SIGTERM if self.size > 1 and os.getppid() != self._parent else 0

    def highest(self, number: int) -> int:
        """The highest of a number that every process has its own of."""
        if self.size == 1:
            return number
        highest = torch.tensor(number)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest)

"""The processes that benchmarks/chaos.py kills: a real run of a command, with SIGKILL to itself at a chosen moment.

A fork server imports the commands once, so that a run starts in milliseconds; everything after the imports is the
command's own code, and SIGKILL cannot be caught.
"""

import multiprocessing
import os
import signal
import stat
import sys
import threading
from pathlib import Path

MODULES = ("train_deterministic", "infer_iterative", "data.build_hrrr")
MOMENTS = {  # (module or class, attribute): SIGKILL before its n-th call
    "accumulation": (("train_step.Learner", "__call__"),),
    "validation": (("verification.validation", "change_sums"),),
    "optimizer": (("training.optimizer.Optimizers", "step"), ("train_deterministic", "update_ema")),
    "files": (("os", "replace"), ("os", "fsync"), ("os", "link"), ("pathlib.Path", "unlink"),
              ("pathlib.Path", "rename"), ("pathlib.Path", "replace"), ("pathlib.Path", "mkdir")),
    "half a file": (("os", "fsync"),),
    "forecast step": (("data.forecast_store.ForecastWriter", "write"),),
    "hour": (("data.write.StoreWriter", "add"),),
}  # fmt: skip


def start(module: str, constants: dict, moment: str = "", count: int = 0, quiet: Path = Path(os.devnull)):
    """A process that runs `module`.main(Config(**constants)) and, where a moment is named, dies at its count-th."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(MODULES))
    process = context.Process(target=child, args=(module, constants, moment, count, str(quiet)), daemon=False)
    process.start()
    return process


def child(module: str, constants: dict, moment: str, count: int, quiet: str) -> None:
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which SIGKILL would leave behind
    with open(quiet, "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    script = __import__(module, fromlist=["main"])
    if moment:
        plant(moment, count)
    sys.exit(script.main(script.Config(**constants)) or 0)


def plant(moment: str, count: int) -> None:
    """Have this process kill itself before the count-th call of what `moment` names, counted over all of them."""
    left = [count]

    def deadly(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if moment == "half a file" and stat.S_ISREG(os.fstat(args[0]).st_mode):
                    os.truncate(f"/proc/self/fd/{args[0]}", os.fstat(args[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for place, name in MOMENTS[moment]:
        owner = find(place)
        setattr(owner, name, deadly(getattr(owner, name)))


def find(place: str):
    """A module, or a class of one, by its dotted name."""
    parts = place.split(".")
    owner = __import__(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(owner, part):
            __import__(".".join(parts[:i]))
        owner = getattr(owner, part)
    return owner

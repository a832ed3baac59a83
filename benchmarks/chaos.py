"""Kill a training at random moments, again and again, and compare its result with that of an uninterrupted run.

    python -m benchmarks.chaos --kills 100 --json benchmarks/results/chaos.json

SIGKILL, SIGTERM or SIGINT comes before a backward pass, before or in the middle of writing a file, or at a random time.
The same command then goes on. When it ends by itself, its checkpoints and its log have to be those of the uninterrupted
run, bit for bit. The JSON file is written after every round. Exit code 1 if a round ended differently.
"""

import contextlib
import json
import math
import multiprocessing
import os
import pkgutil
import random
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.command import run

TRAINING = {"epochs": 4, "rollout_epochs": 2, "rollout_hours": 3.0, "validate_every": 2, "base_features": 4,
            "levels": 1, "accumulate": 3, "save_every": 0.0, "gap": "1h", "train_end": "2024-05-20T15",
            "val_end": "2024-05-20T19"}  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPPED = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes after a signal
MOMENTS = {  # (module or class, attribute): the signal comes before the n-th call
    "accumulation": (("torch.autograd", "backward"),),
    "files": (("os", "replace"), ("os", "fsync"), ("os", "link"), ("pathlib.Path", "unlink"),
              ("pathlib.Path", "rename"), ("pathlib.Path", "replace"), ("pathlib.Path", "mkdir")),
    "half a file": (("os", "fsync"),),
}  # fmt: skip
HIGHEST = {"accumulation": 30, "files": 25, "half a file": 6}  # n is at most this
SECONDS = 3.0  # a random time is at most this long after the start


@dataclass
class Config:
    kills: int = 100  # signals in all
    seconds: float = 1500.0  # time limit
    seed: int = 0  # of the moments
    json: str = ""  # file for the counts; empty: none


def main(cfg: Config) -> int:
    if cfg.kills < 1:
        raise ValueError(f"kills: got {cfg.kills}, expected at least 1. Fix: --kills 100")
    began, rng = time.monotonic(), random.Random(cfg.seed)
    moments, rounds, different = Counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        source, run_dir, messages = (Path(folder) / name for name in ("source.zarr", "run", "messages.txt"))
        write_source(source)
        constants = {**TRAINING, "zarr": str(source), "run_dir": str(run_dir)}
        one_run(constants, messages, rng, moments, last=True)
        uninterrupted = training_result(run_dir)
        while moments.total() < cfg.kills and time.monotonic() - began < cfg.seconds:
            shutil.rmtree(run_dir)
            finished = False
            while not finished:
                last = moments.total() >= cfg.kills or time.monotonic() - began > cfg.seconds
                finished = one_run(constants, messages, rng, moments, last)
            rounds += 1
            different += not same(training_result(run_dir), uninterrupted)
            result = {"kills": moments.total(), "rounds": rounds, "different": different, "moments": dict(moments)}
            if cfg.json:
                Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
    counts = ", ".join(f"{n} {k}" for k, n in sorted(moments.items()))
    print(f"{moments.total()} kills in {rounds} rounds, {different} rounds ended differently; {counts}")
    return int(different > 0)


def one_run(constants: dict, messages: Path, rng: random.Random, moments: Counter, last: bool) -> bool:
    """Start the command and kill it (not if `last`); whether it ended by itself."""
    number, moment = rng.choice(SIGNALS), rng.choice([*MOMENTS, "time"])
    if moment == "half a file":  # only a process that dies at once leaves half a file
        number = signal.SIGKILL
    planted = () if last or moment == "time" else (moment, rng.randint(1, HIGHEST[moment]), number)
    process = start(constants, messages, *planted)
    if moment == "time" and not last:
        process.join(rng.uniform(0, SECONDS))
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(process.pid, number)
    process.join()
    if process.exitcode:
        assert not last and process.exitcode in STOPPED, (
            f"exit code {process.exitcode} after {number.name}:\n{messages.read_text()}"
        )
        moments[f"{number.name} ({moment})"] += 1
    return process.exitcode == 0


# ---- the process that is killed


def start(constants: dict, messages: Path, moment: str = "", count: int = 0, number: int = signal.SIGKILL):
    """A process that trains, and gets the signal at the count-th call of a moment of MOMENTS. A fork server imports
    the script once, so that a run starts in milliseconds. Returns when the training begins."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_deterministic"])
    receiver, sender = context.Pipe(duplex=False)  # an Event's semaphore would outlive a killed process
    process = context.Process(target=train, args=(sender, constants, str(messages), moment, count, number))
    process.start()
    receiver.poll(60)
    return process


def train(sender, constants: dict, messages: str, moment: str, count: int, number: int) -> None:
    from tqdm import tqdm

    import train_deterministic

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # tqdm's own is a semaphore of the system, which SIGKILL would leave behind
    with open(messages, "w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if moment:
        plant(moment, count, number)
    try:
        sender.send("the training begins")
        sys.exit(train_deterministic.main(train_deterministic.Config(**constants)) or 0)
    except KeyboardInterrupt:  # as data.command.run
        sys.exit(128 + signal.SIGINT)


def plant(moment: str, count: int, number: int = signal.SIGKILL) -> None:
    """Send this process the signal before the count-th call of the functions of `moment`, all counted together."""
    left = [count]

    def deadly(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if moment == "half a file" and stat.S_ISREG(os.fstat(args[0]).st_mode):
                    os.truncate(f"/proc/self/fd/{args[0]}", os.fstat(args[0]).st_size // 2)
                os.kill(os.getpid(), number)
            return function(*args, **kwargs)

        return call

    for place, name in MOMENTS[moment]:
        owner = pkgutil.resolve_name(place)
        setattr(owner, name, deadly(getattr(owner, name)))


# ---- what it trains on, and its result


def write_source(path: Path) -> None:
    """A training store of 24 hours of moving waves with noise."""
    from benchmarks.fuzz_cases import write_weather  # only here: each process that is started imports this file

    noise = lambda name, n, field: field + np.random.default_rng([len(name), n]).normal(size=field.shape)  # noqa: E731
    write_weather(path, ["T2M", "U10"], (12, 16), spoil=noise, hours=24)


def training_result(run_dir: Path) -> dict:
    """The checkpoints, the log without seconds and bytes, and the names of all files."""
    measured = {"samples_per_s", "data_wait", "peak_memory_bytes"}
    log = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    out: dict = {"log": [{k: v for k, v in r.items() if k not in measured} for r in log]}
    for name in ("last.pt", "best.pt"):  # previous.pt depends on where the run was stopped
        out[name] = torch.load(run_dir / name, weights_only=True)
        out[name]["config"]["run_dir"] = ""
    return out | {"files": sorted(p.name for p in run_dir.iterdir())}


def same(a, b) -> bool:
    """Whether two results are equal, bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


if __name__ == "__main__":
    run(Config, main, __doc__)

"""How long data.check_store takes, beside reading every field of the same store once and doing nothing with it.

    python -m benchmarks.check [--store day.zarr] [--json benchmarks/results/check.json]

Without --store it looks at a full-CONUS day of synthetic fields (benchmarks/build.py) in a temporary folder. Both read
with the same number of threads, in turn, from warm cache; medians of the repeats.
"""

import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.build import synthetic_day
from data import check_store
from data.command import run
from data.store import Store


@dataclass
class Config:
    store: str = ""  # a training store; empty: a synthetic full-CONUS day
    hours: int = 24  # of the synthetic day
    threads: int = 4  # that read
    repeats: int = 5  # of each
    json: str = ""  # file for the figures


def main(cfg: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = cfg.store or f"{folder}/day.zarr"
        if not cfg.store:
            synthetic_day(Path(path), cfg.hours)
        reading, checking = [], []
        for _ in range(cfg.repeats):
            reading.append(seconds(read, path, cfg.threads))
            checking.append(seconds(check, path, cfg.threads))
    read_s, check_s = statistics.median(reading), statistics.median(checking)
    print(f"read every field {read_s:.2f} s, check_store {check_s:.2f} s: {check_s / read_s:.2f} times")
    if cfg.json:
        result = {"store": cfg.store or f"synthetic CONUS, {cfg.hours} hours, 7 variables", "threads": cfg.threads,
                  "cores": os.cpu_count(), "read_s": read_s, "check_s": check_s, "ratio": check_s / read_s}  # fmt: skip
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {cfg.json}")


def seconds(work, *arguments) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def read(path: str, threads: int) -> None:
    store = Store(path)
    with ThreadPoolExecutor(threads) as pool:
        for index in range(len(store.times)):
            list(pool.map(lambda name, i=index: store.dataset[name].variable[i].values, store.names))


def check(path: str, threads: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        check_store.main(check_store.Config(path, threads=threads, sidecar=False))


if __name__ == "__main__":
    run(Config, main, __doc__)

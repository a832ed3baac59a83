"""Train for many short epochs and see whether memory, open files and threads stay what they are.

    python -m benchmarks.leak [--epochs 200] [--json benchmarks/results/leak.json]

Every epoch validates, saves, logs and draws. The resident set is read after each; the mean of the last quarter of the
epochs has to lie within 2 % of that of the second quarter, and no file, thread or process may be left over.
"""

import gc
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from unittest import mock

import torch

import train_deterministic
from benchmarks.chaos import TRAINING, write_source
from data.command import run

LIMIT = 0.02  # share of the resident set


@dataclass
class Config:
    epochs: int = 200  # of 14 pairs, each with a validation
    json: str = ""  # file for the figures


def main(cfg: Config) -> int:
    torch.set_num_threads(1)
    rows: list[dict] = []
    write = train_deterministic.write_log

    def measured(records, path) -> None:
        write(records, path)
        gc.collect()
        rows.append(counts())

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(train_deterministic, "write_log", measured):
        write_source(Path(folder) / "source.zarr")
        constants = TRAINING | {"zarr": f"{folder}/source.zarr", "run_dir": f"{folder}/run", "epochs": cfg.epochs,
                                "validate_every": 1, "rollout_epochs": cfg.epochs // 4, "save_every": 60.0,
                                "accumulate": 7, "rollout_hours": 2.0}  # fmt: skip
        train_deterministic.main(train_deterministic.Config(**constants))
    quarter = len(rows) // 4
    parts = {k: [r[k] for r in rows[quarter : 2 * quarter]] for k in rows[0]}
    last = {k: [r[k] for r in rows[-quarter:]] for k in rows[0]}
    growth = mean(last["resident_bytes"]) / mean(parts["resident_bytes"]) - 1
    left = {k: max(last[k]) - max(parts[k]) for k in ("files", "threads", "children")}
    sound = abs(growth) < LIMIT and max(left.values()) <= 0
    print(f"{len(rows)} epochs: resident set {mean(last['resident_bytes']) / 1e6:.1f} MB in the last quarter, "
          f"{growth:+.2%} against the second; more files {left['files']}, threads {left['threads']}, processes "
          f"{left['children']}: {'flat' if sound else 'NOT FLAT'}")  # fmt: skip
    if cfg.json:
        result = {"epochs": len(rows), "growth": growth, "limit": LIMIT, "left": left, "flat": sound, "rows": rows}
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(result) + "\n")
        print(f"wrote {cfg.json}")
    return 0 if sound else 1


def counts() -> dict[str, int]:
    """Of this process: resident bytes, open files, threads, processes it has started and not taken leave of."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {"resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"), "files": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")), "children": len(children)}  # fmt: skip


if __name__ == "__main__":
    run(Config, main, __doc__)

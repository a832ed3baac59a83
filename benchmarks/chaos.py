"""Kill training, building and forecasting at random moments, again and again, and compare with what never was killed.

    python -m benchmarks.chaos [--kills 120] [--seconds 1500] [--json benchmarks/results/chaos.json]

SIGKILL comes inside an accumulated step, inside a validation, before or in the middle of writing a file, and at random
times. After each the same command goes on. Where it ends by itself its result has to be that of an unbroken run:
weights, optimizer, averaged weights, schedule, counters and log of a training, every byte of a store's arrays. The
figures are written after every round; run again with the same --json it goes on counting.
"""

import json
import math
import random
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from benchmarks.chaos_child import start
from data.command import run
from data.grid import HRRR_SPACING, LAMBERT_HRRR, Grid, lambert_latlon
from data.write import StoreWriter

NAMES = ("T2M", "U10")
COUNTS = {  # by command: moments and up to which call of each
    "training": {"accumulation": 20, "validation": 12, "optimizer": 10, "files": 25, "half a file": 6, "time": 2.5},
    "building": {"hour": 10, "files": 60, "half a file": 20, "time": 1.5},
    "forecast": {"forecast step": 12, "files": 60, "time": 1.0},
}
TRAINING = {"epochs": 4, "rollout_epochs": 2, "rollout_hours": 3.0, "validate_every": 2, "validate_hours": 2.0,
            "base_features": 4, "levels": 1, "blocks": 1, "accumulate": 3, "save_every": 0.0, "gap": "1h",
            "train_end": "2024-05-20T15", "val_end": "2024-05-20T19"}  # fmt: skip


@dataclass
class Config:
    kills: int = 120  # in all
    seconds: float = 1500.0  # at most, of this call
    seed: int = 0  # chooses commands and moments
    json: str = ""  # file for the figures, which also say where to go on


def main(cfg: Config) -> None:
    results = read_results(cfg)
    stop, rng = time.monotonic() + cfg.seconds, random.Random(f"{cfg.seed} {sum(r['kills'] for r in results.values())}")
    with tempfile.TemporaryDirectory() as folder:
        commands = prepare(Path(folder))
        while sum(r["kills"] for r in results.values()) < cfg.kills and time.monotonic() < stop:
            fewest = min(results, key=lambda n: results[n]["kills"] / SHARES[n])
            one_round(fewest, commands[fewest], rng, results[fewest], stop)
            write_results(cfg, results)
    for name, row in results.items():
        print(f"{name}: {row['kills']} kills in {row['rounds']} rounds, {row['different']} rounds ended differently; "
              f"{', '.join(f'{n} {k}' for n, k in sorted(row['moments'].items()))}")  # fmt: skip


SHARES = {"training": 3, "building": 1, "forecast": 1}  # of the kills


@dataclass
class Command:
    """One command: its module and constants, where it writes, its unbroken result, and what makes two equal."""

    module: str
    constants: dict
    out: Path
    whole: object
    result: object  # function of `out`


def one_round(name: str, command: Command, rng: random.Random, row: dict, stop: float) -> None:
    """Kill until a run ends by itself, each time going on with the same command, then compare."""
    clear(command.out)
    while True:
        moment = rng.choice(list(COUNTS[name]))
        most = COUNTS[name][moment]
        finish = time.monotonic() > stop or rng.random() < 0.1  # now and then one is let alone
        count = 0 if moment == "time" else rng.randint(1, most)
        process = start(command.module, command.constants, "" if finish or moment == "time" else moment, count)
        if moment == "time" and not finish:
            process.join(rng.uniform(0, most))
            process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            row["kills"] += 1
            row["moments"][moment] = row["moments"].get(moment, 0) + 1
            continue
        assert process.exitcode == 0, f"{name} ended with {process.exitcode} after a kill"
        row["rounds"] += 1
        row["different"] += not same(command.result(command.out), command.whole)
        return


def prepare(folder: Path) -> dict[str, Command]:
    """A source of 24 hours, and the unbroken result of each command."""
    source = folder / "source.zarr"
    write_source(source)
    run_dir, store, forecast = folder / "run", folder / "built.zarr", folder / "forecast.zarr"
    train = {"zarr": str(source), "run_dir": str(run_dir), **TRAINING}
    build = {"source": "zarr", "path": str(source), "out": str(store), "processes": 1}
    best = folder / "best.pt"
    infer = {"checkpoint": str(best), "zarr": str(source), "init_time": ["2024-05-20T20"], "hours": 10.0,
             "out": str(forecast)}  # fmt: skip
    out = {}
    for name, module, constants, place, result in (
        ("training", "train_deterministic", train, run_dir, training_result),
        ("building", "data.build_hrrr", build, store, store_result),
        ("forecast", "infer_iterative", infer, forecast, store_result),
    ):
        process = start(module, constants, quiet=folder / "said.txt")
        process.join()
        assert process.exitcode == 0, (folder / "said.txt").read_text()
        out[name] = Command(module, constants, place, result(place), result)
        if name == "training":
            shutil.copy(place / "best.pt", best)
    return out


def write_source(path: Path) -> None:
    """24 hours of smooth moving fields with detail, as real ones have."""
    shape, hour = (12, 16), np.timedelta64(1, "h")
    x, y = HRRR_SPACING * np.arange(shape[1]), HRRR_SPACING * np.arange(shape[0])
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    grid = Grid(shape, latitude=latitude, longitude=longitude, y=y, x=x, projection=LAMBERT_HRRR)
    with StoreWriter(path, list(NAMES), grid, {"source": "benchmarks.chaos"}) as store:
        for n in range(24):
            rng = np.random.default_rng(n)
            wave = np.sin(2 * np.pi * (np.arange(shape[1]) - 0.7 * n) / 16 + 0.3 * np.arange(shape[0])[:, None])
            fields = {"T2M": 290 + 4 * wave, "U10": 2 + 3 * wave}
            store.write(np.datetime64("2024-05-20T00", "ns") + n * hour,
                        {k: (v + rng.normal(size=shape)).astype(np.float32) for k, v in fields.items()})  # fmt: skip


def training_result(run_dir: Path) -> dict:
    """What a training leaves, without what is measured in seconds and bytes."""
    timed = {"samples_per_s", "data_wait", "peak_memory_bytes"}
    log = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    out: dict = {"log": [{k: v for k, v in r.items() if k not in timed} for r in log]}
    for name in ("last.pt", "best.pt", "previous.pt"):
        if (run_dir / name).exists():
            out[name] = torch.load(run_dir / name, weights_only=True)
            out[name]["config"]["run_dir"] = ""
    out["previous.pt"] = None  # the one before: another one where the run was cut elsewhere
    out["files"] = sorted(p.name for p in run_dir.iterdir())
    return out


def store_result(path: Path) -> dict:
    """Everything in a store, without the history; and which files lie around it."""
    with xr.open_zarr(path, chunks=None) as dataset:
        values = {str(n): (v.dims, v.values, str(sorted(v.attrs.items()))) for n, v in dataset.variables.items()}
    return {"values": values, "files": sorted(p.name for p in path.parent.glob(f"{path.name}*"))}


def same(a, b) -> bool:
    """Whether two results are equal, bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def clear(out: Path) -> None:
    """Remove the result of a round and whatever it left beside it."""
    for left in out.parent.glob(f"{out.name}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def read_results(cfg: Config) -> dict:
    if cfg.json and Path(cfg.json).exists():
        return json.loads(Path(cfg.json).read_text())["commands"]
    return {name: {"kills": 0, "rounds": 0, "different": 0, "moments": {}} for name in COUNTS}


def write_results(cfg: Config, results: dict) -> None:
    if cfg.json:
        total = {k: sum(r[k] for r in results.values()) for k in ("kills", "rounds", "different")}
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps({**total, "commands": results}, indent=1) + "\n")


if __name__ == "__main__":
    run(Config, main, __doc__)

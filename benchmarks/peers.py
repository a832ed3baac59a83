"""Our UNet beside those of MONAI and diffusers: pairs a second and peak memory at equal parameters.

    pip install -r requirements-peers.txt
    python -m benchmarks.peers --json benchmarks/results/peers.json
    python -m benchmarks.peers --shape 512 512 --parts speed process

The step is that of train_deterministic.py (benchmarks/memory.py), with another network in the place of ours: the same
fields, loss and optimizers (benchmarks/peer_models.py). Parts:
  count    peak bytes of a step on the full domain on fake tensors, in bfloat16 as on a GPU (CUDA: the allocator's too)
  speed    whole training steps on --shape, the networks in turn within each repeat; medians, and ratios within a repeat
  process  what a process of its own needs at most for such steps, beyond what it had before (CPU only)
Each network runs in the precision and memory layout in which a short trial finds it fastest. Parts and grids that
--json has of the same device and networks stay there.
"""

import json
import multiprocessing
import statistics as stats
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

import train_deterministic
from benchmarks import memory
from benchmarks.memory import KINDS as STEPS
from benchmarks.memory import NAMES
from benchmarks.peer_models import KINDS, Peer, packages_of, refuse_missing, versions
from benchmarks.peer_rows import (
    Row,
    Setting,
    clock_of,
    constants_of,
    new_step,
    rows_of,
    seconds,
    standing_for_ours,
    table,
    trial,
)
from data import files
from data.command import nearest, run
from data.forcing import CLOCK_FEATURES
from training.device import choose_device, peak_memory_bytes

FULL = (1059, 1799)  # cells of the full domain
TRIAL = 256  # cells on a side, at most, of the grid of the trial
Part = Literal["count", "speed", "process"]


@dataclass
class Config:
    peers: tuple[str, ...] = tuple(KINDS)  # monai, diffusers, diffusers_2x2
    parts: tuple[Part, ...] = ("count", "speed", "process")
    shape: tuple[int, ...] = ()  # cells, y and x, of speed and process; empty: 256 x 256 on a CPU, full CONUS on a GPU
    base_features: int = 40  # of ours; peers have as many parameters
    repeats: int = 5  # timed steps of each network
    muon: bool = True  # peers too train the weights between hidden features with Muon; False: theirs all with AdamW
    json: str = ""  # file to write the figures to; empty: none


def main(cfg: Config) -> None:
    refuse_bad(cfg)
    device, rows = choose_device(), rows_of(cfg.peers)
    shape = tuple(cfg.shape) or (FULL if device.type == "cuda" else (TRIAL, TRIAL))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    about = {
        "device": name, "torch": torch.__version__, "packages": versions(packages_of(cfg.peers)),
        "clock": clock_of(device), "base_features": cfg.base_features, "muon": cfg.muon, "networks": networks(cfg),
    }  # fmt: skip
    print(f"{name}, base {cfg.base_features}, {shape[0]} x {shape[1]} cells; full domain {FULL[0]} x {FULL[1]}")
    for k, network in about["networks"].items():
        print(f"{k}: {network['parameters'] / 1e6:.2f} million parameters, {network['of_ours']:.2f} of ours, "
              f"widths {network['widths']}, {network['multiply_adds_per_cell']} multiply-adds a cell")  # fmt: skip
    results = {**about, "grid": list(shape), **earlier(cfg.json, about)}

    def keep(part: str, grid: tuple[int, int], figures: dict) -> None:
        results[part] = {**results.get(part, {}), f"{grid[0]} x {grid[1]}": figures}
        if cfg.json:
            files.replace(Path(cfg.json), json.dumps(results, indent=1) + "\n")

    if "count" in cfg.parts:
        keep("count", FULL, counts(cfg, rows, device))
    timed = {n: row for n, row in rows.items() if row.kind == "ours" or row.mode == "fast"}
    if {"speed", "process"} & set(cfg.parts):
        settings = trial(cfg, timed, tuple(min(n, TRIAL) for n in shape), device)
    if "speed" in cfg.parts:
        keep("speed", shape, speeds(cfg, timed, settings, shape, device))
    if "process" in cfg.parts and device.type == "cpu":
        keep("process", shape, processes(cfg, timed, settings, shape))
    if cfg.json:
        print(f"wrote {cfg.json}")


def earlier(path: str, about: dict) -> dict:
    """The parts that a run of the same networks on the same device has written into the file."""
    if not path or not Path(path).exists():
        return {}
    found = json.loads(Path(path).read_text())
    same = all(found.get(k) == v for k, v in about.items())
    return {k: found[k] for k in get_args(Part) if k in found} if same else {}


def refuse_bad(cfg: Config) -> None:
    if unknown := [p for p in cfg.peers if p not in KINDS]:
        raise ValueError(
            f"peers: got {unknown[0]}, expected some of {' '.join(KINDS)}. Fix: {nearest(unknown[0], KINDS)}"
        )
    if len(cfg.shape) not in (0, 2) or any(n < 16 for n in cfg.shape):
        raise ValueError(f"shape: got {cfg.shape}, expected two numbers from 16 on. Fix: --shape 256 256")
    for name in ("repeats", "base_features"):
        if not getattr(cfg, name) > 0:
            raise ValueError(f"{name}: got {getattr(cfg, name)}, expected a positive number. Fix: give one")
    refuse_missing(packages_of(cfg.peers))


def networks(cfg: Config) -> dict:
    """By kind, for the seven variables: parameters, widths by level, multiply-adds of a forward pass per cell."""
    constants, out, side = train_deterministic.Config(base_features=cfg.base_features, shift=False), {}, 64
    sizes = (cfg.base_features, constants.levels, constants.blocks, constants.history)
    forcing = len(memory.Forcing(memory.grid_of((side, side)), memory.LEAD, NAMES, None).names)
    fields = [torch.zeros(1, 1 + constants.history, len(NAMES), side, side), torch.zeros(1, forcing, side, side)]
    for kind in ("ours", *cfg.peers):
        network = memory.ResidualUNet if kind == "ours" else partial(Peer, kind=kind)
        net = network(len(NAMES), forcing, CLOCK_FEATURES, *sizes).requires_grad_(False)
        number = sum(p.numel() for p in net.parameters())
        with FlopCounterMode(display=False) as counter:
            net(*fields, torch.zeros(1, CLOCK_FEATURES))
        widths = [cfg.base_features * min(2**i, 4) for i in range(constants.levels + 1)]
        out[kind] = {
            "parameters": number, "widths": widths if kind == "ours" else net.widths,
            "of_ours": round(number / out.get("ours", {"parameters": number})["parameters"], 3),
            "multiply_adds_per_cell": round(counter.get_total_flops() / 2 / side**2),
        }  # fmt: skip
    return out


# --- memory ---


def counts(cfg: Config, rows: dict[str, Row], device: torch.device) -> dict:
    out: dict = {}
    for n, row in rows.items():
        with standing_for_ours(cfg, row, None):
            out[n] = memory.counted(FULL, row.mode, constants_of(cfg, row))
            if device.type == "cuda":
                out[n]["cuda"] = memory.measured(FULL, row.mode, constants_of(cfg, row))
    for figures in out.values():
        figures["of_lean"] = figures["training"] / out["lean"]["training"]
    kinds = [k.replace("_", " ") for k in STEPS]
    lines = [[rows[n].text, *(f"{f[k] / 1e6:.0f}" for k in STEPS), f"{f['of_lean']:.2f}"] for n, f in out.items()]
    table(f"Peak of a step on {FULL[0]} x {FULL[1]} cells, MB, counted", ["", *kinds, "training / our lean"], lines)
    if device.type == "cuda":
        lines = [[rows[n].text, *(f"{f['cuda'][k][a] / 1e6:.0f}" for k in STEPS for a in ("allocated", "reserved"))]
                 for n, f in out.items()]  # fmt: skip
        table("The same, MB, by the GPU's allocator", ["", *(f"{k} {a}" for k in kinds for a in ("in use", "taken"))],
              lines)  # fmt: skip
    return out


def status(key: str) -> int | None:
    """A figure in bytes of this process from Linux; None elsewhere."""
    try:
        text = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return None
    return 1024 * int(text.split(f"{key}:")[1].split()[0])


def one_process(cfg: Config, row: Row, setting: Setting, shape: tuple[int, int], threads: int) -> int:
    """The highest resident memory during two training steps, beyond what the process had before them."""
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    seconds(new_step(cfg, row, setting, (16, 16), device).train, device)  # what libraries load at the first step
    before = status("VmRSS") or peak_memory_bytes(device)
    with standing_for_ours(cfg, row, setting):
        step = new_step(cfg, row, setting, shape, device)
        step.train()
        step.train()
    return (status("VmHWM") or peak_memory_bytes(device)) - before


def processes(cfg: Config, rows: dict[str, Row], settings: dict[str, Setting], shape: tuple[int, int]) -> dict:
    out: dict = {}
    for n, row in rows.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(one_process, (cfg, row, settings[n], shape, torch.get_num_threads()))
        out[n] = {"setting": str(settings[n]), "training": peak}
    for figures in out.values():
        figures["of_lean"] = figures["training"] / out["lean"]["training"]
    lines = [[rows[n].text, f["setting"], f"{f['training'] / 1e6:.0f}", f"{f['of_lean']:.2f}"] for n, f in out.items()]
    table(f"Peak of the process in training steps on {shape[0]} x {shape[1]} cells, MB, beyond that before",
          ["", "as", "MB", "/ our lean"], lines)  # fmt: skip
    return out


# --- speed ---


def speeds(cfg: Config, rows: dict[str, Row], settings: dict[str, Setting], shape, device: torch.device) -> dict:
    steps = {n: new_step(cfg, row, settings[n], shape, device) for n, row in rows.items()}
    times: dict[str, list[float]] = {n: [] for n in rows}
    for _ in range(1 + cfg.repeats):  # the first is a warm-up
        for n, step in steps.items():
            with standing_for_ours(cfg, rows[n], settings[n]):
                times[n].append(seconds(step.train, device))
    out = {}
    for n, taken in times.items():
        ratios = [a / b for a, b in zip(taken[1:], times["fast"][1:], strict=True)]
        out[n] = {"setting": str(settings[n]), "pairs_per_s": 1 / stats.median(taken[1:]), "seconds": taken[1:],
                  "fast_is_ahead_by": stats.median(ratios), "least": min(ratios)}  # fmt: skip
    lines = [[rows[n].text, str(settings[n]), f"{f['pairs_per_s']:.3f}", f"{f['fast_is_ahead_by']:.2f}",
              f"{f['least']:.2f}"] for n, f in out.items()]  # fmt: skip
    table(f"Training on {shape[0]} x {shape[1]} cells, medians of {cfg.repeats}",
          ["", "as", "pairs/s", "our fast / it", "least of the repeats"], lines)  # fmt: skip
    return out


if __name__ == "__main__":
    run(Config, main, __doc__)

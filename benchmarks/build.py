"""Build a full-CONUS day and compare: our store builder in one and several processes, and a plain xarray to_zarr.

    python -m benchmarks.build [--hours 24] [--repeats 3] [--json benchmarks/results/build.json]

The source is a zarr store of synthetic fields on HRRR's grid (1059 x 1799, seven variables, one chunk per hour). Each
way reads it and writes a store of its own, in turn; medians of the repeats. Memory is the resident set of the command
and of all processes it starts, added up every 20 ms: pages that they share count more than once.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.command import run
from data.grid import HRRR_SPACING, HRRR_X0, HRRR_Y0, LAMBERT_HRRR, Grid, lambert_latlon
from data.variables import TABLE
from data.write import StoreWriter

SHAPE = (1059, 1799)
TO_ZARR = """
import sys, xarray as xr
source = xr.open_zarr(sys.argv[1], chunks=None)
source.drop_encoding().to_zarr(sys.argv[2], encoding={n: {"chunks": (1, *v.shape[1:])} for n, v in
                                                      source.data_vars.items() if v.ndim == 3})
"""


@dataclass
class Config:
    hours: int = 24  # of the synthetic day
    repeats: int = 3  # of each way
    processes: int = 2  # of the builder that uses several
    folder: str = ""  # where the stores go; empty: a temporary folder
    json: str = ""  # file for the figures


def main(cfg: Config) -> None:
    place = Path(cfg.folder or tempfile.mkdtemp())
    source, out = place / "day.zarr", place / "out.zarr"
    if not source.exists():
        print(f"making {source}", flush=True)
        synthetic_day(source, cfg.hours)
    builder = [sys.executable, "-m", "data.build_hrrr", "--source", "zarr", "--path", str(source), "--out", str(out)]
    ways = {
        "build_hrrr, 1 process": [*builder, "--processes", "1"],
        f"build_hrrr, {cfg.processes} processes": [*builder, "--processes", str(cfg.processes)],
        "build_hrrr, its own choice": builder,
        "xarray to_zarr": [sys.executable, "-c", TO_ZARR, str(source), str(out)],
    }
    found: dict[str, list[dict]] = {name: [] for name in ways}
    for _ in range(cfg.repeats):
        for name, command in ways.items():
            shutil.rmtree(out, ignore_errors=True)
            found[name].append(measure(command) | {"disk_mb": size_of(out)})
    shutil.rmtree(out, ignore_errors=True)
    fields = cfg.hours * len(TABLE) * 4 * np.prod(SHAPE) / 1e6  # MB
    rows = []
    print(f"{cfg.hours} hours, {fields:.0f} MB of float32 fields; medians of {cfg.repeats}")
    print(f"{'':28s} {'s':>6s} {'hours/s':>8s} {'MB/s':>6s} {'MiB resident':>13s} {'MB on disk':>11s}")
    for name, each in found.items():
        seconds, memory, disk = (statistics.median(r[k] for r in each) for k in ("seconds", "peak_mib", "disk_mb"))
        rows.append({"way": name, "seconds": seconds, "hours_per_s": cfg.hours / seconds,
                     "mb_per_s": fields / seconds, "peak_resident_mib": memory, "disk_mb": disk})  # fmt: skip
        print(
            f"{name:28s} {seconds:6.1f} {cfg.hours / seconds:8.2f} {fields / seconds:6.0f} {memory:13.0f} {disk:11.0f}"
        )
    if cfg.json:
        about = {"grid": SHAPE, "hours": cfg.hours, "cores": os.cpu_count(), "repeats": cfg.repeats, "rows": rows}
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(about, indent=1) + "\n")
        print(f"wrote {cfg.json}")
    if not cfg.folder:
        shutil.rmtree(place)


def synthetic_day(path: Path, hours: int) -> None:
    """Fields that pack about as real ones do: smooth waves and fine noise, rounded to steps as GRIB rounds them."""
    x, y = HRRR_X0 + HRRR_SPACING * np.arange(SHAPE[1]), HRRR_Y0 + HRRR_SPACING * np.arange(SHAPE[0])
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    static = {"orography": np.zeros(SHAPE, np.float32), "land_sea_mask": np.ones(SHAPE, np.float32)}
    grid = Grid(SHAPE, latitude=latitude, longitude=longitude, y=y, x=x, projection=LAMBERT_HRRR, static=static)
    rng = np.random.default_rng(0)
    fine = rng.standard_normal(SHAPE).astype(np.float32)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    plan = {"REFC": (-30, 30, -10, 75, 2**-4), "T2M": (288, 8, 180, 340, 2**-4), "D2M": (275, 7, 180, 340, 2**-4),
            "U10": (1, 5, -90, 90, 2**-4), "V10": (-2, 5, -90, 90, 2**-4), "CAPE": (-500, 1500, 0, 6000, 8.0),
            "CIN": (60, 100, -500, 0, 2.0)}  # fmt: skip  # mean, wave, lowest, highest, step
    with StoreWriter(path, list(plan), grid, {"source": "synthetic fields of benchmarks/build.py"}) as store:
        for h in range(hours):
            fields = {}
            for k, (name, (mean, wave, low, high, step)) in enumerate(plan.items()):
                field = mean + wave * np.sin((columns - 8 * h) / (150 + 20 * k)) * np.cos(rows / (130 + 10 * k))
                field += 0.03 * wave * np.roll(fine, 8 * h + k, 1)
                fields[name] = np.clip(np.round(field / step) * step, low, high)
                if name == "CIN":
                    fields[name] = -np.abs(fields[name])
            fields["D2M"] = np.minimum(fields["D2M"], fields["T2M"])
            store.write(np.datetime64("2024-05-20", "ns") + h * np.timedelta64(1, "h"), fields)


def measure(command: list[str]) -> dict:
    """Seconds, and the largest sum of resident memory of a command and its processes, MiB."""
    peak, running = [0.0], threading.Event()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def watch() -> None:
        while not running.wait(0.02):
            peak[0] = max(peak[0], resident(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - started
    running.set()
    watcher.join()
    if process.returncode:
        raise ValueError(f"{' '.join(command[:4])} ended with {process.returncode}: {errors[-400:]}")
    return {"seconds": seconds, "peak_mib": peak[0]}


def resident(pid: int) -> float:
    """Resident memory of a process and its descendants, MiB (Linux)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(resident(int(child)) for child in below)


def size_of(path: Path) -> float:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 1e6


if __name__ == "__main__":
    run(Config, main, __doc__)

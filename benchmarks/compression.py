"""Size and reading speed of ways to store real fields: which compression should a training store have?

    python -m benchmarks.compression --conus FILE.grib2 --folder hrrr_grib --json benchmarks/results/compression.json

Fields: full-CONUS reflectivity (1059 x 1799, one message) and the hours of a folder of HRRR GRIB2 files. Each is
written one chunk per hour and read back; every way reads the same hours in turn, and the median of the repeats is
given (speeds of the full domain only). Rounding keeps the mantissa bits that hold the stated precision at the largest
value; it happens before writing, so that any reader can open the store.
"""

import json
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from data.command import run
from data.grib import decode, scan
from data.variables import TABLE

PRECISION = {"REFC": 0.1, "T2M": 0.01, "D2M": 0.01, "U10": 0.01, "V10": 0.01, "CAPE": 1.0, "CIN": 0.1}  # table units
BLOSC = {
    "none": None,
    "lz4": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
    "zstd-3": BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
    "zstd-9": BloscCodec(cname="zstd", clevel=9, shuffle="bitshuffle"),
}
WAYS = [("float32", "none"), ("float32", "lz4"), ("float32", "zstd-3"), ("float32", "zstd-9"), ("rounded", "zstd-3"),
        ("float16", "none"), ("float16", "zstd-3"), ("float32", "zstd-3 sharded")]  # fmt: skip


@dataclass
class Config:
    conus: str = "../shared/data/hrrr_conus/hrrr.20221014.t01z.wrfsubhf.refc_vbdsf.grib2"  # full-domain reflectivity
    folder: str = "../shared/data/hrrr_grib"  # HRRR GRIB2 files with the other variables
    repeats: int = 9  # readings of each hour
    json: str = ""  # file for the figures


def main(cfg: Config) -> None:
    for path in (cfg.conus, cfg.folder):
        if not Path(path).exists():
            raise ValueError(
                f"{path}: no such file or folder, expected HRRR GRIB2. Fix: --conus FILE and --folder FOLDER"
            )
    fields = gather(cfg)
    rows = []
    for name, hours in fields.items():
        for kind, packing in WAYS:
            rows.append(
                {"field": name, "kind": kind, "packing": packing, **measure(hours, kind, packing, name, cfg.repeats)}
            )
    print(f"{'field':12s} {'stored as':18s} {'bits/cell':>9s} {'read MB/s':>9s} {'largest error':>13s}")
    for r in rows:
        speed = "-" if r["read_mb_per_s"] is None else round(r["read_mb_per_s"])
        print(f"{r['field']:12s} {r['kind'] + ' ' + r['packing']:18s} {r['bits_per_cell']:9.2f} {speed:>9} "
              f"{r['largest_error']:13.3g}")  # fmt: skip
    if cfg.json:
        result = {"machine": platform.processor() or platform.machine(), "zarr": zarr.__version__, "rows": rows}
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.json).write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {cfg.json}")


def gather(cfg: Config) -> dict[str, np.ndarray]:
    """{name: (hours, y, x) float32}."""
    out: dict[str, list[np.ndarray]] = {}
    files = [Path(cfg.conus), *sorted(p for p in Path(cfg.folder).rglob("*.grib2"))]
    for file in files:
        for found in scan(file):
            for variable in TABLE:
                if found.matches(variable):
                    out.setdefault(variable.name, []).append(decode(found).astype(np.float32))
    return {name: np.stack([f for f in hours if f.shape == hours[0].shape]) for name, hours in out.items()}


def rounded(values: np.ndarray, precision: float) -> np.ndarray:
    """float32 values with the mantissa bits beyond `precision` (at the largest value) rounded off."""
    largest = float(np.abs(values).max()) or 1.0
    keep = int(np.clip(np.ceil(np.log2(largest / precision)), 1, 23))
    bits = values.astype(np.float32).view(np.uint32)
    drop = 23 - keep
    if drop == 0:
        return values
    half = np.uint32(1 << (drop - 1))
    return ((bits + half) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)).view(np.float32)


def measure(hours: np.ndarray, kind: str, packing: str, name: str, repeats: int) -> dict:
    """Bits per cell on disk, median reading speed (MB of float32 a second) and the largest error."""
    stored = {"float32": hours, "float16": hours.astype(np.float16), "rounded": rounded(hours, PRECISION[name])}[kind]
    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(
            folder,
            shape=stored.shape,
            dtype=stored.dtype,
            chunks=(1, *stored.shape[1:]),
            compressors=BLOSC[packing.removesuffix(" sharded")],
            shards=(len(stored), *stored.shape[1:]) if packing.endswith("sharded") else None,  # all hours in one file
            fill_value=float("nan"),  # as in our stores: a calm hour is written like any other
        )
        array[:] = stored
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file() and p.name != "zarr.json")
        speeds = []
        for _ in range(repeats):
            for i in range(min(len(stored), 10)):
                started = time.perf_counter()
                array[i].astype(np.float32)
                speeds.append(hours[0].nbytes / 1e6 / (time.perf_counter() - started))
        error = float(np.abs(array[:].astype(np.float32) - hours).max())
    large = stored[0].size > 100_000  # below, the time is that of opening chunks and says nothing of the packing
    speed = statistics.median(speeds) if large else None
    return {"bits_per_cell": 8 * size / stored.size, "read_mb_per_s": speed, "largest_error": error}


if __name__ == "__main__":
    run(Config, main, __doc__)

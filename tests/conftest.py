"""What the tests share: small stores whose values are known, the real data, and commands run in this process."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data.command import run
from data.grid import HRRR_SPACING, LAMBERT_HRRR, Grid, lambert_latlon
from data.write import StoreWriter

PROJECT = Path(__file__).resolve().parent.parent
REAL = PROJECT.parent / "shared" / "data"

# the nets are tiny, and what is compared bit for bit is so on a CPU alone; tests/test_gpu.py looks for a GPU itself
os.environ["CUDA_VISIBLE_DEVICES"] = ""
if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free > 1e9:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")  # tmp_path in memory: stores have thousands of files
torch.set_num_threads(1)  # the nets are tiny: a second thread gains nothing and waits where others use the machine


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("real_data") and not REAL.is_dir():
            item.add_marker(pytest.mark.skip(reason="real data: ../shared/data is absent"))


def pytest_terminal_summary(terminalreporter):
    """How many real-data tests ran, so that a green run without the data does not pass for a full one."""
    reports = [r for kind in ("passed", "failed", "skipped") for r in terminalreporter.stats.get(kind, [])]
    real = {r.nodeid: r for r in reports if "real_data" in getattr(r, "keywords", {})}
    skipped = sum("../shared/data is absent" in str(r.longrepr) for r in real.values() if r.skipped)
    terminalreporter.write_line(f"real-data tests: {len(real) - skipped} ran, {skipped} skipped without ../shared/data")


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data; tests that use it carry the marker real_data."""
    return REAL


def hour(n: float, start: str = "2024-05-20T00") -> np.datetime64:
    """The time n hours after the start."""
    return np.datetime64(start, "ns") + np.timedelta64(round(n * 3600), "s")


def small_grid(height: int = 12, width: int = 16) -> Grid:
    """A corner of a Lambert grid with terrain."""
    x, y = HRRR_SPACING * np.arange(width), HRRR_SPACING * np.arange(height)
    latitude, longitude = lambert_latlon(x[None, :], y[:, None])
    terrain = np.linspace(0, 500, height * width, dtype=np.float32).reshape(height, width)
    return Grid((height, width), latitude=latitude, longitude=longitude, y=y, x=x, projection=LAMBERT_HRRR,
                static={"orography": terrain, "land_sea_mask": np.ones((height, width), np.float32)})  # fmt: skip


def write_store(path: Path, fields, times, names=("T2M",), grid: Grid | None = None) -> Path:
    """A training store; fields(name, time) gives each (y, x) field or number."""
    grid = grid or small_grid()
    with StoreWriter(path, list(names), grid, {"source": "a test"}) as store:
        for t in times:
            store.write(t, {n: np.broadcast_to(fields(n, t), grid.shape) for n in names})
    return path


def weather(name: str, time: np.datetime64, shape=(12, 16)) -> np.ndarray:
    """Smooth, moving, plausible values of any of the seven variables; a function of name and time alone."""
    hours = float((time - np.datetime64("2024-05-20", "ns")) / np.timedelta64(1, "h"))
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = np.sin(2 * np.pi * (x - 0.7 * hours) / 16 + 0.3 * y) + 0.6 * np.cos(2 * np.pi * (hours - 21) / 24)
    scale = {"REFC": (5, 25), "T2M": (290, 4), "D2M": (280, 3), "U10": (2, 3), "V10": (-1, 3), "CAPE": (600, 350),
             "CIN": (-60, 30)}.get(name, (0, 1))  # fmt: skip
    field = scale[0] + scale[1] * wave
    limits = {"REFC": (-10, 75), "CAPE": (0, 6000), "CIN": (-500, 0)}.get(name, (-np.inf, np.inf))
    return np.clip(field, *limits).astype(np.float32)


def noisy(name: str, time: np.datetime64) -> np.ndarray:
    """weather() with noise, as real fields have."""
    return weather(name, time) + np.random.default_rng([len(name), time.astype(int) // 10**9]).normal(size=(12, 16))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a script's command line in this process: command(module, "--name", "value") -> (exit code, out, err)."""

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run(module.Config, module.main)
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return call


SEVEN = ("REFC", "T2M", "D2M", "U10", "V10", "CAPE", "CIN")
SIZES = {"base_features": 4, "levels": 1, "accumulate": 4, "rollout_hours": 3.0}  # of a tiny run, for Config(...)
TINY = tuple(x for k, v in SIZES.items() for x in (f"--{k}", v))  # the same for a command line


@pytest.fixture(scope="session")
def seven_store(tmp_path_factory) -> Path:
    """60 hours of all seven variables on 12 x 16 cells, D2M below T2M."""
    path = tmp_path_factory.mktemp("stores") / "seven.zarr"
    return write_store(path, weather, [hour(n) for n in range(60)], SEVEN)

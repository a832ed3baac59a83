"""The sets of the league: which real weather, how it is split, what is scored, and how its stores are built.

A set is one store that forecasts start from. Its model may be trained on another, larger store (`train_on`), and two
sets may share it. The stores are built from the files that SOURCES.md of the data folder describes.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from data.variables import lookup

PROJECT = Path(__file__).resolve().parent.parent
MINUTE, HOUR = np.timedelta64(1, "m"), np.timedelta64(1, "h")


def times(first: str, count: int, step: np.timedelta64 = HOUR) -> np.ndarray:
    """`count` times from `first` on, datetime64[ns]."""
    return np.datetime64(first, "ns") + step * np.arange(count)


@dataclass(frozen=True)
class Set:
    """One set. `rows` are the rows of the table: (variable, score, lead times in steps)."""

    title: str
    source: str  # file or folder of the data folder
    build: Callable[[Path, Path, int], None]  # (source, store, threads) writes the store
    constants: dict[str, object]  # of train_deterministic.py, size and data alone
    starts: np.ndarray  # initial times, all in the test part
    rows: tuple[tuple[str, str, tuple[int, ...]], ...]
    step: np.timedelta64 = HOUR
    clear: tuple[slice, slice] = (slice(None), slice(None))  # cells of the spectra: a rectangle without a mask
    train_on: str = ""  # name in TRAINING of the store that the model is trained on; empty: that of the set

    @property
    def variables(self) -> list[str]:
        return list(dict.fromkeys(variable for variable, _, _ in self.rows))

    @property
    def leads(self) -> list[int]:
        """Scored lead times, in steps."""
        return sorted({lead for _, _, leads in self.rows for lead in leads})


# ---- stores


def build_with(*options: str) -> Callable[[Path, Path, int], None]:
    """Build a store by the command data.build_hrrr."""

    def build(source: Path, store: Path, threads: int) -> None:
        command = ["-m", "data.build_hrrr", "--path", source, "--out", store, *options]
        call(command, store.with_suffix(".log"), threads)

    return build


def rain_window(rows: slice, columns: slice) -> Callable[[Path, Path, int], None]:
    """Cut a window out of the MRMS rain.

    A cell is masked in every hour if it lacks a value in any hour, or ever has more rain than the variables table
    allows: such a fault makes all of its hours doubtful. The number of these cells is printed.
    """

    def build(source: Path, store: Path, threads: int) -> None:
        with xr.open_dataset(source) as dataset:
            window = dataset.isel(latitude=rows, longitude=columns).load()
        rain, highest = window["rain"].astype(np.float32), lookup("RAIN").upper
        missing, beyond = rain.isnull().any("time"), (rain > highest).any("time")
        print(f"{store.name}: masked {int(missing.sum())} cells that lack hours and {int(beyond.sum())} with more than "
              f"{highest:g} mm in an hour, of {missing.size}")  # fmt: skip
        attributes = {"units": "mm", "long_name": lookup("RAIN").long_name}
        window = window.drop_vars("rain").assign(RAIN=rain.where(~(missing | beyond)).assign_attrs(attributes))
        partial = store.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        encoding = {"RAIN": {"chunks": (1, *rain.shape[1:])}}
        window.to_zarr(partial, zarr_format=3, consolidated=False, encoding=encoding)
        partial.rename(store)

    return build


def call(command: list, log: Path, threads: int) -> None:
    """Run a Python command of this project; ValueError with its last line if it fails."""
    with open(log, "a") as file:
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
    if done.returncode:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1].removeprefix("error: ")
        raise ValueError(f"{' '.join(map(str, command[:3]))} ended with exit code {done.returncode}: {last}. Fix: read "
                         f"{log}, then the same command again")  # fmt: skip


# ---- sets: constants of size and data alone, everything else is the recipe of train_deterministic.py

SMALL = {"base_features": 16, "accumulate": 1, "memory": "fast"}  # few pairs need many optimizer steps
RADAR_DAY = "2016-09-28"
RAIN = SMALL | {
    "variables": ["RAIN"], "train_end": "2016-09-21T21", "val_end": "2016-09-22T05", "gap": "1h", "epochs": 30,
    "rollout_hours": 3.0,
}  # fmt: skip
RAIN_ROWS = (("RAIN", "csi_1", (1, 2, 3)), ("RAIN", "csi_5", (1,)), ("RAIN", "frequency_bias_1", (1, 2, 3)))
RAIN_STARTS = times("2016-09-22T06", 15)  # hours 54 to 68 of the record
MRMS = "mrms_conus_rain_72h.nc"

# Stores that models are trained on and no forecast starts from: (source, build). Both rain regions are in one window,
# so one model has six times the weather of a region; its forecasts start from a region alone, as extrapolation does.
TRAINING = {"mrms": (MRMS, rain_window(slice(416, 896), slice(1100, 1904)))}

SETS = {
    "era5": Set(
        "ERA5 UK", "era5_uk_t2m_744h.nc", build_with("--source", "zarr"),
        SMALL | {"train_end": "2019-03-22T23", "val_end": "2019-03-25T23", "history": 24, "batch_size": 8, "epochs": 50,
                 "rollout_hours": 24.0},
        times("2019-03-27T23", 73), (("T2M", "rmse", (1, 3, 6, 12, 24)),),
    ),
    "radar": Set(
        "FMI radar", "fmi_dbz_20160928.nc", build_with("--source", "zarr"),
        SMALL | {"lead": "5min", "train_end": f"{RADAR_DAY}T16:35", "val_end": f"{RADAR_DAY}T17:00", "gap": "5min",
                 "epochs": 24, "rollout_hours": 0.5},
        times(f"{RADAR_DAY}T17:05", 6, 5 * MINUTE),
        (("REFC", "csi_20", (1, 3, 6)), ("REFC", "frequency_bias_20", (1, 3, 6))), step=5 * MINUTE,
        clear=(slice(480, 992), slice(170, 682)),
    ),
    "idaho": Set(
        "HRRR Idaho", "hrrr_grib", build_with("--source", "grib"),
        SMALL | {"train_end": "2018-07-22T22", "val_end": "2018-07-23T05", "epochs": 60, "rollout_hours": 4.0},
        times("2018-07-23T09", 8), tuple((n, "skill", (1,)) for n in ("T2M", "D2M", "U10", "V10", "CAPE", "CIN")),
    ),
    "mrms_carolinas": Set(
        "MRMS Carolinas", MRMS, rain_window(slice(416, 672), slice(1648, 1904)), RAIN, RAIN_STARTS, RAIN_ROWS,
        train_on="mrms",
    ),
    "mrms_iowa": Set(
        "MRMS Iowa", MRMS, rain_window(slice(640, 896), slice(1100, 1356)), RAIN, RAIN_STARTS, RAIN_ROWS,
        train_on="mrms",
    ),
    "nldas": Set(
        "NLDAS Washita", "nldas_washita_120h.nc",
        build_with("--source", "zarr", "--variables", "Temp", "Dewpoint", "UGRD", "VGRD"),
        SMALL | {"train_end": "1998-10-04T05", "val_end": "1998-10-04T23", "gap": "6h", "epochs": 60,
                 "rollout_hours": 6.0},
        times("1998-10-05T06", 18), tuple((n, "skill", (1, 3, 6)) for n in ("T2M", "D2M", "U10", "V10")),
    ),
}  # fmt: skip


def make_store(name: str, data: Path, folder: Path, threads: int) -> Path:
    """The store of this name in `folder`, built if it is not there; ValueError if its source is missing."""
    source, build = TRAINING[name] if name in TRAINING else (SETS[name].source, SETS[name].build)
    store = folder / f"{name}.zarr"
    if not store.exists():
        if not (data / source).exists():
            raise ValueError(f"data: got {data}, which has no {source}, expected the real data. Fix: --data FOLDER")
        print(f"building {store}", flush=True)
        build(data / source, store, threads)
    return store

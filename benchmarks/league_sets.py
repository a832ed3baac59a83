"""The sets of the league: which real weather, how it is split, what is scored, and how the stores are built."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from data.variables import lookup

PROJECT = Path(__file__).resolve().parent.parent
MINUTE, HOUR = np.timedelta64(1, "m"), np.timedelta64(1, "h")


@dataclass(frozen=True)
class Set:
    """One set. Forecasts start from the store of its name; the model may be trained on another (`train_on`)."""

    title: str
    constants: dict[str, object]  # of train_deterministic.py, size and data alone: the rest is the recipe
    starts: np.ndarray  # initial times, all in the test part, datetime64[ns]
    rows: tuple[tuple[str, str, tuple[int, ...]], ...]  # of the table: (variable, score, lead times in steps)
    step: np.timedelta64 = HOUR
    clear: tuple[slice, slice] = (slice(None), slice(None))  # cells of the spectra: a rectangle without a mask
    spacing: float = 0.0  # m, of a source that does not say it
    train_on: str = ""  # store that the model is trained on; empty: that of the set

    @property
    def variables(self) -> list[str]:
        return list(dict.fromkeys(variable for variable, _, _ in self.rows))

    @property
    def leads(self) -> list[int]:
        """All lead times that are scored, in steps."""
        return sorted({lead for _, _, leads in self.rows for lead in leads})


def times(first: str, count: int, step: np.timedelta64 = HOUR) -> np.ndarray:
    """`count` times from `first` on, datetime64[ns]."""
    return np.datetime64(first, "ns") + step * np.arange(count)


SMALL = {"base_features": 16, "accumulate": 1, "memory": "fast"}  # few pairs need many optimizer steps
DAY = "2016-09-28"
IDAHO = ["T2M", "D2M", "U10", "V10", "CAPE", "CIN"]
RAIN = ("RAIN", "csi_1", (1, 2, 3)), ("RAIN", "csi_5", (1,)), ("RAIN", "frequency_bias_1", (1, 2, 3))
# One model for both regions of rain, trained on a window around both, twelve times the weather of a region. Its
# forecasts start from a region alone, so that it knows no more of what comes in than extrapolation does.
MRMS = {
    "constants": SMALL | {"variables": ["RAIN"], "train_end": "2016-09-21T21", "val_end": "2016-09-22T05", "gap": "1h",
                          "epochs": 18, "rollout_hours": 3.0},
    "starts": times("2016-09-22T06", 15), "rows": RAIN, "train_on": "mrms",
}  # fmt: skip
SETS = {
    "era5": Set(
        "ERA5 UK",
        SMALL | {"train_end": "2019-03-22T23", "val_end": "2019-03-25T23", "history": 24, "batch_size": 8, "epochs": 50,
                 "rollout_hours": 24.0},
        times("2019-03-27T23", 73), (("T2M", "rmse", (1, 3, 6, 12, 24)),),
    ),
    "radar": Set(
        "FMI radar",
        SMALL | {"lead": "5min", "train_end": f"{DAY}T16:35", "val_end": f"{DAY}T17:00", "gap": "5min", "epochs": 44,
                 "rollout_hours": 0.5},
        times(f"{DAY}T17:05", 6, 5 * MINUTE),
        (("REFC", "csi_20", (1, 3, 6)), ("REFC", "frequency_bias_20", (1, 3, 6))),
        5 * MINUTE, clear=(slice(480, 992), slice(170, 682)), spacing=1000.0,
    ),
    "idaho": Set(
        "HRRR Idaho",
        SMALL | {"variables": IDAHO, "train_end": "2018-07-22T22", "val_end": "2018-07-23T05", "batch_size": 4,
                 "epochs": 30, "rollout_hours": 4.0},  # by the score of validation, among eight choices
        times("2018-07-23T09", 8), tuple((name, "skill", (1,)) for name in IDAHO),
    ),
    "mrms_carolinas": Set("MRMS Carolinas", **MRMS),
    "mrms_iowa": Set("MRMS Iowa", **MRMS),
    "nldas": Set(
        "NLDAS Washita",
        SMALL | {"train_end": "1998-10-04T05", "val_end": "1998-10-04T23", "gap": "6h", "epochs": 60,
                 "rollout_hours": 6.0},
        times("1998-10-05T06", 18), tuple((n, "skill", (1, 3, 6)) for n in ("T2M", "U10", "V10")),
    ),
}  # fmt: skip

# Store: its file or folder, and the options of data.build_hrrr or the rows and columns of a window of MRMS rain.
SOURCES = {
    "era5": ("era5_uk_t2m_744h.nc", ("--source", "zarr")),
    "radar": ("fmi_dbz_20160928.nc", ("--source", "zarr")),
    "idaho": ("hrrr_grib", ("--source", "grib")),
    "nldas": ("nldas_washita_120h.nc", ("--source", "zarr", "--variables", "Temp", "UGRD", "VGRD")),
    "mrms": ("mrms_conus_rain_72h.nc", (slice(416, 928), slice(368, 1904))),
    "mrms_carolinas": ("mrms_conus_rain_72h.nc", (slice(416, 672), slice(1648, 1904))),
    "mrms_iowa": ("mrms_conus_rain_72h.nc", (slice(640, 896), slice(1100, 1356))),
}


def make_store(name: str, data: Path, folder: Path, threads: int) -> Path:
    """The store of this name in `folder`, built if it is not there; ValueError if its source is missing."""
    (source, how), store = SOURCES[name], folder / f"{name}.zarr"
    if not store.exists():
        if not (data / source).exists():
            raise ValueError(f"data: got {data}, which has no {source}, expected the real data. Fix: --data FOLDER")
        print(f"building {store}", flush=True)
        if isinstance(how[0], slice):
            cut_rain(data / source, store, *how)
        else:
            options = ["--path", data / source, "--out", store, *how]
            call(["-m", "data.build_hrrr", *options], store.with_suffix(".log"), threads)
    return store


def cut_rain(source: Path, store: Path, rows: slice, columns: slice) -> None:
    """Write a window of the MRMS rain as a store.

    A cell is masked in every hour if it lacks a value in any hour, or ever has more rain than the variables table
    allows: such a fault makes its other hours doubtful. The number of these cells is printed.
    """
    with xr.open_dataset(source) as dataset:
        window = dataset.isel(latitude=rows, longitude=columns).load()
    rain, highest = window["rain"].astype(np.float32), lookup("RAIN").upper
    missing, beyond = rain.isnull().any("time"), (rain > highest).any("time")
    print(f"{store.name}: masked {int(missing.sum())} cells that lack hours and {int(beyond.sum())} that have more "
          f"than {highest:g} mm in an hour, of {missing.size}")  # fmt: skip
    rain = rain.where(~(missing | beyond)).assign_attrs(units="mm", long_name=lookup("RAIN").long_name)
    partial = store.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    chunks = {"RAIN": {"chunks": (1, *rain.shape[1:])}}
    rain.to_dataset(name="RAIN").to_zarr(partial, zarr_format=3, consolidated=False, encoding=chunks)
    partial.rename(store)


def call(command: list, log: Path, threads: int) -> None:
    """Run a Python command of this project, output into `log`; ValueError with its last line if it fails."""
    threaded = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with open(log, "a") as file:
        command = [sys.executable, *map(str, command)]
        code = subprocess.run(command, cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, env=threaded).returncode
    if code:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1].removeprefix("error: ")
        raise ValueError(f"{command[1]} {command[2]}: got exit code {code}, expected 0 ({last}). Fix: read {log}")

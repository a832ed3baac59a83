"""Sound things that fuzz cases start from and spoil: stores, a checkpoint of each, made once in a process."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import xarray as xr

import infer_iterative as inference
import train_deterministic as training
from benchmarks.fuzz_base import Reached, check, command, quiet
from data.grid import Grid
from data.metadata import attributes_of
from data.variables import TABLE, lookup
from training.checkpoint import load_checkpoint, save_checkpoint

START = np.datetime64("2024-05-20T00:00", "ns")
SCALES = {"REFC": (5, 25), "T2M": (290, 4), "D2M": (280, 3), "U10": (2, 3), "V10": (-1, 3), "CAPE": (600, 350),
          "CIN": (-60, 30)}  # fmt: skip
TINY = ["--epochs", 1, "--base_features", 2, "--levels", 1, "--blocks", 1, "--accumulate", 4, "--validate_hours", 2,
        "--rollout_hours", 2, "--rollout_epochs", 0]  # fmt: skip
HEADS = ("head.weight", "head.bias", "flow_head.weight", "flow_head.bias")


def weather(name: str, number: int, shape: tuple[int, int]) -> np.ndarray:
    """A smooth field that moves with the number of its hour, inside the bounds of any variable; float32."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    mean, size = SCALES.get(name, (0, 1))
    wave = np.sin(2 * np.pi * (x - 0.7 * number) / 16 + 0.3 * y) + 0.6 * np.cos(2 * np.pi * (number - 21) / 24)
    bounds = {"REFC": (-10, 75), "CAPE": (0, 6000), "CIN": (-500, 0)}.get(name, (-np.inf, np.inf))
    return np.clip(mean + size * wave, *bounds).astype(np.float32)


def write_weather(path: Path, names: list[str], shape: tuple[int, int], hours, step="1h", spoil=None, located=True):
    """A training store as data/store.py describes it; spoil(name, number, field) gives the field to write instead."""
    dims, hours = ("y", "x"), list(hours)
    fields = {k: np.stack([spoil(k, n, weather(k, n, shape)) if spoil else weather(k, n, shape) for n in hours])
              for k in names}  # fmt: skip
    arrays = {k: (("time", *dims), f, attributes_of(lookup(k), Grid(shape))) for k, f in fields.items()}
    arrays["forecast_hour"] = (("time",), np.zeros(len(hours), np.int8))
    coordinates = {"time": START + np.array(hours) * np.timedelta64(60 if step == "1h" else 5, "m")}
    if located:
        degrees = np.meshgrid(40 + 0.03 * np.arange(shape[0]), -100 + 0.04 * np.arange(shape[1]), indexing="ij")
        coordinates |= {"latitude": (dims, degrees[0]), "longitude": (dims, degrees[1])}
    dataset = xr.Dataset(arrays, coordinates, {"source": "fuzz"})
    dataset["time"].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
    with quiet():
        dataset.to_zarr(path, zarr_format=3, encoding={k: {"chunks": (1, *shape)} for k in names})


@functools.cache
def folder() -> Path:
    """A folder for this process, removed at its end; in memory where the system has such a place."""
    place = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="fuzz", dir=place if place.is_dir() else None))
    atexit.register(shutil.rmtree, made, True)
    return made


GROUNDS = {  # name: variables, grid, step, coordinates
    "seven": ([v.name for v in TABLE], (12, 16), "1h", True),
    "odd": (["x1", "T2M"], (9, 13), "5min", False),
    "wide": (["REFC", "U10", "V10"], (8, 37), "1h", True),
}
HOURS = 40  # train 0 to 27, validation 30 to 33, test 36 to 39


@functools.cache
def ground(name: str) -> Path:
    """A folder with store.zarr of 40 times, and best.pt and untrained.pt (the same with its heads at zero)."""
    names, shape, step, located = GROUNDS[name]
    place = folder() / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    write_weather(place / "store.zarr", names, shape, range(HOURS), step, located=located)
    code, said = train("--zarr", place / "store.zarr", "--run_dir", place, "--lead", step,
                       "--variables", names)  # fmt: skip
    check(code == 0, f"the sound store {name} cannot be trained on: {said}")
    checkpoint = load_checkpoint(place / "best.pt")
    for head in HEADS:
        checkpoint["ema"][head].zero_()
    save_checkpoint(checkpoint, place / "untrained.pt")
    return place


def step_of(name: str) -> float:
    """Hours of one step of a ground."""
    return 1.0 if GROUNDS[name][2] == "1h" else 5 / 60


def train(*arguments) -> tuple[int, str]:
    """Train in this process without the figure, which is not what is played here; TINY unless told otherwise."""
    with mock.patch.object(training, "save_loss_curves", lambda log, path: None):
        return command(training, *merged(TINY, arguments))


def accept(*arguments, seen=None) -> tuple[int, str]:
    """The same up to the first step: everything has been read and judged, and the model has been built."""

    def stop(learn, *rest):
        if seen is not None:
            seen.append(learn)
        raise Reached

    with mock.patch.object(training, "rehearse", stop):
        return command(training, *merged(TINY, arguments))


def infer(*arguments) -> tuple[int, str]:
    """Forecast in this process."""
    with torch.no_grad():
        return command(inference, *arguments)


def merged(sound: list, arguments) -> list:
    """Arguments by name; one given again replaces the sound one."""
    table = dict(zip(sound[::2], sound[1::2], strict=True))
    table |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    return [part for pair in table.items() for part in pair]

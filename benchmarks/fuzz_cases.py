"""The kinds of fuzz cases. Each is a function (rng, empty folder) that returns "accepted" or "refused", and raises
AssertionError if the case does not end as it must."""

import atexit
import contextlib
import functools
import io
import json
import math
import shutil
import sys
import tempfile
import typing
import warnings
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np
import torch
import xarray as xr
import zarr

import infer_iterative
import train_deterministic
import verify_forecast
from data import check_store
from data.command import run
from data.grid import HRRR_SPACING, LAMBERT_HRRR, Grid, lambert_latlon
from data.variables import lookup
from data.write import StoreWriter
from training.checkpoint import load_checkpoint, save_checkpoint

START, MINUTE = np.datetime64("2024-05-20T00:00", "ns"), np.timedelta64(1, "m")
HOURS = 40  # times of a store: train 0 to 27, validation 30 to 33, test 36 to 39
SCALES = {"REFC": (5, 25), "T2M": (290, 4), "D2M": (280, 3), "U10": (2, 3), "V10": (-1, 3), "CAPE": (600, 350),
          "CIN": (-60, 30)}  # mean and amplitude of the test weather  # fmt: skip
TINY = {"epochs": 1, "base_features": 2, "levels": 1, "accumulate": 4, "rollout_epochs": 0}
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a folder in memory, if the system has one

# ---- commands in this process


class Reached(BaseException):
    """Raised by the first backward pass: the input has been accepted."""


def check(condition: bool, text: str) -> None:
    if not condition:
        raise AssertionError(text)


def command(module, constants: dict, positional=(), allowed=(0, 2)) -> tuple[int, str]:
    """Run a script's command line: (exit code, its output). Raises AssertionError for an exit code that is not allowed
    or a 2 without its one line. Other exceptions pass through, as they would end in a traceback."""
    arguments, out, err, code = [module.__name__, *map(str, positional)], io.StringIO(), io.StringIO(), 0
    for name, value in constants.items():
        arguments += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    with (
        mock.patch.object(sys, "argv", arguments), warnings.catch_warnings(action="ignore"),
        mock.patch.object(train_deterministic, "save_loss_curves", lambda log, path: path.touch()),
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(Reached),
    ):  # fmt: skip
        try:
            run(module.Config, module.main)
        except SystemExit as stop:
            code = stop.code or 0
    lines = [line for line in err.getvalue().splitlines() if line.strip()]
    text = f"{out.getvalue()}{err.getvalue()}with {' '.join(arguments)}"
    check(code in allowed, f"exit code {code}: {text[-600:]}")
    if code == 2 and "For full helptext" not in text:  # the box of the command line parser
        one_line = len(lines) == 1 and lines[0].startswith("error: ") and "expect" in lines[0] and "Fix: " in lines[0]
        check(one_line, f"exit code 2 without its one line: {lines}")
    return code, text


def train(**constants) -> tuple[int, str]:
    return command(train_deterministic, TINY | constants)


def accept(**constants) -> tuple[int, str]:
    """Train up to the first backward pass."""
    with mock.patch.object(torch.autograd, "backward", mock.Mock(side_effect=Reached)):
        return train(**constants)


def infer(folder: Path, **constants) -> tuple[int, str]:
    """Forecast into folder/f.zarr, which is there afterwards if and only if it was accepted."""
    with torch.no_grad():
        code, text = command(infer_iterative, {"out": folder / "f.zarr"} | constants)
    check("out" in constants or (folder / "f.zarr").exists() == (code == 0), f"exit code {code} and f.zarr: {text}")
    return code, text


def outcome(expected: str, code: int, text: str) -> str:
    result = "refused" if code else "accepted"
    check(expected in (result, "either"), f"{result}, expected {expected}: {text[-900:]}")
    return result


# ---- a sound store and checkpoint


def write_weather(path: Path, names, shape, minutes=60, spoil=lambda name, number, field: field, hours=HOURS) -> None:
    """A training store of smooth moving fields; spoil(name, number, field) gives the field to write."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    east, north = HRRR_SPACING * np.arange(shape[1]), HRRR_SPACING * np.arange(shape[0])
    latitude, longitude = lambert_latlon(east[None, :], north[:, None])
    static = {"orography": 30.0 * y, "land_sea_mask": np.ones(shape)}
    grid = Grid(shape, latitude=latitude, longitude=longitude, y=north, x=east, projection=LAMBERT_HRRR, static=static)
    with StoreWriter(path, list(names), grid, {}) as store:
        for n in range(hours):
            wave = np.sin(2 * np.pi * (x - 0.7 * n) / 16 + 0.3 * y) + 0.6 * np.cos(2 * np.pi * (n - 21) / 24)
            fields = {k: SCALES.get(k, (0, 1))[0] + SCALES.get(k, (0, 1))[1] * wave for k in names}
            fields = {k: np.clip(v, lookup(k).lower, lookup(k).upper).astype(np.float32) for k, v in fields.items()}
            store.write(START + n * minutes * MINUTE, {k: spoil(k, n, field) for k, field in fields.items()})


@functools.cache
def ground() -> Path:
    """A folder with store.zarr, best.pt, last.pt and untrained.pt."""
    place = Path(tempfile.mkdtemp(prefix="fuzz", dir=MEMORY))
    atexit.register(shutil.rmtree, place, True)
    write_weather(place / "store.zarr", SCALES, (12, 16))
    outcome("accepted", *train(zarr=place / "store.zarr", run_dir=place))
    save_untrained(place)
    return place


def save_untrained(run_dir: Path) -> None:
    """best.pt with its last layers at zero: its forecast is persistence."""
    checkpoint = load_checkpoint(run_dir / "best.pt")
    heads = [w.zero_() for name, w in checkpoint["ema"].items() if name.startswith(("head", "flow"))]
    check(bool(heads), "a model without a head")
    save_checkpoint(checkpoint, run_dir / "untrained.pt")


def sound_forecast() -> dict:
    files = {"zarr": ground() / "store.zarr", "checkpoint": ground() / "untrained.pt"}
    return files | {"hours": 1, "init_time": START + 20 * 60 * MINUTE}


# ---- constants

TEXTS = ["", " ", "ten", "1,5", "None", "nan", "inf", "-inf", "-3", "0", "1", "1.5", "1e3", "1e308", "5e-324",
         str(10**30), str(-(10**30)), "True", "\u0661x", "\u00e9", "soon", "NaT", "0001-01-01", "9999999h", "-1h", ".",
         "/dev/null", "/dev/null/x", "x" * 300]  # fmt: skip


def verdict(kind, text: str, default) -> str:
    """What must come of a constant of this type with this value."""
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            return "refused"
        return "accepted" if number == default else "either" if 0 <= number < math.inf else "refused"
    if kind is bool or typing.get_origin(kind) is typing.Literal:
        return "either" if text in map(str, typing.get_args(kind) or (True, False)) else "refused"
    return "either" if text == default or text.isdigit() or kind not in (str, list[str]) else "refused"


def constants(rng: Random, folder: Path) -> str:
    """One or two constants of a command with values far beyond, beside and inside their bounds."""
    module = rng.choice((train_deterministic, train_deterministic, infer_iterative, verify_forecast))
    types, defaults = typing.get_type_hints(module.Config), vars(module.Config())
    names = rng.sample(sorted(types), rng.choice((1, 2)))
    given = {n: str(rng.choice((defaults[n] or "", rng.choice(TEXTS)))) for n in names}
    given |= {n: rng.choice(TEXTS[-2:]) for n in ("run_dir", "out") if n in given}
    found = {verdict(types[n], text, defaults[n]) for n, text in given.items()}
    expected = "refused" if "refused" in found else "accepted" if found == {"accepted"} else "either"
    if module is train_deterministic:
        return outcome(expected, *accept(**{"zarr": ground() / "store.zarr", "run_dir": folder / "run"} | given))
    if module is infer_iterative:
        return outcome(expected, *infer(folder, **sound_forecast() | {"init_time": "test"} | given))
    infer(folder, **sound_forecast())
    sound = {"forecast": folder / "f.zarr", "zarr": ground() / "store.zarr", "out": folder / "s.json"}
    return outcome(expected, *command(verify_forecast, sound | {"figures": False} | given))


# ---- files


def spoil(rng: Random, data: bytes) -> tuple[bytes, str]:
    """The bytes cut, with a flipped bit, overwritten, extended or replaced, and which of these."""
    at, noise, flipped = rng.randrange(len(data)), rng.randbytes(rng.randint(1, 4000)), bytearray(data)
    flipped[at] ^= 1 << rng.randrange(8)
    end = min(at + len(noise), len(data))
    spoilt = {"none": data, "cut": data[:at], "flip": bytes(flipped), "zero": data[:at] + bytes(end - at) + data[end:],
              "noise": data[:at] + noise[: end - at] + data[end:], "append": data + noise, "random": noise,
              "empty": b""}  # fmt: skip
    how = rng.choice(list(spoilt))
    return spoilt[how], how


def checkpoint(rng: Random, folder: Path) -> str:
    """A spoilt checkpoint is refused unless its content is what it was, in a forecast and in a training."""
    sound, bad = ground() / "last.pt", folder / "last.pt"
    data, how = spoil(rng, sound.read_bytes())
    bad.write_bytes(data)
    if rng.random() < 0.6:
        code, text = infer(folder, **sound_forecast() | {"checkpoint": bad})
    else:
        code, text = train(zarr=ground() / "store.zarr", run_dir=folder)
        check(code or "finished" in text, "a finished run went on")
    texts = {json.dumps(load_checkpoint(p), default=torch.Tensor.tolist) for p in (sound, bad) if code == 0}
    check(len(texts) < 2, "spoilt content was accepted")
    gone = how in ("cut", "random", "empty")
    return outcome("accepted" if data == sound.read_bytes() else "refused" if gone else "either", code, text)


def store_bytes(rng: Random, folder: Path) -> str:
    """A file of a store is spoilt or missing: no traceback, and a chunk that is gone is refused if it is read."""
    path, metadata, reader = folder / "s.zarr", rng.random() < 0.5, rng.choice(("train", "check", "infer"))
    shutil.copytree(ground() / "store.zarr", path)
    file = rng.choice(sorted(p for p in path.rglob("*") if p.is_file() and (p.suffix == ".json") == metadata))
    data, how = spoil(rng, file.read_bytes())
    file.write_bytes(data)
    if how == "random":
        file.unlink()
    if reader == "check":
        code, text = command(check_store, {"json": folder / "c.json"}, [path], allowed=(0, 1, 2))
        check(code == 2 or json.loads((folder / "c.json").read_text())["sound"] == (code == 0), "check_store's JSON")
    elif reader == "infer":
        code, text = infer(folder, **sound_forecast() | {"zarr": path})
    else:
        code, text = accept(zarr=path, run_dir=folder / "run")
    parts, gone = file.relative_to(path).parts, how in ("cut", "empty", "random")
    field = not metadata and parts[0] in SCALES and reader != "infer"
    return outcome("refused" if field and gone and int(parts[2]) < 28 else "either", code, text)


# ---- runs

SOUND, FAULTS = ["none", "mask", "nan in test"], ["nan", "inf", "half mask", "constant", "unit", "duplicate"]


def planted(rng: Random, folder: Path) -> str:
    """A training on a sound store begins; with a planted fault it is refused before the first step."""
    path, fault, names = folder / "s.zarr", rng.choice(SOUND + FAULTS), rng.sample([*SCALES], rng.randint(1, 4))
    name, hour = rng.choice(names), rng.randrange(27)
    hours = {"mask": range(HOURS), "half mask": range(hour + 1), "nan in test": [38], "nan": [hour], "inf": [hour]}
    corner = np.s_[: rng.randint(1, 8), : rng.randint(1, 8)]

    def spoilt(variable: str, number: int, field: np.ndarray) -> np.ndarray:
        if variable == name and number in hours.get(fault, ()):
            field[corner] = np.inf if fault == "inf" else np.nan
        if variable == name and fault in ("constant", "unit"):
            field = field + 1e4 if fault == "unit" else np.full_like(field, min(lookup(name).upper, 250.0))
        return field

    write_weather(path, names, (rng.randint(8, 23), rng.randint(8, 23)), spoil=spoilt)
    if fault == "duplicate":
        time = zarr.open_group(path, mode="r+")["time"]
        time[hour] = time[hour + 1]
    code, text = accept(zarr=path, run_dir=folder / "run", variables=names, history=rng.randint(0, 2))
    check(code == 0 or not (folder / "run").exists(), "a refused training left a folder")
    return outcome("refused" if fault in FAULTS else "accepted", code, text)


def training(rng: Random, folder: Path) -> str:
    """A training ends, says so when run again, and its statistics are those of numpy."""
    path, run_dir, names = folder / "s.zarr", folder / "run", rng.sample([*SCALES, "x1"], rng.randint(1, 4))
    masked, minutes = rng.choice((names[0], "")), rng.choice((5, 60))

    def mask(name: str, number: int, field: np.ndarray) -> np.ndarray:
        field[: 3 * (name == masked), :4] = np.nan
        return field

    write_weather(path, names, (rng.randint(8, 23), rng.randint(8, 23)), minutes, mask)
    constants = {
        "epochs": rng.randint(1, 2), "base_features": rng.randint(1, 4), "levels": rng.randint(0, 2),
        "history": rng.randint(0, 2), "batch_size": rng.randint(1, 3), "accumulate": rng.choice((1, 4, 16)),
        "rollout_epochs": rng.randint(0, 1), "memory": rng.choice(("lean", "fast")), "noise": rng.choice((0.0, 0.05)),
        "flip": rng.random() < 0.5, "seed": rng.randrange(2**31), "rollout_hours": 3 * minutes / 60,
        "zarr": path, "run_dir": run_dir, "variables": names, "lead": f"{minutes}min",
    }  # fmt: skip
    first, again = train(**constants), train(**constants)
    check(first[0] == again[0] == 0 and "finished" in again[1], f"a sound training: {first} {again}")
    store, statistics = xr.open_zarr(path, chunks=None), load_checkpoint(run_dir / "best.pt")["statistics"]
    for name in {"T2M", "D2M", "x1"} & set(names):  # the others are transformed, or have 0 as their mean
        x, got = store[name].values[:28].astype(float), statistics[name]
        near = np.allclose([got["mean"], got["std"]], [np.nanmean(x), np.nanstd(x)], rtol=1e-4, atol=1e-4)
        check(near, f"statistics of {name}: {got}, expected {np.nanmean(x)}, {np.nanstd(x)}")
    return "accepted"


def roll_out(rng: Random, folder: Path) -> str:
    """A forecast of any weights is finite and inside the bounds, or it is refused and the older forecast stays."""
    part, bad, size = rng.choice(("head", "")), rng.choice(("", "nan", "inf")), rng.randint(-3, 38)
    saved, store = load_checkpoint(ground() / "best.pt"), folder / "f.zarr"
    weights = [w for name, w in saved["ema"].items() if part in name and name != "scale"]
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    for weight in weights:
        weight.copy_(torch.randn(weight.shape, generator=generator) * 10.0**size)
    if bad:
        weights[0][(0,) * weights[0].dim()] = float(bad)
    save_checkpoint(saved, folder / "c.pt")
    infer(folder, **sound_forecast())
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    code, text = infer(folder, **sound_forecast() | {"checkpoint": folder / "c.pt", "hours": 24, "out": store})
    if code:
        check("not finite" in text and (bad != "" or size > 4), f"refused weights of 1e{size}: {text}")
        check({p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before, "the older forecast was changed")
        return "refused"
    for name in SCALES:
        x = xr.open_zarr(store, chunks=None)[name].values
        inside = lookup(name).lower <= x.min() and x.max() <= lookup(name).upper
        check(x.shape[1] == 25 and np.isfinite(x).all() and inside, f"{name}: {x}")
    return "accepted"

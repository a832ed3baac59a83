"""The kinds of fuzz cases. Each is a function (rng, empty folder) that returns "accepted" or "refused", and raises
AssertionError if the case does not end as it must."""

import atexit
import contextlib
import functools
import io
import json
import math
import shutil
import struct
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
from data import build_hrrr, check_store
from data.command import run
from data.dataset import find_pairs
from data.grid import Grid
from data.store import Store
from data.variables import TABLE, lookup
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


def write_weather(path: Path, names, shape, minutes=60, spoil=lambda name, number, field: field) -> None:
    """A training store of smooth moving fields; spoil(name, number, field) gives the field to write."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    with StoreWriter(path, list(names), Grid(shape, latitude=40 + 0.03 * y, longitude=0.04 * x), {}) as store:
        for n in range(HOURS):
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
    """A training ends, its statistics are those of numpy, it says so when run again, and with its last layers at zero
    it forecasts the analysis, whose error is that of persistence."""
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
    save_untrained(run_dir)
    init, out = START + 34 * minutes * MINUTE, folder / "s.json"
    infer(folder, checkpoint=run_dir / "untrained.pt", zarr=path, hours=minutes / 20, init_time=init)
    forecast = xr.open_zarr(folder / "f.zarr", chunks=None)
    for name in (n for n in names if n != "D2M"):  # held below the temperature
        expected = np.clip(store[name].values[34], lookup(name).lower, lookup(name).upper)
        got = forecast[name].values[0]
        check(np.allclose(got, expected, rtol=1e-5, atol=1e-3, equal_nan=True), f"{name}: {got} {expected}")
    constants = {"forecast": folder / "f.zarr", "zarr": path, "out": out, "figures": False}
    outcome("accepted", *command(verify_forecast, constants))
    for by_lead in json.loads(out.read_text())["scores"].values():
        for got in by_lead.values():
            check(math.isclose(got["rmse"], got["persistence_rmse"], rel_tol=1e-3, abs_tol=1e-4), f"scores: {got}")
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


# ---- stores of other tools


def stores(rng: Random, folder: Path) -> str:
    """A store of any dtype, chunks, order and time axis: fields come back under their own time and name, and pairs are
    those of the timestamps."""
    step, count = rng.choice((5, 10, 15, 30, 45, 60, 90, 180, 360)), rng.randint(4, 24)
    places = rng.sample(range(count), rng.randint(3, count))
    places = rng.choice((places, sorted(places), sorted(places, reverse=True)))
    start = np.datetime64(rng.choice(("2024-05-20T00:00", "2023-12-31T21:35", "1969-12-31T22:00", "1900-02-28T23:00",
                                      "2099-12-31T00:10", "1600-01-01T00:00", "2300-06-01T00:00")), "m")  # fmt: skip
    names = [rng.choice((v.name, *v.aliases)) for v in rng.sample(TABLE, rng.randint(0, len(TABLE)))]
    names += rng.sample(("pm25", "snow depth", "θe", "q_850", "wind.gust"), rng.randint(0 if names else 1, 3))
    dims, (y, x) = rng.choice((("y", "x"), ("j", "i"))), np.mgrid[: rng.randint(8, 37), : rng.randint(8, 37)]
    dtype, packed = np.dtype(rng.choice(("<f4", ">f4", "<f8", "<f2", "<i2", ">i2", "<i8", "|u1"))), rng.random() < 0.2
    packing = {"scale_factor": 0.5, "add_offset": 10.0} if packed and dtype.kind == "i" else {}
    arrays, encoding = {}, {}

    def field(place: int, name: str) -> np.ndarray:
        return (3 * place + 17 * names.index(name) + 5 * y + 2 * x) % 97

    for name in names:
        fields = np.stack([field(place, name) for place in places])
        arrays[name] = (("time", *dims), (2 * fields - 20 if packing else fields).astype(dtype), packing)
        encoding[name] = {"chunks": tuple(rng.randint(1, n) for n in fields.shape)}
    minutes = np.array(places) * step + (start - np.datetime64("1900-01-01", "m")).astype(int)
    unit, size = rng.choice((("days", 1440.0), ("hours", 60.0), ("minutes", 1), ("seconds", 1 / 60)))
    coordinates = {"time": ("time", minutes / size, {"units": f"{unit} since 1900-01-01"})}
    xr.Dataset(arrays, coordinates).to_zarr(folder / "s.zarr", zarr_format=rng.choice((2, 3)), encoding=encoding,
                                            consolidated=False, write_empty_chunks=True)  # fmt: skip
    if start.astype("datetime64[ns]").astype("datetime64[m]") != start:  # a year that nanoseconds cannot hold
        with contextlib.suppress(ValueError):
            Store(folder / "s.zarr")
            check(False, "times outside the range of datetime64[ns] were accepted")
        return "refused"
    store, times = Store(folder / "s.zarr"), start + np.array(places) * step * MINUTE
    check((store.times == times).all() and sorted(store.names) == sorted(names), f"{store.times} {store.names}")
    for place in places[:3]:
        for name, got in zip(names, store.load(times[places.index(place)], names), strict=True):
            check(np.array_equal(got, field(place, name)), f"{name} at step {place} is not what was written")
    history, lead = rng.randint(0, 3), rng.randint(1, 3)
    needed = range(-history * lead, lead + 1, lead)
    expected = [start + p * step * MINUTE for p in sorted(places) if all(p + k in places for k in needed)]
    pairs = find_pairs(store.times, lead * step * MINUTE, (times.min(), times.max()), history)
    check(np.array_equal(pairs, np.array(expected, "datetime64[ns]")), f"pairs: {pairs}, expected {expected}")
    return "accepted"


# GRIB: category, number, type and value of the level
NUMBERS = {"REFC": (16, 196, 10, 0), "T2M": (0, 0, 103, 2), "U10": (2, 2, 103, 10), "CAPE": (7, 6, 1, 0)}
LOWEST = {"T2M": 200.0}  # K: what the messages add to their numbers


def message(name: str, field: np.ndarray, hour: int, lead: int, northward: bool) -> bytes:
    """A field of whole numbers (y, x), rows south to north, as a GRIB2 message with simple packing.
    Source: WMO FM 92 GRIB edition 2, templates 3.0, 4.0 and 5.0."""
    (category, number, surface, level), (rows, columns) = NUMBERS[name], field.shape
    north, west, east = 40_000_000 + 30_000 * (rows - 1), 250_000_000, 250_000_000 + 30_000 * (columns - 1)
    first, last, scanning = (40_000_000, north, 0x40) if northward else (north, 40_000_000, 0)
    grid = struct.pack(">BBIBIBIIIIIIIBIIIIB", 6, 0, 0, 0, 0, 0, 0, columns, rows, 0, 0, first, west, 0x30, last,
                       east, 30_000, 30_000, scanning)  # fmt: skip
    sections = {
        1: struct.pack(">HHBBBHBBBBBBB", 7, 0, 2, 1, 1, 2024, 5, 20, hour, 0, 0, 0, 1),
        3: struct.pack(">BIBBH", 0, rows * columns, 0, 0, 0) + grid,
        4: struct.pack(">IBBBBBHBBIBBIBBI", 0, category, number, 2, *bytes(4), 1, lead, surface, 0, level, 255, 0, 0),
        5: struct.pack(">IHfHHBB", rows * columns, 0, LOWEST.get(name, 0.0), 0, 0, 8, 0), 6: b"\xff",
        7: field[:: 1 if northward else -1].astype(">u1").tobytes(),
    }  # fmt: skip
    body = b"".join(struct.pack(">IB", len(content) + 5, n) + content for n, content in sections.items())
    return b"GRIB" + bytes([0, 0, 0, 2]) + struct.pack(">Q", len(body) + 20) + body + b"7777"


def grib(rng: Random, folder: Path) -> str:
    """A sound GRIB file is read with its values, times and coordinates. Truncated or random bytes are refused."""
    names, hours, lead = rng.sample(sorted(NUMBERS), rng.randint(1, 3)), range(rng.randint(1, 3)), rng.randint(0, 1)
    northward, (y, x) = rng.random() < 0.5, np.mgrid[: rng.randint(8, 31), : rng.randint(8, 31)]
    fields = {(n, h): (7 * h + 29 * NUMBERS[n][1] + 5 * y + 2 * x) % 97 for n in names for h in hours}
    messages = [message(n, f, h, lead, northward) for (n, h), f in fields.items()]
    sound = b"".join(messages)
    data, how = (sound, "none") if rng.random() < 0.5 else spoil(rng, sound)
    if how in ("flip", "zero", "noise"):  # in the first message's headers, which mean most
        data = spoil(rng, sound[:180])[0] + sound[180:]
    (folder / "hours.grib2").write_bytes(data)
    code, text = command(build_hrrr, {"path": folder, "out": folder / "s.zarr", "processes": 1})
    check((folder / "s.zarr").exists() == (code == 0), f"exit code {code}, but a store: {text}")
    gone = how in ("random", "empty") or (how == "cut" and len(data) % len(messages[0]) > 16)  # else mere padding
    result = outcome("accepted" if data == sound else "refused" if gone else "either", code, text)
    if data != sound:
        return result
    store = Store(folder / "s.zarr")
    for (name, hour), field in fields.items():
        got = store.load(np.datetime64("2024-05-20", "ns") + (hour + lead) * 60 * MINUTE, [name])[0]
        check(np.array_equal(got, field + LOWEST.get(name, 0)), f"{name} of hour {hour}: {got}")
    check(np.allclose(store.grid.latitude, 40 + 0.03 * y, atol=1e-4), f"latitude: {store.grid.latitude[:, 0]}")
    check(np.allclose(store.grid.longitude, 0.03 * x - 110, atol=1e-4), f"longitude: {store.grid.longitude[0]}")
    return result

"""Fuzz cases of input that other tools write, and of single flipped bits. The functions are like those of
benchmarks/fuzz_cases.py: (rng, empty folder) to "accepted" or "refused", or AssertionError."""

import contextlib
import functools
import struct
from pathlib import Path
from random import Random

import numpy as np
import xarray as xr

from benchmarks.chaos import same
from benchmarks.fuzz_cases import MINUTE, check, command, ground, outcome, spoil, write_weather
from data import build_hrrr
from data.dataset import find_pairs
from data.quick_check import quick_check
from data.store import Store
from data.variables import TABLE
from training.checkpoint import load_checkpoint

FLIPPED = ["T2M", "U10", "V10"]  # variables of the store whose bits are flipped


# ---- flipped bits


def read_run(store: Path, checkpoint: Path) -> list:
    """What a run reads from a store and a checkpoint."""
    opened = Store(store)
    quick_check(opened, opened.choose(FLIPPED))
    grid = opened.grid
    fields = [opened.load(time, FLIPPED).tobytes() for time in opened.times]
    places = [x.tobytes() for x in (opened.times, grid.latitude, grid.longitude, grid.y, grid.x, *grid.static.values())]
    return [fields, places, grid.winds, load_checkpoint(checkpoint)]


@functools.cache
def sound_run() -> tuple[Path, list[Path], list]:
    """A store, all files of it and of a checkpoint, and what is read from them."""
    store, checkpoint = ground() / "flips.zarr", ground() / "best.pt"
    write_weather(store, FLIPPED, (12, 16), hours=12)
    return store, [checkpoint, *sorted(p for p in store.rglob("*") if p.is_file())], read_run(store, checkpoint)


def flips(rng: Random, folder: Path) -> str:
    """A flipped bit of a chunk, of metadata or of a checkpoint is refused, or all that is read stays as it was."""
    store, files, expected = sound_run()
    of_kind = {"checkpoint": files[:1], "metadata": [f for f in files if f.suffix == ".json"],
               "chunk": [f for f in files[1:] if f.suffix != ".json"]}  # fmt: skip
    file = rng.choice(of_kind[rng.choice(list(of_kind))])
    sound = file.read_bytes()
    place, bit = rng.randrange(len(sound)), rng.randrange(8)
    flipped = bytearray(sound)
    flipped[place] ^= 1 << bit
    file.write_bytes(flipped)
    try:
        found = read_run(store, files[0])
    except ValueError as error:
        check(" Fix: " in str(error), f"an error of a library: {error}")
        return "refused"
    finally:
        file.write_bytes(sound)
    around = sound[max(0, place - 40) : place + 20]
    check(same(found, expected), f"bit {bit} of byte {place} of {file.name} was read as something else: {around}")
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

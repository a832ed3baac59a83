"""Fuzz cases of stores: shapes, dtypes, chunks, time axes; values tell their own time and variable."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from hypothesis import strategies as st

from benchmarks.fuzz_base import Kind, check, quiet
from data.dataset import Hours, Series, Split, find_pairs, split_by_date
from data.quick_check import describe
from data.store import Store
from data.times import show_duration
from data.variables import TABLE, known, lookup

MINUTES = (5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 360)  # steps of a record
STARTS = ("2024-05-20T00:00", "2023-12-31T21:35", "2024-02-28T18:00", "1969-12-31T22:00", "2016-09-28T12:05",
          "1900-02-28T23:00", "2099-12-31T00:10")  # fmt: skip
FAR = ("1600-01-01T00:00", "2300-06-01T00:00", "0900-03-01T06:00")  # years that datetime64[ns] cannot hold
UNKNOWN = ("pm25", "snow depth", "θe", "A", "q_850", "Zdr", "wind.gust", "TCWV", "soil-1", "x1", "lwp", "ice")
DTYPES = ("<f4", ">f4", "<f8", "<f2", "<i2", ">i2", "<i4", "<i8", "|u1", "|i1", "<u2", "packed")
DIMS = (("y", "x"), ("latitude", "longitude"), ("lat", "lon"), ("south_north", "west_east"), ("j", "i"))
PRIME = 97  # values are whole numbers below it, which every dtype holds exactly


@st.composite
def records(draw) -> dict:
    """A time axis: start, step, which steps are there and in which order, how it is written, lead and history."""
    step, count = draw(st.sampled_from(MINUTES)), draw(st.integers(4, 24))
    whole = draw(st.booleans())
    present = list(range(count)) if whole else sorted(draw(st.sets(st.integers(0, count - 1), min_size=3)))
    order = draw(st.sampled_from(("sorted", "reversed", "shuffled")))
    places = {"sorted": present, "reversed": present[::-1], "shuffled": draw(st.permutations(present))}[order]
    return {
        "start": draw(st.sampled_from((*STARTS, *STARTS, *FAR))), "step": step, "places": list(places),
        "lead_steps": draw(st.integers(1, min(4, 360 // step))), "history": draw(st.integers(0, 3)),
        "unit": draw(st.sampled_from(("days", "hours", "minutes", "seconds", "milliseconds"))),
        "epoch": draw(st.sampled_from(("1970-01-01", "2024-02-29 12:00:00", "1900-01-01", "1600-03-01"))),
        "time_dtype": draw(st.sampled_from(("int64", "float64"))),
        "calendar": draw(st.sampled_from(("", "standard", "proleptic_gregorian"))),
    }  # fmt: skip


@st.composite
def stores(draw) -> dict:
    """A record with fields: names, grid, dtype, chunks, coordinates, zarr format."""
    some = draw(st.lists(st.sampled_from(range(len(TABLE))), max_size=7, unique=True))
    names = [draw(st.sampled_from((TABLE[i].name, *TABLE[i].aliases))) for i in some]
    more = draw(st.lists(st.sampled_from(UNKNOWN), min_size=0 if names else 1, max_size=12 - len(names), unique=True))
    return {
        **draw(records()), "names": list(draw(st.permutations(names + more))),
        "height": draw(st.integers(8, 37)), "width": draw(st.integers(8, 37)), "dtype": draw(st.sampled_from(DTYPES)),
        "format": draw(st.sampled_from((2, 3))), "consolidated": draw(st.booleans()),
        "chunks": [draw(st.integers(1, 7)), draw(st.integers(7, 37)), draw(st.integers(7, 37))],
        "one_chunk_an_hour": draw(st.booleans()), "shards": draw(st.booleans()), "dims": draw(st.integers(0, 4)),
        "coordinates": draw(st.sampled_from(("none", "lines", "fields", "metres"))), "extras": draw(st.booleans()),
        "fill": draw(st.sampled_from(("none", "zero", "far"))), "static": draw(st.booleans()),
    }  # fmt: skip


def times_of(case: dict) -> np.ndarray:
    """The times of a record in the order of the store, datetime64[m]."""
    return np.datetime64(case["start"], "m") + np.array(case["places"]) * np.timedelta64(case["step"], "m")


def value(place: int, variable: int, case: dict) -> np.ndarray:
    """The field of a step and variable: whole numbers below PRIME that tell both, and the cell."""
    y, x = np.mgrid[: case["height"], : case["width"]]
    return (3 * place + 17 * variable + 5 * y + 2 * x) % PRIME


def written_times(case: dict) -> tuple:
    """The time axis as another tool might write it; in minutes where whole numbers of its unit cannot tell it."""
    units = {"days": 1440, "hours": 60, "minutes": 1}
    minutes = (times_of(case) - np.datetime64(case["epoch"].replace(" ", "T"), "m")).astype("int64")
    unit = case["unit"]
    if unit in units:
        if case["time_dtype"] == "int64" and (minutes % units[unit]).any():
            unit = "minutes"
        numbers = minutes / units[unit] if case["time_dtype"] == "float64" else minutes // units[unit]
    else:
        numbers = minutes * {"seconds": 60, "milliseconds": 60_000}[unit]
    attributes = {"units": f"{unit} since {case['epoch']}"}
    if case["calendar"]:
        attributes["calendar"] = case["calendar"]
    return "time", numbers.astype(case["time_dtype"]), attributes


def write(case: dict, path: Path) -> None:
    """Write the store of a case with xarray."""
    dims = DIMS[case["dims"]]
    shape = (len(case["places"]), case["height"], case["width"])
    dtype = np.dtype("<i2" if case["dtype"] == "packed" else case["dtype"])
    arrays, encoding = {}, {}
    for number, name in enumerate(case["names"]):
        fields = np.stack([value(p, number, case) for p in case["places"]])
        attributes = {}
        if case["dtype"] == "packed":
            fields, attributes = 2 * fields - 20, {"scale_factor": 0.5, "add_offset": 10.0}
        elif case["fill"] != "none" and dtype.kind in "fi" and not (case["fill"] == "far" and dtype.itemsize < 2):
            attributes = {"_FillValue": dtype.type({"zero": 0, "far": -9999}[case["fill"]])}
        arrays[name] = (("time", *dims), fields.astype(dtype), attributes)
        chunks = (1, *shape[1:]) if case["one_chunk_an_hour"] else tuple(map(min, case["chunks"], shape))
        encoding[name] = {"chunks": chunks}
        if case["format"] == 3 and case["shards"]:
            encoding[name]["shards"] = tuple(c * 2 for c in chunks)
    if case["fill"] == "zero" and case["dtype"] != "packed":  # a packed 0 that is the fill value is missing indeed
        for name, (where, fields, attributes) in arrays.items():
            arrays[name] = (where, fields, {k: v for k, v in attributes.items() if k != "_FillValue"})
            encoding[name]["_FillValue" if case["format"] == 2 else "fill_value"] = dtype.type(0)
    if case["extras"]:
        arrays |= {"label": (("time",), np.array([f"hour {p}" for p in case["places"]])),
                   "levels": (("time", "level", *dims), np.zeros((shape[0], 2, *shape[1:]), np.float32)),
                   "area": (dims, np.ones(shape[1:], np.float32))}  # fmt: skip
    if case["static"]:
        arrays["orography"] = (dims, np.ones(shape[1:], np.float32))
    dataset = xr.Dataset(arrays, {"time": written_times(case), **coordinates(case, dims)})
    with quiet():
        # a chunk of nothing but its fill value is written too: else nothing tells it from one that was never written
        dataset.to_zarr(path, zarr_format=case["format"], consolidated=case["consolidated"], encoding=encoding,
                        write_empty_chunks=True)  # fmt: skip


def coordinates(case: dict, dims: tuple[str, str]) -> dict:
    """Latitude and longitude as 1-D or 2-D coordinates, or x and y in metres, or nothing."""
    latitude, longitude = 40 + 0.03 * np.arange(case["height"]), -100 + 0.03 * np.arange(case["width"])
    if case["coordinates"] == "lines" and dims[0] in ("latitude", "lat"):
        return {dims[0]: (dims[0], latitude), dims[1]: (dims[1], longitude)}
    if case["coordinates"] == "fields" and dims[0] not in ("latitude", "lat"):
        both = np.meshgrid(latitude, longitude, indexing="ij")
        return {"latitude": (dims, both[0]), "longitude": (dims, both[1])}
    if case["coordinates"] == "metres" and dims[0] not in ("latitude", "lat"):
        return {d: (d, 3000.0 * np.arange(n)) for d, n in zip(dims, (case["height"], case["width"]), strict=True)}
    return {}


def chosen(names: list[str]) -> list[str]:
    """What the store must choose where no variable is named: the table's, in its order, else all."""
    by_table = {lookup(n).name: n for n in names if known(n)}
    return [by_table[v.name] for v in TABLE if v.name in by_table] or sorted(names)


def play_pairs(case: dict, folder: Path) -> str:
    """Fields come back at their own time and under their own name, and pairs are those of the timestamps."""
    path, lead = folder / "s.zarr", np.timedelta64(case["step"] * case["lead_steps"], "m").astype("timedelta64[ns]")
    write(case, path)
    far = case["start"] in FAR
    try:
        with quiet():
            store = Store(path)
            names = store.choose([])
    except ValueError:
        check(far, "a sound store was refused")
        return "refused"
    times = times_of(case)
    check(not far or (times.astype("datetime64[ns]").astype("datetime64[m]") == times).all(),
          "times outside the range of datetime64[ns] were accepted")  # fmt: skip
    check((store.times == times).all(), f"times: got {store.times}, expected {times}")
    check(sorted(store.names) == sorted(case["names"]), f"names: got {store.names}, expected {case['names']}")
    check((names if any(map(known, names)) else sorted(names)) == chosen(case["names"]), f"chosen: {names}")
    place = {t: p for t, p in zip(times.astype("datetime64[ns]").tolist(), case["places"], strict=True)}
    needed = range(-case["history"] * case["lead_steps"], case["lead_steps"] + 1, case["lead_steps"])
    there = set(case["places"])
    wanted = sorted(t for t, p in place.items() if all(p + k in there for k in needed))
    with quiet():
        pairs = find_pairs(store.times, lead, (store.times.min(), store.times.max()), case["history"])
    check(pairs.tolist() == wanted, f"pairs: got {pairs}, expected {len(wanted)}")
    series, some = Series(Hours(store, names, None, 0.001), lead, case["history"]), pairs[:: max(1, len(pairs) // 3)]
    if len(some):
        states, target = series.states(some), series.targets(some, range(1))[0]
        for b, t in enumerate(some.tolist()):
            for c, name in enumerate(names):
                fields = [value(place[t] + k, case["names"].index(name), case) for k in needed]
                got = [*states[b, :, c], target[b, c]]
                check(all(np.array_equal(g.numpy(), f) for g, f in zip(got, fields, strict=True)),
                      f"values of {name} at {some[b]} are not those that were written")  # fmt: skip
        check(states.dtype == torch.float32 and states.shape[1] == case["history"] + 1, "shape or dtype of states")
    return "accepted"


# ---- the split by date, without a store ------------------------------------------------------------

GAPS = (
    "",
    "",
    "",
    "",
    "1h",
    "2h",
    "5min",
    "24h",
    "0h",
    "90 minutes",
    "-1h",
    "soon",
    "1e9h",
    "100000000000d",
    "0.00000000001s",
)


@st.composite
def splits(draw) -> dict:
    """A longer record, and dates and a gap as a user may give them."""
    step, count = draw(st.sampled_from(MINUTES)), draw(st.integers(2, 400))
    gaps = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(1, 40)), max_size=4))
    return {
        "start": draw(st.sampled_from(STARTS)), "step": step, "count": count, "gaps": [list(g) for g in gaps],
        "lead_steps": draw(st.integers(1, min(5, 360 // step))), "history": draw(st.integers(0, 3)),
        "train_end": draw(st.none() | st.floats(0.2, 0.7) | st.floats(-0.1, 1.1)),
        "val_end": draw(st.none() | st.floats(0.7, 1.0) | st.floats(-0.1, 1.1)),
        "gap": draw(st.sampled_from(GAPS)), "seed": draw(st.integers(0, 2**32)),
    }  # fmt: skip


def play_split(case: dict, folder: Path) -> str:
    """Parts are in order, apart by the gap, and have pairs that stay inside; a sound plain record is never refused."""
    lost = set(itertools.chain(*(range(first, first + n) for first, n in case["gaps"])))
    places = np.array([p for p in range(case["count"]) if p not in lost] or [0])
    step = np.timedelta64(case["step"], "m").astype("timedelta64[ns]")
    start, lead = np.datetime64(case["start"], "ns"), step * case["lead_steps"]
    times = np.random.default_rng(case["seed"]).permutation(start + places * step)

    def date(share: float | None) -> str:
        return "" if share is None else str((start + step * case["count"] * share).astype("datetime64[s]"))

    try:
        split = split_by_date(times, lead, date(case["train_end"]), date(case["val_end"]), case["gap"], case["history"])
    except ValueError as error:
        check("expected" in str(error) and "Fix: " in str(error), f"a message without expected or Fix: {error}")
        plain = case["train_end"] is case["val_end"] is None and not case["gap"] and not lost
        enough = case["count"] > 20 * case["lead_steps"] * (case["history"] + 5)
        check(not (plain and enough), f"a long record without gaps was refused: {error}")
        return "refused"
    parts = [split.train, split.validation, split.test]
    check(all(a <= b for a, b in parts[:2]), f"a part that ends before it begins: {split}")
    check(split.train[1] + split.gap <= split.validation[0], "validation begins inside the gap")
    check(split.validation[1] + split.gap <= split.test[0], "test begins inside the gap")
    check(split.gap > np.timedelta64(0, "ns"), "no gap")
    for first, last in parts:
        pairs = find_pairs(times, lead, (first, last), case["history"])
        inside = (pairs - case["history"] * lead >= first) & (pairs + lead <= last)
        check(bool(inside.all()), f"pairs leave their part {first} to {last}")
    check(len(find_pairs(times, lead, split.train, case["history"])) > 0, "no training pair")
    again = Split.from_dict(split.as_dict())
    check(again == split, f"the split changes on its way through a checkpoint: {split} {again}")
    check(show_duration(lead) != "", "a lead without a text")
    check(callable(describe), "no header")
    return "accepted"


def empty(folder: Path) -> None:
    """Remove what a case left."""
    for left in folder.iterdir():
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


PAIRS = Kind(stores(), play_pairs, 16)
SPLIT = Kind(splits(), play_split, 16)

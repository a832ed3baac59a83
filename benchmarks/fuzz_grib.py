"""Fuzz cases of GRIB2 files: messages whose values are known, whole, spoilt and of random bytes."""

import struct
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz_base import Kind, check, command, outcome
from benchmarks.fuzz_files import spoil, spoilt
from data import build_hrrr
from data.sources.grib import GribHours
from data.variables import TABLE, lookup

NUMBERS = {  # discipline, category, number, type and value of the level
    "REFC": (0, 16, 196, 10, 0), "T2M": (0, 0, 0, 103, 2), "D2M": (0, 0, 6, 103, 2), "U10": (0, 2, 2, 103, 10),
    "V10": (0, 2, 3, 103, 10), "CAPE": (0, 7, 6, 1, 0), "CIN": (0, 7, 7, 1, 0),
}  # fmt: skip
RUN = (2024, 5, 20)


def message(name: str, values: np.ndarray, run_hour: int, lead: int, lambert: bool, scanning: int, bits: int) -> bytes:
    """One field as a GRIB2 message with simple packing: whole numbers (y, x), stored as they are, rows south to north.
    Source: WMO FM 92 GRIB edition 2, templates 3.0, 3.30, 4.0 and 5.0."""
    discipline, category, number, surface, level = NUMBERS[name]
    rows, columns = values.shape
    flipped = values[:: 1 if scanning & 0x40 else -1, :: -1 if scanning & 0x80 else 1]
    earth = struct.pack(">BBIBIBI", 6, 0, 0, 0, 0, 0, 0)
    size = struct.pack(">II", columns, rows)
    if lambert:
        template, grid = 30, earth + size + struct.pack(
            ">IIBIIIIBBIIII", 38_000_000, 262_500_000, 8, 38_500_000, 262_500_000, 3_000_000, 3_000_000, 0, scanning,
            38_500_000, 38_500_000, 0, 0)  # fmt: skip
    else:
        south, north = 40_000_000, 40_000_000 + 30_000 * (rows - 1)
        west, east = 250_000_000, 250_000_000 + 30_000 * (columns - 1)
        first, last = (south, north) if scanning & 0x40 else (north, south)
        left, right = (east, west) if scanning & 0x80 else (west, east)
        corners = 0, 0, first, left, 0x30, last, right, 30_000, 30_000, scanning
        template, grid = 0, earth + size + struct.pack(">IIIIBIIIIB", *corners)
    packed = flipped.astype(">u1" if bits == 8 else ">u2").tobytes()
    body = b"".join(
        struct.pack(">IB", len(content) + 5, section) + content
        for section, content in (
            (1, struct.pack(">HHBBBHBBBBBBB", 7, 0, 2, 1, 1, *RUN, run_hour, 0, 0, 0, 1)),
            (3, struct.pack(">BIBBH", 0, rows * columns, 0, 0, template) + grid),
            (4, struct.pack(">HHBBBBBHBBIBBIBBI", 0, 0, category, number, 2, 0, 0, 0, 0, 1, lead, surface, 0, level,
                            255, 0, 0)),
            (5, struct.pack(">IHfHHBB", rows * columns, 0, 0.0, 0, 0, bits, 0)),
            (6, b"\xff"),
            (7, packed),
        )
    )  # fmt: skip
    return b"GRIB" + bytes([0, 0, discipline, 2]) + struct.pack(">Q", len(body) + 20) + body + b"7777"


@st.composite
def files(draw) -> dict:
    """Hours and variables of a file, its grid, and how it is spoilt."""
    return {
        "names": draw(st.lists(st.sampled_from([v.name for v in TABLE]), min_size=1, max_size=3, unique=True)),
        "hours": draw(st.integers(1, 3)), "lead": draw(st.integers(0, 1)), "height": draw(st.integers(8, 31)),
        "width": draw(st.integers(8, 31)), "lambert": draw(st.booleans()), "bits": draw(st.sampled_from((8, 16))),
        "scanning": draw(st.sampled_from((0, 0x40))), "suffix": draw(st.sampled_from((".grib2", ".bin"))),
        "spoil": draw(st.none() | spoilt()), "header": draw(st.booleans()), "order": draw(st.booleans()),
    }  # fmt: skip


def play_grib(case: dict, folder: Path) -> str:
    """A sound file gives its values back, one that is cut or is noise is refused, no other ends in a traceback."""
    shape, names = (case["height"], case["width"]), case["names"]
    y, x = np.mgrid[: shape[0], : shape[1]]
    fields = {(n, h): (7 * h + 29 * NUMBERS[n][2] + 5 * y + 2 * x) % 97 for n in names for h in range(case["hours"])}
    messages = [message(n, f, h, case["lead"], case["lambert"], case["scanning"], case["bits"])
                for (n, h), f in fields.items()]  # fmt: skip
    data = b"".join(messages[:: -1 if case["order"] else 1])
    whole = case["spoil"] is None or case["spoil"]["how"] == "none"
    if not whole:
        damage = dict(case["spoil"])
        if case["header"] and damage["how"] in ("flip", "zero", "noise"):  # in the first message's headers
            damage |= {"place": damage["place"] * 180 / len(data), "length": 1 + damage["length"] % 8}
        data = spoil(data, damage)
    ends = np.cumsum([len(m) for m in messages[:: -1 if case["order"] else 1]])
    (folder / f"hour{case['suffix']}").write_bytes(data)
    got: dict = {}

    def read(cfg) -> None:
        hours = GribHours(cfg, None, None)
        got.update({t: hours.load(t) for t in hours.times}, names=hours.names, grid=hours.grid)

    code, said = command(build_hrrr, "--path", folder, "--out", folder / "s.zarr", main=read)
    if whole:
        check(code == 0, f"a sound file was refused: {said}")
        for (name, hour), field in fields.items():
            time = np.datetime64("{:04d}-{:02d}-{:02d}".format(*RUN), "ns") + np.timedelta64(hour + case["lead"], "h")
            right = np.array_equal(got[time][name], field)
            check(right and name in got["names"], f"values of {name} at {time}: {lookup(name).long_name}")
        grid = got["grid"]
        check(grid.shape == shape and grid.latitude.shape == grid.longitude.shape == shape, "shape of the grid")
        if not case["lambert"]:
            right = (
                np.allclose(grid.latitude, 40 + 0.03 * y, atol=1e-4),
                np.allclose(grid.longitude, 0.03 * x - 110, atol=1e-4),
            )
            check(all(right), f"latitude, longitude: {grid.latitude[:, 0]}, {grid.longitude[0]}")
        else:
            first = (0, 0) if case["scanning"] & 0x40 else (-1, 0)
            corner = grid.latitude[first], grid.longitude[first]
            check(np.allclose(corner, (38.0, -97.5), atol=1e-4), f"the first cell is at {corner}")
        return "accepted"
    how = case["spoil"]["how"]
    refused = how in ("random", "empty", "append") or (how == "cut" and len(data) not in ends)
    return outcome("refused" if refused else "either", code, said)


GRIB = Kind(files(), play_grib, 10)

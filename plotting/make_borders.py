"""Make plotting/borders.npz, the coastlines and borders of the maps, from two packages of the npm registry.

    npm pack world-atlas@2.0.2 us-atlas@3.0.1        # once, with a network; then unpack both
    python -m plotting.make_borders world-atlas/countries-50m.json us-atlas/states-10m.json

Sources, both in the public domain: Natural Earth 1:50m countries (naturalearthdata.com, version 4.1) and the
cartographic boundary files of the US Census Bureau (2017). The packages carry them as TopoJSON, whose arcs are lines
between neighbours: an arc of one area is coast, an arc of two areas is a border.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

COAST, COUNTRY, STATE = 0, 1, 2  # kinds of line
QUANTUM = 1000  # steps per degree: 111 m
LONGEST = 30_000  # steps from one point to the next, within int16
UNITED_STATES = "840"  # drawn from the finer file


def arcs_of(topology: dict) -> list[np.ndarray]:
    """Every arc of a TopoJSON topology as (n, 2) longitude, latitude in degrees."""
    scale, shift = (np.array(topology["transform"][k]) for k in ("scale", "translate"))
    return [np.cumsum(np.array(arc), axis=0) * scale + shift for arc in topology["arcs"]]


def arc_numbers(geometry: dict) -> list[int]:
    """The numbers of the arcs a geometry is made of; a negative number is an arc walked backwards."""
    flat, todo = [], list(geometry.get("arcs", []))
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo.extend(item)
        else:
            flat.append(item if item >= 0 else ~item)
    return flat


def lines_of(topology: dict, collection: str, border: int, leave_out: str = "") -> list[tuple[int, np.ndarray]]:
    """(kind, line) of every arc of a collection: coast, or `border` where two areas share the arc."""
    uses, left_out = Counter(), set()
    for geometry in topology["objects"][collection]["geometries"]:
        numbers = set(arc_numbers(geometry))
        uses.update(numbers)
        if leave_out and geometry.get("id") == leave_out:
            left_out |= numbers
    arcs = arcs_of(topology)
    return [(border if n > 1 else COAST, arcs[i]) for i, n in sorted(uses.items()) if i not in left_out]


def pack(lines: list[tuple[int, np.ndarray]]) -> dict[str, np.ndarray]:
    """The lines as arrays: first points (lines, 2), steps from point to point east and north, all in QUANTUM, and the
    number of points and kind of each line. A line is cut where a step is too long (along the edge of the map)."""
    firsts, steps, lengths, kinds = [], [], [], []
    for kind, line in lines:
        points = np.round(line * QUANTUM).astype(np.int32)
        points = points[np.r_[True, np.any(np.diff(points, axis=0) != 0, axis=1)]]
        for part in np.split(points, 1 + np.flatnonzero(np.abs(np.diff(points, axis=0)).max(axis=1) > LONGEST)):
            if len(part) > 1:
                firsts.append(part[0])
                steps.append(np.diff(part, axis=0).astype(np.int16))
                lengths.append(len(part))
                kinds.append(kind)
    east, north = np.concatenate(steps).T
    sizes = {"lengths": np.array(lengths, np.int32), "kinds": np.array(kinds, np.int8)}
    return {"firsts": np.array(firsts), "east": east, "north": north} | sizes


def main(countries: str, states: str) -> None:
    world, nation = (json.loads(Path(p).read_text()) for p in (countries, states))
    lines = lines_of(world, "countries", COUNTRY, UNITED_STATES) + lines_of(nation, "states", STATE)
    out = Path(__file__).with_name("borders.npz")
    np.savez_compressed(out, **pack(lines))
    print(f"wrote {out}: {len(lines)} lines, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"error: got {len(sys.argv) - 1} files, expected two. Fix: {__doc__.splitlines()[3].strip()}")
    main(*sys.argv[1:])

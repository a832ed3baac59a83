"""Go on with an interrupted build, and add hours to a finished store, so that a reader never sees half of it.

`<path>.progress` lists the hours that lie complete and synced in `<path>.partial`; the next writer keeps them. Hours
that extend a finished store are gathered there too, and only then moved behind the last hour of `path`, where its
metadata does not reach yet. What makes them visible is one rename, of the zarr.json that holds the consolidated
metadata: before it readers see the old hours, after it all of them.
"""

import hashlib
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from data.files import beside, discard, replace
from data.grid import Grid, read_grid, same_grid
from data.times import show
from data.variables import TABLE

MOVING = "moving"  # line of the progress file after which every hour is complete and is being put in place


def read_progress(progress: Path) -> tuple[dict, list[tuple[np.datetime64, int]]]:
    """What is being built, and the hours that are complete; empty where there is no such file."""
    if not progress.exists():
        return {}, []
    lines = [line for line in progress.read_text().splitlines(keepends=True) if line.endswith("\n")]
    hours = [line.split() for line in lines[1:] if line.strip() != MOVING]
    return (json.loads(lines[0]) if lines else {}), [(np.datetime64(t, "ns"), int(k)) for t, k in hours]


def left_to_write(path: Path, names, grid: Grid, forecast_hour: int, wanted: list) -> list[np.datetime64]:
    """The wanted times after the last one of the store; ValueError where they do not fit into it."""
    fix = "Fix: another --out, or remove the store to build it anew"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = xr.open_zarr(path, chunks=None, decode_timedelta=False)
    held = [str(n) for n, v in dataset.data_vars.items() if v.ndim == 3]
    if set(held) != set(names):
        held.sort(key=lambda n: [*(v.name for v in TABLE), n].index(n))
        raise ValueError(f"{path}: holds {' '.join(held)}, got {' '.join(names)} to add, expected the same. {fix}")
    there = read_grid(dataset, dataset[held[0]].dims[1:])
    axes = [(a, b) for a, b in ((there.y, grid.y), (there.x, grid.x)) if a is not None and b is not None]
    if not same_grid(there, grid) or not all(np.allclose(a, b, atol=1) for a, b in axes):
        raise ValueError(f"{path}: holds another grid, {there.shape} cells, got {grid.shape}, expected the same. {fix}")
    kinds = sorted(set(dataset["forecast_hour"].values.tolist())) if "forecast_hour" in dataset else [forecast_hour]
    if kinds != [forecast_hour]:
        raise ValueError(f"{path}: holds hours of f{kinds[0]:02d}, got f{forecast_hour:02d}, expected the same. {fix}")
    times = dataset["time"].values.astype("datetime64[ns]")
    early = [t for t in wanted if t <= times[-1] and t not in times]
    if early:
        raise ValueError(f"{path}: ends at {show(times[-1])} and lacks {len(early)} of the wanted hours before that, "
                         f"the first {show(early[0])}; expected hours after its end. {fix}")  # fmt: skip
    return [t for t in wanted if t > times[-1]]


def complete_move(path: Path) -> None:
    """Put the gathered hours behind the last one of the store, where they were complete; else do nothing."""
    partial, progress = beside(path, "partial"), beside(path, "progress")
    old = beside(path, "old")
    if old.exists() and not path.exists():  # stopped between the two renames of `finish`
        old.rename(path)
    if not progress.exists() or not progress.read_text().endswith(f"\n{MOVING}\n"):
        return
    about, hours = read_progress(progress)
    first, last = about["extends"], about["extends"] + len(hours)
    for name in about["names"]:
        for index in range(len(hours)):
            if (chunk := partial / name / "c" / str(index)).exists():
                chunk.rename(path / name / "c" / str(first + index))
    root = json.loads((path / "zarr.json").read_text())
    metadata = root["consolidated_metadata"]["metadata"]
    for name in (*about["names"], "forecast_hour", "time"):
        metadata[name]["shape"][0] = last
        replace(path / name / "zarr.json", json.dumps(metadata[name]))
    seconds = [int(t.astype("datetime64[s]").astype("int64")) for t, _ in hours]
    zarr.open_array(path / "time", mode="r+")[first:last] = np.asarray(seconds, np.int64)
    zarr.open_array(path / "forecast_hour", mode="r+")[first:last] = np.asarray([k for _, k in hours], np.int8)
    added = json.loads((partial / "zarr.json").read_text())["attributes"].get("history", "")
    root["attributes"]["history"] = "\n".join(x for x in (root["attributes"].get("history", ""), added) if x)
    replace(path / "zarr.json", json.dumps(root))  # now the hours are visible
    discard(partial)
    progress.unlink()


def remove_hours_from(path: Path, names: list[str], first: int) -> None:
    """Remove chunks behind the last hour of a store, that nothing refers to."""
    for name in names:
        for chunk in (path / name / "c").iterdir():
            if chunk.name.isdigit() and int(chunk.name) >= first:
                shutil.rmtree(chunk)


def count_hours(path: Path) -> int:
    """The visible hours of a store of ours."""
    return int(json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]["time"]["shape"][0])


def grid_hash(grid: Grid) -> str:
    """A hash over everything that describes a grid."""
    digest = hashlib.sha256(repr((grid.shape, grid.dims, sorted(grid.projection.items()))).encode())
    for name, values in sorted({**vars(grid), **grid.static}.items()):
        if isinstance(values, np.ndarray):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()

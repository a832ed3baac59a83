"""Where the hours of a store wait until it is complete, and the one step that makes them visible.

    <path>.partial     a zarr group whose arrays are longer than any record: an hour lies at the second of its valid
                       time. So hours may come in any order and from any process, and which ones there are does not
                       change where they lie.
    <path>.progress    what is being built, then a line for every hour that is complete and synced

When all hours are there they are renamed to their numbers in the record: within the partial store where it is new,
else behind the last hour of `path`, where its metadata does not reach yet. What makes them visible is one rename: of
the whole store, or of the zarr.json that holds the consolidated metadata. Before it readers see the old hours, after
it all of them. A line of the progress file says that this has begun; whoever opens the store for writing completes it.
"""

import json
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zarr

from data.files import beside, replace, sync
from data.metadata import time_template, write_template

FIRST = np.datetime64("1678-01-01", "s")  # the earliest year that datetime64[ns] can hold
LENGTH = 2**35  # seconds, a thousand years
TOGETHER = 2  # variables that are packed at the same time: the packing leaves Python's lock
MOVING = "moving"  # line of the progress file after which every hour is complete and is being put in place


class Staging:
    """The hours of one store that are complete so far. Any process may `write`; one, the builder, may `record`.

    With `durable` False nothing is synced: for stores that are made again rather than gone on with.
    """

    def __init__(self, path: Path, names: list[str], durable: bool = True):
        self.path, self.names, self.durable = Path(path).absolute(), names, durable
        self.partial, self.progress = beside(self.path, "partial"), beside(self.path, "progress")
        self.arrays: dict[str, zarr.Array] = {}

    def __getstate__(self) -> dict:
        return {**vars(self), "arrays": {}}

    def write(self, time: np.datetime64, fields: dict[str, np.ndarray]) -> None:
        """Write one hour; `fields` has a (y, x) array in table units for every name."""
        if not self.arrays:
            group = zarr.open_group(self.partial, mode="r+", use_consolidated=False)
            self.arrays = {n: group[n].with_config({"write_empty_chunks": True}) for n in self.names}

        def put(name: str) -> None:
            self.arrays[name][place_of(time)] = np.asarray(fields[name], np.float32)
            if self.durable:
                sync(self._chunk(name, time) / "0" / "0")

        with ThreadPoolExecutor(TOGETHER) as pool:
            list(pool.map(put, self.names))

    def holds(self, time: np.datetime64) -> bool:
        """Whether every chunk of an hour is there."""
        return all((self._chunk(name, time) / "0" / "0").exists() for name in self.names)

    def record(self, time: np.datetime64, forecast_hour: int) -> None:
        """An hour is complete."""
        self._note(f"{np.datetime_as_string(time.astype('datetime64[ns]'))} {forecast_hour}")

    def keep_only(self, hours: dict[np.datetime64, int]) -> None:
        """Remove whatever an interrupted build left that is not one of these hours."""
        kept = {str(place_of(t)) for t in hours}
        for name in self.names:
            for chunk in (self.partial / name / "c").glob("*"):
                if chunk.name not in kept:
                    shutil.rmtree(chunk)

    def complete(self) -> None:
        """Every hour is there: make them visible."""
        about, hours = read_progress(self.progress)
        self.keep_only(hours)
        if about["extends"] is not None:
            remove_hours_from(self.path, self.names, about["extends"])
        self._note(MOVING)
        complete_move(self.path)

    def _chunk(self, name: str, time: np.datetime64) -> Path:
        return self.partial / name / "c" / str(place_of(time))

    def _note(self, line: str) -> None:
        with self.progress.open("a") as file:
            file.write(line + "\n")
            if self.durable:
                file.flush()
                os.fsync(file.fileno())


def place_of(time: np.datetime64) -> int:
    """Where an hour lies along the partial store's first axis."""
    return int((time.astype("datetime64[s]") - FIRST).astype("int64"))


def read_progress(progress: Path) -> tuple[dict, dict[np.datetime64, int]]:
    """What is being built, and {time: kind} of the hours that are complete, sorted; empty where there is no file."""
    if not progress.exists():
        return {}, {}
    lines = [line for line in progress.read_text().splitlines(keepends=True) if line.endswith("\n")]
    hours = [line.split() for line in lines[1:] if line.strip() != MOVING]
    return (json.loads(lines[0]) if lines else {}), {np.datetime64(t, "ns"): int(k) for t, k in sorted(hours)}


def complete_move(path: Path) -> None:
    """Make the hours visible where all were complete; else do nothing. May be interrupted and repeated."""
    partial, progress, old = (beside(path, ending) for ending in ("partial", "progress", "old"))
    if old.exists() and not path.exists():  # stopped between the two renames of `finish`
        old.rename(path)
    if not progress.exists() or not progress.read_text().endswith(f"\n{MOVING}\n"):
        return
    about, hours = read_progress(progress)
    new, first = about["extends"] is None, about["extends"] or 0
    if (partial / "zarr.json").exists():  # else the last rename was done already
        into = partial if new else path
        for name in about["names"]:
            for index, time in enumerate(hours):
                if (chunk := partial / name / "c" / str(place_of(time))).exists():
                    chunk.rename(into / name / "c" / str(first + index))
        if new:
            for name in about["names"]:
                metadata = json.loads((partial / name / "zarr.json").read_text())
                metadata["shape"][0] = len(hours)
                replace(partial / name / "zarr.json", json.dumps(metadata))
            for name in ("time", "forecast_hour"):  # half of an earlier try: xarray would keep what is there
                shutil.rmtree(partial / name, ignore_errors=True)
            attributes = json.loads((partial / "zarr.json").read_text())["attributes"]
            write_template(time_template(list(hours), list(hours.values()), attributes), partial, mode="a")
            finish(partial, path)
        elif count_hours(path) < first + len(hours):
            _lengthen(path, partial, about["names"], first, hours)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    progress.unlink()


def _lengthen(path: Path, partial: Path, names: list[str], first: int, hours: dict[np.datetime64, int]) -> None:
    """Let the metadata of `path` reach over the hours that now lie behind its first ones."""
    root = json.loads((path / "zarr.json").read_text())
    metadata, last = root["consolidated_metadata"]["metadata"], first + len(hours)
    for name in (*names, "forecast_hour", "time"):
        metadata[name]["shape"][0] = last
        replace(path / name / "zarr.json", json.dumps(metadata[name]))
    seconds = [int(t.astype("datetime64[s]").astype("int64")) for t in hours]
    zarr.open_array(path / "time", mode="r+")[first:last] = np.asarray(seconds, np.int64)
    zarr.open_array(path / "forecast_hour", mode="r+")[first:last] = np.asarray(list(hours.values()), np.int8)
    added = json.loads((partial / "zarr.json").read_text())["attributes"].get("history", "")
    root["attributes"]["history"] = "\n".join(x for x in (root["attributes"].get("history", ""), added) if x)
    replace(path / "zarr.json", json.dumps(root))  # now the hours are visible


def finish(partial: Path, path: Path) -> None:
    """Consolidate the metadata of a complete store and move it to its place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that consolidation is not yet in the v3 specification
        zarr.consolidate_metadata(partial)
    old = beside(path, "old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def remove_hours_from(path: Path, names: list[str], first: int) -> None:
    """Remove chunks behind the last hour of a store, that nothing refers to."""
    for name in names:
        for chunk in (path / name / "c").iterdir():
            if chunk.name.isdigit() and int(chunk.name) >= first:
                shutil.rmtree(chunk)


def count_hours(path: Path) -> int:
    """The visible hours of a store of ours."""
    return int(json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]["time"]["shape"][0])

"""Build hours in this process, in several of this machine, or on a Dask cluster: the same hours, in any order.

Fields are written where they were read. Two known faults are mended and counted: the sign of CIN, which differs between
sources, and HRRR's broken dew points (isolated pixels at -81.03 C). Nothing else is changed, no missing cell is filled.
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from data.command import fault, raised_by_us
from data.sources import HourUnavailable
from data.variables import lookup
from data.write import Staging

PATIENCE = "10s"  # for a scheduler to answer
MEMORY = 2**30  # bytes, of all processes together
INTERPRETER = 130e6  # bytes, a process with numpy, xarray and zarr before the first hour
HELD = 3  # fields of an hour, decoded and on their way, that a worker holds at the same time
WORTH = 400e6  # bytes of fields that justify starting another process

BROKEN = 192.12  # K (-81.03 C): the value of a broken dew point
NEAR = 0.3  # K: sources that round it (half precision, cut mantissas) keep it this close
STEP = 10.0  # K below the median around it: it is broken, not cold air
AROUND = 2  # cells on each side: 5 x 5


@dataclass
class Done:
    """What came of one hour."""

    time: np.datetime64
    missing: dict[str, int] = field(default_factory=dict)  # cells that are NaN, by variable
    beyond: dict[str, int] = field(default_factory=dict)  # cells beyond the bounds, by variable
    turned: bool = False  # the sign of CIN
    repaired: int = 0  # dew points
    lost: str = ""  # why the hour is left out; "" if it was written


def build(hours, staging: Staging, todo: list[np.datetime64], processes: int, dask: str = "") -> Iterator[Done]:
    """What came of every hour of `todo`, as they are finished.

    `processes` 0: as many as cores, memory and the work at hand suggest. `dask`: the address of a scheduler, whose
    workers then do the work. ValueError as from the source, and for a cluster that cannot be used.
    """
    batches = [todo[i : i + hours.together] for i in range(0, len(todo), hours.together)]
    processes = 1 if dask else max(1, min(processes or suggested(hours, todo), len(batches)))
    hours.share(processes)
    if processes == 1 and not dask:
        for batch in batches:
            hours.expect(batch)
            yield from (build_hour(hours, staging, time) for time in batch)
        return
    with dask_cluster(hours, staging, dask) if dask else local_pool(hours, staging, processes) as submit:
        for future in as_completed([submit(batch) for batch in batches]):
            done, refused = future.result()
            yield from done
            if refused:
                raise ValueError(refused)


def suggested(hours, todo: list[np.datetime64]) -> int:
    """Processes that keep the cores busy, together below MEMORY, and are worth their start."""
    field = 4.0 * np.prod(hours.grid.shape) * len(hours.names)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    affordable = (MEMORY - INTERPRETER - hours.cache_bytes) / (INTERPRETER + HELD * field)
    return max(1, int(min(cores, affordable, len(todo) * field / WORTH)))


def build_hour(hours, staging: Staging, time: np.datetime64) -> Done:
    """Read one hour of a source, mend it and write it. ValueError if the source cannot be read."""
    fields, done = load(hours, time)
    if not done.lost:
        staging.write(time, fields)
    return done


def load(hours, time: np.datetime64) -> tuple[dict[str, np.ndarray], Done]:
    """One hour of a source, mended, and what came of it."""
    done = Done(time)
    try:
        fields = hours.load(time)
        done.lost = implausible(fields)
    except HourUnavailable as error:
        fields, done.lost = {}, str(error)
    if done.lost:
        return fields, done
    if "CIN" in fields and np.nansum(fields["CIN"]) > 0:
        fields["CIN"] = 0.0 - fields["CIN"]
        done.turned = True
    if "D2M" in fields:
        fields["D2M"], done.repaired = repair_dew_points(fields["D2M"])
    done.missing = {n: cells for n, values in fields.items() if (cells := int(np.isnan(values).sum()))}
    outside = {n: (values < limits(n)[0]) | (values > limits(n)[1]) for n, values in fields.items()}
    done.beyond = {n: cells for n, where in outside.items() if (cells := int(where.sum()))}
    return fields, done


def limits(name: str) -> tuple[float, float]:
    """Bounds that values of a variable keep in any source: its physical bounds, of either sign but for kelvin, as the
    sign of CIN and the value for no echo differ between sources."""
    variable = lookup(name)
    size = max(abs(variable.lower), abs(variable.upper))
    return (variable.lower, variable.upper) if variable.units == "K" else (-size, size)


def implausible(fields: dict[str, np.ndarray]) -> str:
    """Why an hour cannot be in the table's units, or "": the mean of a field is beyond the limits of its variable."""
    for name, values in fields.items():
        low, high = limits(name)
        mean = float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
        if mean < low or mean > high:
            unit = lookup(name).units.replace("K", "kelvin; is it Celsius?")
            return f"the mean of {name} is {mean:.4g}, expected {low:g} to {high:g} {unit}"
    return ""


def repair_dew_points(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Dew points (y, x), K, with isolated broken pixels replaced by the median of the 5 x 5 cells around them, and how
    many there were. A pixel is broken if it has HRRR's broken value and is more than 10 K below that median. (Any
    value below -40 C would not do: over dry mountains ERA5 has such single cells that are weather.)"""
    rows, columns = np.nonzero(np.abs(values - BROKEN) < NEAR)
    if not len(rows):
        return values, 0
    padded = np.pad(values, AROUND, constant_values=np.nan)  # no cell outside takes part in the median
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * AROUND + 1,) * 2)
    out, repaired = values.copy(), 0
    for part in range(0, len(rows), 100_000):  # polar air may have very many such cells
        y, x = rows[part : part + 100_000], columns[part : part + 100_000]
        median = np.nanmedian(windows[y, x].reshape(len(y), -1), axis=1)
        broken = values[y, x] < median - STEP
        out[y[broken], x[broken]] = median[broken]
        repaired += int(broken.sum())
    return out, repaired


# --- other processes ---

_kept = threading.local()  # in a worker: the source and the staging of each thread, and where they came from


@contextmanager
def local_pool(hours, staging: Staging, processes: int) -> Iterator[Callable]:
    """What submits a batch to one of several processes of this machine."""
    context = multiprocessing.get_context("spawn")  # fork would copy threads that the source has started
    pool = ProcessPoolExecutor(processes, context, begin_worker, (hours, staging))
    try:
        yield lambda batch: pool.submit(work, None, batch)
    except BrokenProcessPool:
        got, fix = (
            "a worker process that ended before its work was done (often: no memory left)",
            "again, with fewer --processes",
        )
        raise fault("processes", got, "none to end", fix) from None
    finally:
        pool.shutdown(cancel_futures=True)


def begin_worker(hours, staging: Staging) -> None:
    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it
    threading.Thread(target=end_with_parent, daemon=True).start()
    _kept.blob, _kept.source = None, (hours, staging)


@contextmanager
def dask_cluster(hours, staging: Staging, address: str) -> Iterator[Callable]:
    """What submits a batch to the workers of a Dask scheduler, which have to see project, source and store."""
    try:
        from distributed import Client
    except ImportError:
        fix = ".venv/bin/python -m pip install 'dask[distributed]'"
        raise fault("dask", "no package distributed", "it to be installed", fix) from None
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        got = f"no answer from {address} ({type(error).__name__})"
        raise fault("dask", got, "a scheduler's address", "--dask tcp://HOST:8786") from None
    with client:
        seen = client.run(os.path.isdir, str(staging.folder))
        if not seen or not all(seen.values()):
            blind = next((w for w, yes in seen.items() if not yes), "none")
            got, fix = f"{len(seen)} workers of which {blind} does not see {staging.folder}", "start them there"
            raise fault("dask", got, "workers that share the file system", fix)
        blob = client.scatter(pickle.dumps((hours, staging)), broadcast=True)
        pool = client.get_executor(pure=False, retries=2)
        try:
            yield lambda batch: pool.submit(work, blob, batch)
        except ModuleNotFoundError as error:
            got, fix = f"workers without the module {error.name}", "start them in the project's folder and environment"
            raise fault("dask", got, "this project and its packages", fix) from None


def work(blob: bytes | None, batch: list[np.datetime64]) -> tuple[list[Done], str]:
    """What came of each hour of a batch, up to one that is refused, and why it is. `blob`: the pickled source and
    staging, None in a process that began with them."""
    if getattr(_kept, "blob", b"") != blob:
        _kept.blob, _kept.source = blob, pickle.loads(blob)  # from the builder's own process
    (hours, staging), done = _kept.source, []
    try:
        hours.expect(batch)
        for time in batch:
            done.append(build_hour(hours, staging, time))
    except ValueError as error:
        if not raised_by_us(error):  # the traceback, which tells, does not travel
            raise
        return done, str(error)
    return done, ""

"""Build hours in this process, in several of this machine, or on a Dask cluster: the same hours, in any order.

A source object goes to each worker once, pickled; then hours go one way and what came of them the other. Fields are
written where they were read. Workers that lose the process which started them end by themselves.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection, wait

import numpy as np

from data.build_hour import Done, build_hour
from data.command import raised_by_us
from data.staging import Staging

PATIENCE = "10s"  # for a scheduler to answer
MEMORY = 2**30  # bytes, of all processes together
INTERPRETER = 130e6  # bytes, a process with numpy, xarray and zarr before the first hour
HELD = 3  # fields of an hour, decoded and on their way, that a worker holds at the same time
WORTH = 400e6  # bytes of fields that justify starting another process


def build(hours, staging: Staging, todo: list[np.datetime64], processes: int, dask: str = "") -> Iterator[Done]:
    """What came of every hour of `todo`, in the order in which they are finished.

    `processes` 0: as many as cores, memory and the work at hand suggest. `dask`: the address of a scheduler, whose
    workers then do the work. ValueError as from the source, and for a cluster that cannot be used.
    """
    batches = split(todo, getattr(hours, "together", 1))
    if dask:
        yield from on_cluster(hours, staging, batches, dask)
        return
    processes = min(processes or suggested(hours, todo), len(batches))
    if hasattr(hours, "share"):
        hours.share(max(1, processes))
    if processes <= 1:
        for batch in batches:
            yield from tried(attempt(hours, staging, batch))
    else:
        yield from in_processes(hours, staging, batches, processes)


def split(todo: list[np.datetime64], size: int) -> list[list[np.datetime64]]:
    """Consecutive hours that one worker gets at a time, as many as the source decodes together."""
    rest = iter(todo)
    return list(iter(lambda: list(islice(rest, max(1, size))), []))


def suggested(hours, todo: list[np.datetime64]) -> int:
    """Processes that keep the cores busy, together below MEMORY, and are worth their start."""
    field = 4.0 * np.prod(hours.grid.shape) * len(hours.names)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cache = getattr(hours, "cache_bytes", 0)  # divided among them
    affordable = (MEMORY - INTERPRETER - cache) / (INTERPRETER + HELD * field)
    return max(1, int(min(cores, affordable, len(todo) * field / WORTH)))


def attempt(hours, staging: Staging, batch: list[np.datetime64]) -> Iterator[Done | Exception]:
    """What came of each hour of a batch; an exception as the last one where the work cannot go on."""
    try:
        if hasattr(hours, "expect"):
            hours.expect(batch)
        for time in batch:
            yield build_hour(hours, staging, time)
    except ValueError as error:
        # a traceback does not survive the way to another process, so what it tells is told here
        yield ValueError(str(error)) if raised_by_us(error) else RuntimeError(traceback.format_exc())
    except Exception:
        yield RuntimeError(traceback.format_exc())


def tried(results) -> Iterator[Done]:
    for result in results:
        if isinstance(result, ValueError):
            raise ValueError(str(result))
        if isinstance(result, Exception):
            raise result
        yield result


# --- several processes ---


def in_processes(hours, staging: Staging, batches: list, processes: int) -> Iterator[Done]:
    """Each process asks for its next batch when it has none: none waits for a slower one."""
    context = multiprocessing.get_context("spawn")  # fork would copy threads that the source has started
    waiting, workers = list(reversed(batches)), {}
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, hours, staging), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = process
        while workers:
            for connection in wait(list(workers)):
                try:
                    result = connection.recv()
                except (EOFError, ConnectionResetError):
                    process = workers[connection]
                    process.join()
                    raise ValueError(f"a worker process ended with {process.exitcode} in mid work, expected 0 (-9 is "
                                     "often want of memory). Fix: the same command again, with fewer "
                                     "--processes") from None  # fmt: skip
                if result is not None:
                    yield from tried([result])
                elif waiting:
                    connection.send(waiting.pop())
                else:
                    connection.send(None)
                    workers.pop(connection).join()
    finally:
        for connection, process in workers.items():
            process.terminate()
            process.join()
            connection.close()


def serve(connection: Connection, hours, staging: Staging) -> None:
    """A worker: ask for a batch with None, send what came of each hour, until there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it
    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        connection.send(None)
        while batch := connection.recv():
            for result in attempt(hours, staging, batch):
                connection.send(result)
            connection.send(None)


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# --- a Dask cluster ---

_kept = threading.local()  # the source of each thread of a Dask worker


def on_cluster(hours, staging: Staging, batches: list, address: str) -> Iterator[Done]:
    """The same on the workers of a Dask scheduler, which have to see the project, the source and the store."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ValueError("dask: got no package distributed, expected it. "
                         "Fix: .venv/bin/python -m pip install 'dask[distributed]'") from None  # fmt: skip
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(f"dask: got no answer from {address} ({type(error).__name__}), expected a scheduler's "
                         "address. Fix: --dask tcp://HOST:8786") from None  # fmt: skip
    with client:
        seen = client.run(os.path.isdir, str(staging.partial))
        if not seen or not all(seen.values()):
            blind = next((w for w, yes in seen.items() if not yes), "none")
            raise ValueError(
                f"dask: got {len(seen)} workers of which {blind} does not see {staging.partial}, expected workers that "
                "share the file system. Fix: start workers there, or another --out"
            )
        try:
            blob = client.scatter(pickle.dumps((hours, staging)), broadcast=True)
            futures = [client.submit(work, blob, batch, pure=False, retries=2) for batch in batches]
            for future in as_completed(futures):
                yield from tried(future.result())
                future.release()
        except ModuleNotFoundError as error:
            raise ValueError(f"dask: its workers got no module {error.name}, expected this project and its packages. "
                             "Fix: start them in the project's folder, in its environment") from None  # fmt: skip


def work(blob: bytes, batch: list[np.datetime64]) -> list[Done | Exception]:
    """One batch in a thread of a Dask worker."""
    if getattr(_kept, "blob", None) != blob:
        _kept.blob, _kept.source = blob, pickle.loads(blob)  # from the builder's own process
    return list(attempt(*_kept.source, batch))

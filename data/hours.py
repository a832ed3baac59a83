"""Hours of a store as normalised tensors; decoded ones stay in memory while it lasts."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from data.chunks import plain_arrays, read_fields
from data.normalise import Statistics, normalise
from data.retry import Guard
from data.store import Store
from data.times import show

READERS = 2  # threads that read ahead: decoding releases Python's lock, and forked workers can hang with zarr


class Hours:
    """hours(time) -> (C, H, W) float32, normalised, 0 in masked cells; not to be written to.

    mask (C, H, W) bool or None: cells without data in every hour. room: bytes for decoded hours; the first ones that
    are asked for stay. ValueError for a missing or infinite value outside the mask, and for an hour that cannot be
    read, which is tried again for a while (data/retry.py).
    """

    def __init__(self, store: Store, names: list[str], statistics: Statistics, mask: Tensor | None, room: int = 0):
        self.store, self.names, self.mask = store, list(names), None if mask is None else mask.cpu()
        self.statistics, self.room = statistics.to("cpu"), room
        self.arrays = plain_arrays(store, self.names)
        self.guard = Guard(store, self.names, None if mask is None else self.mask.numpy())
        self.kept: dict[int, Tensor] = {}

    def __call__(self, time: np.datetime64) -> Tensor:
        key = int(time.astype("datetime64[ns]").astype("int64"))
        if (found := self.kept.get(key)) is not None:
            return found
        hour = normalise(self.physical(time), self.statistics, self.mask)
        if (len(self.kept) + 1) * hour.nbytes <= self.room:
            self.kept[key] = hour
        return hour

    def physical(self, time: np.datetime64) -> Tensor:
        """The hour (C, H, W) in the store's units, NaN in masked cells."""
        fields = torch.from_numpy(self.guard(time, lambda t: read_fields(self.store, self.arrays, t, self.names)))
        missing = ~fields.isfinite() if self.mask is None else ~fields.isfinite() & ~self.mask
        if missing.any():
            count = missing.sum(dim=(1, 2)).tolist()
            name, number = next((n, c) for n, c in zip(self.names, count, strict=True) if c)
            raise ValueError(
                f"{self.store.path}: {name} at {show(time)} has {number} missing or infinite values, expected a "
                f"number. Fix: `.venv/bin/python -m data.check_store {self.store.path}` lists such hours and has "
                "training leave them out"
            )
        return fields


def read_ahead(read, requests: Iterable, readers: int = READERS):
    """Yield (request, read(request)) in order, while `readers` threads read the next ones."""
    requests = iter(requests)
    with ThreadPoolExecutor(readers) as pool:
        waiting: list[tuple[object, Future]] = []
        for request in requests:
            waiting.append((request, pool.submit(read, request)))
            waiting += [(r, pool.submit(read, r)) for r in islice(requests, readers - len(waiting))]
            request, result = waiting.pop(0)
            yield request, result.result()
        for request, result in waiting:
            yield request, result.result()

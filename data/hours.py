"""Hours of a store in memory: decoded outside Python's lock, packed where that changes no value, kept as planned."""

import contextlib
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from threading import Lock, local

import numpy as np
import torch
from torch import Tensor

from data.cache import Plan, choose, device_room
from data.chunks import plain_arrays
from data.packing import Packed, find_steps, pack
from data.store import Store
from data.times import show
from data.transfer import Batch, Hour, Pinned

LOOKED_AT = 6  # hours, spread over the record, that decide on the precision


class Hours:
    """Reads hours of a store as fields (C, H, W) float32 in physical units, and keeps decoded ones in memory.

    cache_gb: memory for them, filled with the first hours that are asked for; `plan` chooses better, from what is free.
    mask (C, H, W) bool or None: where values are missing in every hour; missing or infinite ones elsewhere raise
    ValueError. threads: decode so many variables at the same time (0: by cores). May be pickled, without what it keeps.
    """

    def __init__(self, store: Store, names: list[str], mask: Tensor | None, cache_gb: float = 0.0, threads: int = 0):
        self.store, self.names, self.mask = store, list(names), mask
        self.threads = threads or max(1, min(len(names), (os.cpu_count() or 1) - 1))
        self.decoded = 0  # hours decoded so far
        self.rounded: dict[str, float] = {}  # variables with cells that int16 changed, by at most so much
        self._room, self._evict, self._steps = int(cache_gb * 1e9), False, None
        self._positions = {_key(t): i for i, t in enumerate(store.dataset["time"].values)}
        self._plain = plain_arrays(store, self.names)
        self._start()

    def _start(self) -> None:
        """What belongs to one process."""
        self._kept: OrderedDict[int, Packed] = OrderedDict()  # the one used last is last
        self._on_device: dict[int, Hour] | None = None
        self._held, self._lock, self._scratch, self._pool, self._pinned = 0, Lock(), local(), None, None

    def __getstate__(self) -> dict:
        own = ("_kept", "_on_device", "_held", "_lock", "_scratch", "_pool", "_pinned")
        return {k: v for k, v in vars(self).items() if k not in own}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._start()

    def __call__(self, time: np.datetime64) -> Tensor:
        """(C, H, W) float32 in physical units, on the device where hours are kept there; not to be written to."""
        if self._on_device is not None:
            return self.together([time], (1,))[0]
        return torch.from_numpy(self.packed(time).fields())

    def plan(self, times: np.ndarray, span: int, device: torch.device | str = "cpu", lean: bool = True,
             cache_gb: float = -1.0, sharers: int = 1, half: bool = True) -> Plan:  # fmt: skip
        """Choose where the hours `times` are kept from now on and in which precision; its `line` says it.

        To be asked after one training step of each kind, so that the device's free memory is known. span: hours that
        a pair touches. half: False for float32 in any case. The other arguments are those of
        `data.cache.choose`.
        """
        device = torch.device(device)
        self._kept.clear()
        self._held, self._steps, self._on_device = 0, None, None
        kind, size = self._choose_precision(times, half)
        plan = choose(len(times), size, span, kind, cache_gb, device_room(device, lean), sharers)
        self._kept.clear()
        self._held, self._evict, self._room = 0, True, plan.hours * size if plan.place == "RAM" else 0
        self._on_device = {} if plan.place == "device" else None
        self._pinned = Pinned(device) if device.type == "cuda" else None
        return plan

    def _choose_precision(self, times: np.ndarray, half: bool) -> tuple[str, int]:
        """Half precision where some hours of the record say that it changes no value; its name, and bytes an hour."""
        cells = len(self.names) * int(np.prod(self.store.grid.shape))
        if not half:
            return "float32", 4 * cells
        if self.mask is not None:
            return "float32 (some cells are missing)", 4 * cells
        some = times[np.unique(np.linspace(0, len(times) - 1, LOOKED_AT).round().astype(int))]
        looked_at = []
        for t in some:
            with contextlib.suppress(ValueError):  # an hour at fault is told when it is asked for
                looked_at.append(self.packed(t).values)
        steps = find_steps(looked_at) if looked_at else [None]
        if None not in steps:
            self._steps = steps
            for hour in map(self._pack, looked_at):
                changed = [True] * len(steps) if hour.scale is None else hour.error > 0
                steps = [None if bad else step for step, bad in zip(steps, changed, strict=True)]
        if None in steps:
            self._steps = None
            first = self.names[steps.index(None)]
            return f"float32 ({first} is not in steps that 16 bits could count)", 4 * cells
        return "int16 (in the source's steps)", 2 * cells

    def packed(self, time: np.datetime64) -> Packed:
        """An hour as the cache has it, decoded where it is not there."""
        with self._lock:
            if (found := self._kept.get(_key(time))) is not None:
                self._kept.move_to_end(_key(time))
                return found
            hour = self._decode(time)
            size = hour.values.nbytes
            while self._evict and self._kept and self._held + size > self._room:
                self._held -= self._kept.popitem(last=False)[1].values.nbytes
            if self._held + size <= self._room:
                self._kept[_key(time)] = hour
                self._held += size
            return hour

    def request(self, times: list[np.datetime64], lead: tuple[int, ...]) -> Batch:
        """Hours for one step, len(times) of them, to become a tensor (*lead, C, H, W) on the device."""
        kept = self._on_device or {}
        hours = [kept.get(_key(t)) or self._on_host(self.packed(t)) for t in times]

        def keep(number: int, hour: Hour) -> None:
            self._on_device[_key(times[number])] = hour

        return Batch(hours, lead, self._pinned, None if self._on_device is None else keep)

    def together(self, times: list[np.datetime64], lead: tuple[int, ...]) -> Tensor:
        """The same as a tensor, on the device where hours are kept there, else on the host."""
        if self._on_device is not None:
            return self.request(times, lead).to(self._pinned.device)
        return stack([self(t) for t in times]).unflatten(0, lead)

    def _on_host(self, hour: Packed) -> Hour:
        if self._pinned is not None:
            return self._pinned.take(hour)
        numbers = None if hour.scale is None else np.stack([hour.scale, hour.offset])[:, :, None, None]
        return Hour(torch.from_numpy(hour.values), None if numbers is None else torch.from_numpy(numbers))

    def _decode(self, time: np.datetime64) -> Packed:
        hour = self._new(time)
        self.decoded += 1
        for name, error in zip(self.names, () if hour.error is None else hour.error, strict=hour.error is not None):
            if error > 0:
                self.rounded[name] = max(self.rounded.get(name, 0.0), float(error))
        return hour

    def _new(self, time: np.datetime64) -> Packed:
        """An hour from the store. What watches over reading may stand around this (data/retry.py)."""
        index = self._positions.get(_key(time))
        if index is not None and self.store.has(time) and None not in self._plain:
            found = self._from_chunks(index, time)
            if found is not None:
                return found
        values = self.store.load(time, self.names)
        self._refuse_missing(values, time)
        return self._pack(values)

    def _from_chunks(self, index: int, time: np.datetime64) -> Packed | None:
        """An hour decoded where it will stay; None where a chunk is not as expected."""
        shape, steps = self.store.grid.shape, self._steps
        values = np.empty((len(self.names), *shape), np.float32 if steps is None else np.int16)

        def one(c: int):
            field = values[c]
            if steps is not None:
                if not hasattr(self._scratch, "field"):
                    self._scratch.field = np.empty(shape, np.float32)
                field = self._scratch.field
            if not self._plain[c].read(index, field):
                return None
            return bool(np.isfinite(field.min() + field.max())) if steps is None else pack(field, steps[c], values[c])

        if self.threads > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads)
        found = list((map if self.threads == 1 else self._pool.map)(one, range(len(self.names))))
        if None in found:
            return None
        if steps is not None:
            return Packed(values, *np.array(found, np.float32).T)
        if not all(found):
            self._refuse_missing(values, time)
        return Packed(values)

    def _pack(self, values: np.ndarray) -> Packed:
        """Fields in the cache's precision; those that have too wide a range for it stay as they are."""
        if self._steps is None:
            return Packed(values)
        out = np.empty(values.shape, np.int16)
        found = [pack(f, s, q) for f, s, q in zip(values, self._steps, out, strict=True)]
        return Packed(values) if None in found else Packed(out, *np.array(found, np.float32).T)

    def _refuse_missing(self, values: np.ndarray, time: np.datetime64) -> None:
        bad = ~np.isfinite(values)
        if self.mask is not None:
            bad &= ~self.mask.numpy()
        if bad.any():
            c = int(bad.sum(axis=(1, 2)).argmax())
            raise ValueError(
                f"{self.store.path}: {self.names[c]} has {int(bad[c].sum())} missing or infinite values at "
                f"{show(time)}, expected numbers. Fix: `.venv/bin/python -m data.check_store {self.store.path}` "
                "lists such hours and has training leave them out"
            )


def stack(fields: list[Tensor]) -> Tensor:
    """torch.stack by numpy: a second thread that calls torch gets a team of OpenMP threads of its own, and then all
    of them sleep between operations (on two cores training took 1.5 times as long)."""
    return torch.from_numpy(np.stack([f.numpy() for f in fields]))


def _key(time: np.datetime64) -> int:
    return int(time.astype("datetime64[ns]").astype("int64"))

"""Hours on their way from the cache to the device, without a step that waits for the host.

The reading thread copies what a task needs into pinned buffers, two tasks deep with data/dataset.py's `read_ahead`; the
step only queues the transfers. A buffer is written again when the event behind its last transfer has passed.
"""

from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.packing import Packed


@dataclass
class Hour:
    """One hour as tensors: values (C, H, W) int16 or float32, and (2, C, 1, 1) scale and offset of int16."""

    values: Tensor
    numbers: Tensor | None = None

    def on(self, device: torch.device) -> "Hour":
        # as it is: a copy that also converts would convert on the host and wait
        move = {"device": device, "non_blocking": True}
        return Hour(self.values.to(**move), None if self.numbers is None else self.numbers.to(**move))

    def into(self, out: Tensor) -> None:
        """Write the fields (C, H, W) float32 in physical units to `out`, on the same device."""
        out.copy_(self.values)
        if self.numbers is not None:
            out.mul_(self.numbers[0]).add_(self.numbers[1])


class Batch:
    """Hours that a step asked for. `to(device)` gives them as one float32 tensor (*lead, C, H, W) in physical units,
    which is not to be written to: on a CPU it may be the cache itself. To be called once.

    keep: called with (number, Hour on the device) for those that came from the host; None where nothing stays there.
    """

    def __init__(self, hours: list[Hour], lead: tuple[int, ...], pool: "Pinned | None" = None, keep=None):
        self.hours, self.lead, self.pool, self.keep = hours, lead, pool, keep

    def to(self, device, non_blocking: bool = True) -> Tensor:
        device = torch.device(device)
        if len(self.hours) == 1 and self.hours[0].numbers is None and device.type == "cpu":
            return self.hours[0].values.unflatten(0, (*[1] * len(self.lead), -1))
        out = torch.empty((len(self.hours), *self.hours[0].values.shape), device=device)
        for number, (place, hour) in enumerate(zip(out, self.hours, strict=True)):
            there = hour.on(device)
            there.into(place)
            if self.keep is not None and hour.values.device.type == "cpu" and device.type != "cpu":
                self.keep(number, there)
            if self.pool is not None:
                self.pool.used(hour)
        return out.unflatten(0, self.lead)

    def clone(self) -> Tensor:
        """A copy on the host, for a look at it before `to`."""
        out = torch.empty((len(self.hours), *self.hours[0].values.shape))
        for place, hour in zip(out, self.hours, strict=True):
            hour.on(out.device).into(place)
        return out.unflatten(0, self.lead)


class Pinned:
    """Pinned buffers, each for one hour; as many as are on their way at the same time."""

    def __init__(self, device: torch.device, event=torch.cuda.Event, pin: bool = True):
        # the thread that reads begins on the first device, whatever the one that computes has chosen
        self.device = torch.device("cuda", torch.cuda.current_device()) if pin and device.index is None else device
        self.event, self.pin = event, pin
        self.free: dict[torch.dtype, deque] = {torch.int16: deque(), torch.float32: deque()}
        self.out: dict[int, Hour] = {}  # by address of the values

    def take(self, hour: Packed) -> Hour:
        """A copy of an hour in a buffer, for one transfer. In the reading thread."""
        kind = torch.int16 if hour.scale is not None else torch.float32
        buffer = self._buffer(kind, hour.values.shape)
        np.copyto(buffer.values.numpy(), hour.values)
        if hour.scale is not None:
            buffer.numbers.numpy()[:, :, 0, 0] = hour.scale, hour.offset
        self.out[buffer.values.data_ptr()] = buffer
        return buffer

    def used(self, hour: Hour) -> None:
        """The transfer of a buffer has been queued on the present stream. In the thread that computes."""
        buffer = self.out.pop(hour.values.data_ptr(), None) if hour.values.device.type == "cpu" else None
        if buffer is not None:
            event = self.event()
            event.record()
            self.free[buffer.values.dtype].append((event, buffer))

    def _buffer(self, kind: torch.dtype, shape: tuple[int, ...]) -> Hour:
        free = self.free[kind]
        if free and free[0][0].query():  # the oldest: the others are behind it in the stream
            return free.popleft()[1]
        with torch.cuda.device(self.device) if self.pin else nullcontext():
            numbers = torch.empty((2, shape[0], 1, 1), pin_memory=self.pin) if kind == torch.int16 else None
            return Hour(torch.empty(shape, dtype=kind, pin_memory=self.pin), numbers)

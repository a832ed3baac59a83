"""Read hours of arrays whose chunks hold many, so that each chunk is decoded as seldom as memory allows.

An archive made for time series has chunks of a thousand hours. A block is a run of hours that is decoded together: the
hours of one chunk where they fit in the memory given, else equal parts of them.
"""

import numpy as np
import xarray as xr
import zarr


class Blocks:
    """The fields of lazy (time, y, x) arrays, one block of each array in memory at a time.

    arrays, by any key; used: the indices of each that will be asked for; chunks: (hours, cells) in a chunk of each;
    memory: bytes for all blocks together; hour: bytes of one hour of all arrays. `together` is how many hours in a row
    cost one decoding, `note` a line to print or "". Pickled without what is decoded.
    """

    def __init__(self, arrays: dict[tuple, xr.DataArray], used: dict[tuple, list[int]],
                 chunks: dict[tuple, tuple[int, int]], memory: int, hour: int):  # fmt: skip
        self.arrays = arrays
        self.ranges = {key: (min(indices), max(indices) + 1) for key, indices in used.items() if indices}
        self.held: dict[tuple, tuple[int, np.ndarray]] = {}  # first index, decoded hours
        fit = max(1, memory // hour)
        self.spans, self.concurrency, longest = {}, {}, 1
        for key, (span, cells) in chunks.items():
            longest = max(longest, min(span, arrays[key].shape[0]))
            self.spans[key] = (span, min(fit, span))
            self.concurrency[key] = int(min(10, max(1, memory // (4 * cells))))
        self.together = min(fit, longest)
        self.note = ""
        if longest > fit:
            self.note = (f"the source's chunks hold up to {longest} hours, of which {fit} fit in {memory / 1e6:.0f} MB:"
                         f" each is read about {-(-longest // fit)} times. Faster: a larger --cache")  # fmt: skip

    def __getstate__(self) -> dict:
        return {**vars(self), "held": {}}

    def field(self, key: tuple, index: int) -> np.ndarray:
        """One decoded field (y, x) float32, from the block that is in memory or from a new one."""
        start, block = self.held.get(key, (0, np.empty(0)))
        if not start <= index < start + len(block):
            block = None
            self.held.pop(key, None)  # so that two blocks are never in memory together
            span, length = self.spans[key]
            start = index // span * span + index % span // length * length
            stop = min(start + length, (index // span + 1) * span)
            first, last = self.ranges[key]
            start, stop = max(start, first), min(stop, last)
            with zarr.config.set({"async.concurrency": self.concurrency[key]}):
                block = decode(self.arrays[key][start:stop])
            self.held[key] = (start, block)
        return block[index - start]


def decode(array: xr.DataArray) -> np.ndarray:
    return array.values.astype(np.float32, copy=False)

"""What one hour of a store holds, and which of its chunks exist; the figures that a verdict is made of."""

import itertools
from dataclasses import dataclass

import numpy as np
import zarr
from zarr.core.sync import sync

from data.variables import lookup

WARMER_DEW = 0.5  # K, dew point above temperature that is no rounding
REPAIR_ME = 192.12  # K, -81.03 C: HRRR's broken dew points


class Written:
    """Which chunks of a store exist. zarr returns its fill value for one that was never written, without a word."""

    def __init__(self, group: zarr.Group, names: list[str]):
        self.arrays = {n: group[n] for n in names}
        self.keys = {n: set(sync(self._list(a))) for n, a in self.arrays.items()}

    async def _list(self, array: zarr.Array) -> list[str]:
        place = array.store_path
        prefix = place.path + "/" if place.path else ""
        return [key.removeprefix(prefix) async for key in place.store.list_prefix(prefix)]

    def missing(self, name: str, index: int) -> int:
        """Chunks of one time that do not exist."""
        array = self.arrays[name]
        outer = array.shards or array.chunks
        places = itertools.product(*(range(-(-s // c)) for s, c in zip(array.shape[1:], outer[1:], strict=True)))
        encode = array.metadata.encode_chunk_key
        return sum(encode((index // outer[0], *place)) not in self.keys[name] for place in places)


@dataclass
class HourValues:
    """What one hour of one variable holds; collected in the pass, judged after it."""

    missing_chunks: int = 0
    unreadable: str = ""
    nan: int = 0
    infinite: int = 0
    low: float = np.nan
    high: float = np.nan
    mean: float = np.nan
    outside: int = 0
    same_as_before: bool = False


def look_at(name: str, values: np.ndarray, before: np.ndarray | None) -> HourValues:
    """The figures of one (y, x) field; `before` is the field one time earlier."""
    out, table = HourValues(), lookup(name)
    finite = np.isfinite(values)
    out.nan, out.infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    if finite.any():
        good = values if finite.all() else values[finite]
        out.low, out.high, out.mean = float(good.min()), float(good.max()), float(good.mean(dtype=np.float64))
        lowest = min(table.lower, -40.0) if table.name == "REFC" else table.lower  # no echo is below the bound
        if out.low < lowest or out.high > table.upper:
            out.outside = int(((good < lowest) | (good > table.upper)).sum())
    out.same_as_before = before is not None and np.array_equal(values, before, equal_nan=True)
    return out


def look_across(fields: dict[str, np.ndarray]) -> dict[str, int]:
    """Counts that need two variables: dew point above temperature, U equal to V, HRRR's broken dew points."""
    by_table = {lookup(n).name: x for n, x in fields.items()}
    out = {}
    if "T2M" in by_table and "D2M" in by_table:
        out["dew_above_temperature"] = int((by_table["D2M"] > by_table["T2M"] + WARMER_DEW).sum())
    if "U10" in by_table and "V10" in by_table:
        out["u_equals_v"] = int(np.array_equal(by_table["U10"], by_table["V10"]))
    if "D2M" in by_table:
        out["broken_dew_points"] = int((abs(by_table["D2M"] - REPAIR_ME) < 0.02).sum())
    return out

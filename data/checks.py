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

    def complete(self, name: str) -> bool:
        """Whether an array has as many chunks as it should: quicker than asking for every time."""
        array = self.arrays[name]
        outer = array.shards or array.chunks
        expected = np.prod([-(-s // c) for s, c in zip(array.shape, outer, strict=True)])
        return sum(key[-1:].isdigit() for key in self.keys[name]) == expected

    def missing(self, name: str, index: int) -> int:
        """Chunks of one time that do not exist."""
        return sum(key not in self.keys[name] for key in chunk_keys(self.arrays[name], index))


def chunk_keys(array: zarr.Array, index: int) -> list[str]:
    """The names of the chunks (or shards) of one time of a (time, y, x) array."""
    outer = array.shards or array.chunks
    places = itertools.product(*(range(-(-s // c)) for s, c in zip(array.shape[1:], outer[1:], strict=True)))
    return [array.metadata.encode_chunk_key((index // outer[0], *place)) for place in places]


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


def look_at(name: str, values: np.ndarray) -> HourValues:
    """The figures of one (y, x) field."""
    out, table = HourValues(), lookup(name)
    good = values
    # A NaN anywhere makes both extremes NaN: sound fields, nearly all there are, take no further pass.
    out.low, out.high = float(values.min()), float(values.max())
    if not (np.isfinite(out.low) and np.isfinite(out.high)):
        out.nan, out.infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        good = values[np.isfinite(values)]
        if not good.size:
            out.low = out.high = np.nan
            return out
        out.low, out.high = float(good.min()), float(good.max())
    # by rows in single precision, then in double: as exact as needed, and twice as fast
    out.mean = float(good.mean(axis=-1).mean(dtype=np.float64)) if good.ndim > 1 else float(good.mean(dtype=np.float64))
    lowest = min(table.lower, -40.0) if table.name == "REFC" else table.lower  # no echo is below the bound
    if out.low < lowest or out.high > table.upper:
        out.outside = int(((good < lowest) | (good > table.upper)).sum())
    return out


def same_field(a: HourValues, values: np.ndarray, b: HourValues, others: np.ndarray) -> bool:
    """Whether two fields with these figures are equal in every cell, NaN included."""
    alike = (a.low, a.high, a.mean, a.nan) == (b.low, b.high, b.mean, b.nan) or a.nan == b.nan == values.size
    return alike and np.array_equal(values, others, equal_nan=True)


def look_across(fields: dict[str, np.ndarray]) -> dict[str, int]:
    """Counts that need two variables: dew point above temperature, U equal to V, HRRR's broken dew points."""
    by_table = {lookup(n).name: x for n, x in fields.items()}
    out = {}
    if "T2M" in by_table and "D2M" in by_table:
        out["dew_above_temperature"] = int((by_table["D2M"] > by_table["T2M"] + WARMER_DEW).sum())
    if "U10" in by_table and "V10" in by_table:
        out["u_equals_v"] = int(np.array_equal(by_table["U10"], by_table["V10"]))
    if "D2M" in by_table:
        dew = by_table["D2M"]
        cold = dew[dew < REPAIR_ME + 1]  # hardly a cell, as a rule
        out["broken_dew_points"] = int((abs(cold - REPAIR_ME) < 0.02).sum())
    return out

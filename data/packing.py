"""Half the memory for fields that came in steps: GRIB keeps a field as a lowest value and whole numbers of steps.

HRRR's temperatures come in steps of 1/16 K, so that a full domain has about a thousand different values. Written as
int16 in the field's own steps they are the same numbers, where float16 would be wrong by up to 1/8 K at 300 K.

    value = offset + q * scale        q int16; scale is the source's step, or that divided by a power of two; offset
                                      the end of the field's range that is nearer to zero

The bounds at which cells pile up (no echo, no CAPE, no CIN) are offsets, so that they stay what they are. No cell is
wrong by more than half of `scale`.
"""

from dataclasses import dataclass

import numpy as np

MIDDLE = 2**14  # q is between -MIDDLE and MIDDLE
LEVELS = MIDDLE - 1
# As whole numbers, the bits of floats below zero, of infinity and of NaN are all above those of a number this large.
TOO_FAR = np.float32(2 * MIDDLE).view(np.uint32)
FINEST = 10  # scale is at least the step / 2**FINEST
BLOCK = 2**17  # cells that stay in a core's own cache between the operations on them
LOOK = 16  # one block in so many is compared with what it came from
SAMPLE = 200_000  # cells in which a step is sought
APART = 31  # one row in so many tells the range that a field has
ROUNDING = 4e-7  # float32, relative


@dataclass(frozen=True)
class Packed:
    """An hour in the cache: values (C, y, x), int16 or float32; int16 with scale and offset (C,) float32, and `error`
    (C,): 0 where no cell looked at changed by more than float32's rounding, else the bound scale / 2."""

    values: np.ndarray
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None
    error: np.ndarray | None = None

    def fields(self) -> np.ndarray:
        """(C, y, x) float32. In numpy, as everything that a second thread does (data/dataset.py)."""
        if self.scale is None:
            return self.values
        out = np.empty(self.values.shape, np.float32)
        for field, q, scale, offset in zip(out, self.values, self.scale, self.offset, strict=True):
            field, q = field.reshape(-1), q.reshape(-1)
            for at in range(0, len(field), BLOCK):
                part = field[at : at + BLOCK]
                np.copyto(part, q[at : at + BLOCK])
                part *= scale
                part += offset
        return out


def find_step(field: np.ndarray) -> float | None:
    """The distance of neighbouring values if those of a field (y, x) are whole numbers of steps apart, to rounding;
    0 if all are equal, None if there is no such step."""
    values = field.reshape(-1)
    values = np.unique(values[:: -(-values.size // SAMPLE)]).astype(np.float64)
    if len(values) < 2:
        return 0.0
    gaps = np.diff(values)
    count = np.rint(gaps / gaps.min()).cumsum()
    step = (values[-1] - values[0]) / count[-1]  # the whole range tells it better than one gap
    rounding = ROUNDING * np.abs(values).max()
    off = np.abs(values[1:] - values[0] - count * step).max()
    return float(step) if off <= rounding and step > 4 * rounding and count[-1] <= LEVELS else None


def find_steps(hours: list[np.ndarray]) -> list[float | None]:
    """For each variable of some hours (C, y, x) the finest step of them; None where an hour has none, or all are
    without any change."""
    found = [[find_step(field) for field in fields] for fields in zip(*hours, strict=True)]
    return [None if None in steps else min((s for s in steps if s), default=None) for steps in found]


def pack(field: np.ndarray, step: float, out: np.ndarray):
    """Write a field (y, x) float32 into `out` (y, x) int16.

    Returns (scale, offset, error), `error` as in Packed; None where the field has NaN or infinite values, or a range
    that does not fit in steps.
    """
    rows = field[:: min(APART, len(field) // 2 or 1)]
    found = _pack(field.reshape(-1), rows.min(), rows.max(), 1.5, step, out.reshape(-1))
    return found or _pack(field.reshape(-1), field.min(), field.max(), 1.0, step, out.reshape(-1))


def _pack(field: np.ndarray, low: np.float32, high: np.float32, margin: float, step: float, out: np.ndarray):
    """With levels for `margin` times the range from low to high, on either side of its end that is nearer to zero."""
    span, rounding = margin * (float(high) - float(low)), float(np.spacing(max(abs(low), abs(high))))
    if not LEVELS * step > span:  # NaN too
        return None
    finer = FINEST if span == 0 else min(FINEST, np.floor(np.log2(LEVELS * step / span)))
    finer = max(0, min(finer, np.floor(np.log2(step / (16 * rounding)))))  # not finer than float32 itself
    offset, scale = (high if abs(high) < abs(low) else low), np.float32(step / 2**finer)
    below, inverse, equal = np.float32(offset - (MIDDLE + 0.5) * scale), np.float32(1 / scale), True
    work, whole = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int16)
    for number, at in enumerate(range(0, len(field), BLOCK)):
        values, q = field[at : at + BLOCK], out[at : at + BLOCK]
        part, steps = work[: len(values)], whole[: len(values)]
        np.subtract(values, below, out=part)
        part *= inverse
        if part.view(np.uint32).max() >= TOO_FAR:
            return None
        np.copyto(steps, part, casting="unsafe")  # q + MIDDLE and a half, which is cut off
        steps -= MIDDLE
        q[:] = steps  # to the cache's memory once only: it is slower than a core's own
        if equal and number % LOOK == 0:
            np.copyto(part, q)
            part *= scale
            part += offset
            equal = np.array_equal(part, values) or np.abs(part - values).max() <= 2 * rounding
    return scale, offset, 0.0 if equal else float(scale) / 2

"""One hour from a source into a store: read, mend what is known to be wrong, write. Any process may do it.

Mended are the sign of CIN, which differs between sources, and HRRR's broken dew points: isolated pixels at -81.03 C in
analyses of versions 3 and 4 (47 to 184 in a bad hour). Both are counted. Nothing else is changed, and no missing cell
is filled.
"""

from dataclasses import dataclass, field

import numpy as np

from data.archive import HourUnavailable
from data.staging import Staging

BROKEN = 192.12  # K (-81.03 C): the value of a broken dew point
NEAR = 0.3  # K: sources that round it (half precision, cut mantissas) keep it this close
STEP = 10.0  # K below the median around it: it is broken, not cold air
AROUND = 2  # cells on each side: 5 x 5


@dataclass
class Done:
    """What came of one hour."""

    time: np.datetime64
    missing: dict[str, int] = field(default_factory=dict)  # cells that are NaN, by variable
    turned: bool = False  # the sign of CIN
    repaired: int = 0  # dew points
    lost: str = ""  # why the hour is left out; "" where it was written
    again: bool = False  # left out, but the source may have it later


def build_hour(hours, staging: Staging, time: np.datetime64) -> Done:
    """Read one hour of a source, mend it and write it. ValueError where the source cannot be read."""
    try:
        fields = hours.load(time)
    except HourUnavailable as error:
        return Done(time, lost=str(error), again=getattr(error, "again", False))
    done = Done(time)
    if "CIN" in fields and np.nansum(fields["CIN"]) > 0:
        fields["CIN"] = 0.0 - fields["CIN"]
        done.turned = True
    if "D2M" in fields:
        fields["D2M"], done.repaired = repair_dew_points(fields["D2M"])
    staging.write(time, fields)
    done.missing = {n: cells for n, values in fields.items() if (cells := int(np.isnan(values).sum()))}
    return done


def repair_dew_points(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Dew points (y, x), K, with isolated broken pixels replaced by the median of the 5 x 5 cells around them, and how
    many there were. A pixel is broken where it has HRRR's broken value and is more than 10 K below that median. (Any
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

"""The forecast store: what infer_iterative.py writes. This docstring is the format.

    <FORECAST>.zarr                                 zarr v3, CF; opens with plain xarray.open_zarr
      <variable>      (init_time, lead_time, y, x)  float32, physical units, one chunk per field; lead 0 is the
                                                    analysis held inside the physical bounds; NaN on masked cells
      <variable>_clipped_share (init_time, lead_time)  share of cells outside the bounds before clipping
      init_time       (init_time,)                  datetime64, UTC
      lead_time       (lead_time,)                  timedelta64
      valid_time      (init_time, lead_time)        init_time + lead_time
      latitude, longitude, y, x, spatial_ref        as in the training store the forecast was started from
      attributes      variables, lead, checkpoint_sha256, split, statistics, constants, versions, history

Variables, dimension names of the grid and row order are those of the training store. Everything is written
to <FORECAST>.zarr.partial, hour by hour (small fields some hours together), and renamed when complete: a reader of
<FORECAST>.zarr sees a whole forecast or none. The same command after a kill begins anew and replaces what was left.
"""

import json
import os
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from data.files import beside, discard, lock
from data.grid import Grid
from data.metadata import COMPRESSION, KIND, attributes_of, coordinates_of, write_template
from data.staging import finish
from data.variables import lookup
from data.write import refuse_foreign, start

TOGETHER = 64e6  # bytes of fields that wait for one another: zarr writes many small chunks at once in half the time


class ForecastWriter:
    """Writes a forecast field by field; a context manager. Leaving the block by an exception removes what was
    written and leaves an older forecast at `path` as it was. ValueError where `path` is not a forecast store, where
    another process is writing it, or where the system does not take what is written (a full disk)."""

    def __init__(self, path, names, grid: Grid, init_times: np.ndarray, lead_times: np.ndarray, attributes: dict):
        self.path, self.names = Path(path), names
        refuse_foreign(self.path, "forecast")
        self.partial = beside(self.path, "partial")
        self._restore()
        self.lock = lock(self.path)
        try:
            self._begin(grid, init_times, lead_times, attributes)
        except BaseException as error:
            self._leave(error)
            raise

    def _begin(self, grid: Grid, init_times: np.ndarray, lead_times: np.ndarray, attributes: dict) -> None:
        """An empty partial store."""
        names, partial = self.names, start(self.path, "forecast")
        attributes = {"Conventions": "CF-1.10", "variables": list(names), **attributes, KIND: "forecast"}
        coordinates = coordinates_of(grid) | {
            "init_time": (
                "init_time",
                init_times.astype("datetime64[ns]"),
                {"standard_name": "forecast_reference_time"},
            ),
            "lead_time": ("lead_time", lead_times.astype("timedelta64[ns]"), {"standard_name": "forecast_period"}),
        }
        dataset = xr.Dataset(coords=coordinates, attrs={k: plain(v) for k, v in attributes.items()})
        valid = dataset["init_time"] + dataset["lead_time"]
        dataset = dataset.assign_coords(
            valid_time=valid.assign_attrs(standard_name="time", long_name="valid time, UTC")
        )
        for name in ("init_time", "valid_time"):
            dataset[name].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
        write_template(dataset, partial, mode="a")  # not "w": the folder is locked, and has to stay
        group = zarr.open_group(partial, mode="r+")
        dims = ("init_time", "lead_time", *grid.dims)
        shape = (len(init_times), len(lead_times), *grid.shape)
        extra = " ".join(n for n in ("valid_time", "latitude", "longitude") if n in dataset.coords and n not in dims)
        self.fields = {
            name: group.create_array(
                name, shape=shape, chunks=(1, 1, *grid.shape), dtype="float32", fill_value=np.nan,
                compressors=COMPRESSION, dimension_names=dims,
                attributes=attributes_of(lookup(name), grid) | {"coordinates": extra},
            )
            for name in names
        }  # fmt: skip
        self.clipped = {
            name: group.create_array(
                f"{name}_clipped_share", shape=shape[:2], chunks=shape[:2], dtype="float32", fill_value=np.nan,
                dimension_names=dims[:2],
                attributes={"long_name": f"share of {name} cells outside the physical bounds before clipping",
                            "units": "1", "coordinates": "valid_time"},
            )
            for name in names
        }  # fmt: skip
        self.shares = np.full((len(names), *shape[:2]), np.nan, np.float32)  # one chunk a variable: written at the end
        self.waiting: dict[int, tuple[int, list[np.ndarray]]] = {}  # by initial time: the first lead, fields from there

    def write(self, init: int, lead: int, fields: np.ndarray, clipped: np.ndarray) -> None:
        """Write the fields (C, y, x) of one initial time and lead (indices), and their clipped shares (C,)."""
        self.shares[:, init, lead] = clipped
        first, run = self.waiting.get(init, (lead, []))
        if lead != first + len(run):
            self._flush()
            first, run = lead, []
        self.waiting[init] = first, [*run, np.array(fields, np.float32)]
        if sum(len(run) for _, run in self.waiting.values()) >= TOGETHER // fields.nbytes:
            self._flush()

    def _flush(self) -> None:
        """Write what waits."""
        for init, (first, run) in self.waiting.items():
            for c, name in enumerate(self.names):
                self.fields[name][init, first : first + len(run)] = np.stack([fields[c] for fields in run])
        self.waiting = {}

    def __enter__(self) -> "ForecastWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            try:
                self._flush()
                for shares, array in zip(self.shares, self.clipped.values(), strict=True):
                    array[:] = shares
                finish(self.partial, self.path)
            except BaseException as failure:
                self._leave(failure)
                raise
            os.close(self.lock)
        else:
            self._leave(error)

    def _restore(self) -> None:
        """Put the older forecast back where `finish` was stopped between its two renames."""
        old = beside(self.path, "old")
        if old.exists() and not self.path.exists():
            old.rename(self.path)

    def _leave(self, error: BaseException) -> None:
        """Remove what was written; ValueError where it was the system that did not take it."""
        discard(self.partial)
        self._restore()
        os.close(self.lock)
        if isinstance(error, OSError):
            raise ValueError(
                f"{self.path}: cannot be written ({error.strerror or error}), expected room for the whole forecast. "
                "Nothing of it was kept; an older forecast there is as it was. Fix: free some space, fewer --hours, or "
                "another --out"
            ) from error


def plain(value):
    """An attribute as zarr and NetCDF can hold it: text, numbers and lists of them stay, tables become JSON."""
    return json.dumps(value) if isinstance(value, dict) else value

"""The forecast store: what infer_iterative.py writes. This docstring is the format.

    <FORECAST>.zarr                                 zarr v3, CF; opens with plain xarray.open_zarr
      <variable>      (init_time, lead_time, y, x)  float32, physical units, one chunk per field; lead 0 is the
                                                    analysis held inside the physical bounds; NaN on masked cells
      <variable>_clipped_share (init_time, lead_time)  share of cells outside the bounds before clipping
      init_time       (init_time,)                  datetime64, UTC
      lead_time       (lead_time,)                  timedelta64
      valid_time      (init_time, lead_time)        init_time + lead_time
      latitude, longitude, y, x, spatial_ref        as in the training store the forecast was started from
      height_2m, height_10m ()                      m above ground, of the variables that have a height
      attributes      variables, lead, checkpoint_sha256, split, statistics, constants, versions, history

Variables, dimension names of the grid and row order are those of the training store. Everything is written hour by
hour below <FORECAST>.zarr.partial and renamed when it is complete: a reader of <FORECAST>.zarr sees a whole forecast or
none. The same command after a kill begins anew and replaces what was left.
"""

import json

import numpy as np
import xarray as xr

from data.grid import Grid
from data.metadata import (
    KIND,
    TIME_UNITS,
    attributes_of,
    coordinate_names,
    coordinates_of,
    create_array,
    write_template,
)
from data.variables import lookup
from data.write import Writer, empty, publish


class ForecastWriter(Writer):
    """Writes a forecast field by field; a context manager. Leaving the block by an exception removes what was
    written and leaves an older forecast at `path` as it was. ValueError if `path` is not a forecast store or if
    another process is writing it."""

    kind = "forecast"

    def __init__(self, path, names, grid: Grid, init_times: np.ndarray, lead_times: np.ndarray, attributes: dict):
        self.names = names
        super().__init__(path, grid, init_times, lead_times, attributes)

    def _begin(self, grid: Grid, init_times: np.ndarray, lead_times: np.ndarray, attributes: dict) -> None:
        """An empty partial store."""
        empty(self.partial)
        dataset = template(self.names, grid, init_times, lead_times, attributes)
        for name in ("init_time", "valid_time"):
            dataset[name].encoding = {"units": TIME_UNITS, "dtype": "int64"}
        group = write_template(dataset, self.new)
        dims = ("init_time", "lead_time", *grid.dims)
        shape = (len(init_times), len(lead_times), *grid.shape)
        self.fields, self.clipped = {}, {}
        for name in self.names:
            entry = lookup(name)
            about = attributes_of(entry, grid) | coordinate_names(entry, grid, "valid_time")
            self.fields[name] = create_array(group, name, shape, dims, about)
            about = {"long_name": f"share of {name} cells outside the physical bounds before clipping", "units": "1",
                     "coordinates": "valid_time"}  # fmt: skip
            self.clipped[name] = create_array(group, f"{name}_clipped_share", shape[:2], dims[:2], about)
        self.shares = np.full((len(self.names), *shape[:2]), np.nan, np.float32)  # written at the end

    def write(self, init: int, lead: int, fields: np.ndarray, clipped: np.ndarray) -> None:
        """Write the fields (C, y, x) of one initial time and lead (indices), and their clipped shares (C,)."""
        self.shares[:, init, lead] = clipped
        for array, field in zip(self.fields.values(), fields, strict=True):
            array[init, lead] = field

    def _finish(self) -> None:
        for shares, array in zip(self.shares, self.clipped.values(), strict=True):
            array[:] = shares
        publish(self.new, self.path)


def template(
    names: list[str], grid: Grid, init_times: np.ndarray, lead_times: np.ndarray, attributes: dict
) -> xr.Dataset:
    """A forecast without its fields: coordinates and attributes, tables among these as JSON."""
    init_times, lead_times = init_times.astype("datetime64[ns]"), lead_times.astype("timedelta64[ns]")
    valid = {"standard_name": "time", "long_name": "valid time, UTC"}
    coordinates = coordinates_of(grid, [lookup(n) for n in names]) | {
        "init_time": ("init_time", init_times, {"standard_name": "forecast_reference_time"}),
        "lead_time": ("lead_time", lead_times, {"standard_name": "forecast_period"}),
        "valid_time": (("init_time", "lead_time"), init_times[:, None] + lead_times, valid),
    }
    attributes = {"Conventions": "CF-1.11", "variables": list(names), **attributes, KIND: "forecast"}
    plain = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in attributes.items()}
    return xr.Dataset(coords=coordinates, attrs=plain)

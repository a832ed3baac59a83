"""A forecast as a moving picture: a GIF, or an MP4 if ffmpeg is installed."""

import os
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from data.times import show_duration
from data.variables import lookup
from plotting.colours import field_colours
from plotting.frame import draw_field, frame_of
from plotting.maps import Truth, colour_bar, describe, richest_case, show_time, truth_at, unit_of


def animate(
    path: str | Path,
    forecast: xr.Dataset,
    variable: str,
    init_time: np.datetime64 | None = None,
    truth: Truth | None = None,
    colours: str | Colormap | None = None,
    frames_per_second: float = 4.0,
    dpi: int = 90,
) -> Figure:
    """Write every lead time of one forecast to `path` (.gif or .mp4), the truth beside it if it is given.

    One colour scale holds for all frames. `init_time` is by default the one with the highest mean of the variable.
    Returns the figure of the last lead. The file is complete or absent. ValueError for another suffix, and for .mp4 if
    ffmpeg is missing.
    """
    path, writer = Path(path), _writer(Path(path), frames_per_second)
    init_time = richest_case(forecast, variable) if init_time is None else np.datetime64(init_time)
    case = forecast[variable].sel(init_time=init_time)
    floor = np.float32(lookup(variable).scored_floor)
    missing = np.full(case.shape[1:], np.nan, np.float32)
    leads = case["lead_time"].values
    shown = {"forecast": [np.maximum(x, floor) for x in case.values]}
    if truth is not None:
        actual = (truth_at(truth, variable, init_time + lead) for lead in leads)
        shown = {"truth": [missing if x is None else np.maximum(x, floor) for x in actual]} | shown

    table, norm, extend = field_colours(variable, [x for fields in shown.values() for x in fields], colours)
    frame = frame_of(forecast, case.dims[1:])
    side = 3.4 if truth is not None else 5.0
    size = (side * len(shown) + 0.9, float(np.clip(side * frame.shape, 2.0, 7.0)) + 1.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
    images = [
        draw_field(axes, fields[0], frame, table, norm) for axes, fields in zip(panels, shown.values(), strict=True)
    ]
    for axes, title in zip(panels, shown, strict=True):
        axes.set_title(title, fontsize=12)
        axes.label_outer()
    colour_bar(figure, images[0], panels, extend, unit_of(forecast[variable]))
    title = figure.suptitle(_title(case, init_time, leads[-1]), fontsize=13)
    for _ in range(2):  # the first pass does not know the sizes of the labels
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # a fixed layout: nothing moves between frames

    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        with writer.saving(figure, str(temporary), dpi):
            for j, lead in enumerate(leads):
                for image, fields in zip(images, shown.values(), strict=True):
                    image.set_data(np.ma.masked_invalid(fields[j]))
                title.set_text(_title(case, init_time, lead))
                writer.grab_frame()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return figure


def _title(case: xr.DataArray, init_time: np.datetime64, lead: np.timedelta64) -> str:
    when = f"+{show_duration(lead)}, valid {show_time(init_time + lead)} UTC"
    return f"{describe(case)}\ninit {show_time(init_time)}, {when}"


def _writer(path: Path, frames_per_second: float):
    if path.suffix.lower() == ".gif":
        return PillowWriter(fps=frames_per_second)
    if path.suffix.lower() != ".mp4":
        raise ValueError(
            f"path: got {path}, expected a name that ends in .gif or .mp4. Fix: {path.with_suffix('.gif')}"
        )
    if not FFMpegWriter.isAvailable():
        raise ValueError(
            f"path: got {path}, but ffmpeg is not installed, expected it for .mp4. "
            f"Fix: {path.with_suffix('.gif')}, or install ffmpeg"
        )
    return FFMpegWriter(fps=frames_per_second)

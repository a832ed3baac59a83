"""The best, the median and the worst forecast of a store: which they are, their maps, and frames to play."""

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from matplotlib import rc_context
from PIL import Image

from data.variables import lookup
from plotting.colours import field_colours
from plotting.frame import frame_of
from plotting.maps import forecast_panels
from plotting.report_html import Markup, figure_picture, join, picture, tag

Truth = Callable[[np.datetime64, str], np.ndarray | None]  # (valid time, variable) -> (y, x)
WIDEST = 360  # cells of a frame; larger grids are thinned
HOUR = np.timedelta64(1, "h")


def case_skill(forecast: xr.Dataset, truth: Truth, names: Sequence[str], i: int, hours: float) -> float | None:
    """Skill of forecast i against persistence over its first `hours` (at least one lead), mean over the variables;
    None where there is no truth or persistence made no error. Floors are those of the scores."""
    leads = [j for j, lead in enumerate(forecast["lead_time"].values) if 0 < lead / HOUR <= hours] or [1]
    start, found = forecast["init_time"].values[i], []
    for name in names:
        floor, squares = lookup(name).scored_floor, np.zeros(2)
        now = np.maximum(forecast[name].variable[i, 0].values, floor)
        for j in leads:
            actual = truth(start + forecast["lead_time"].values[j], name)
            if actual is not None:
                actual = np.maximum(actual, floor)
                field = np.maximum(forecast[name].variable[i, j].values, floor)
                squares += [np.nansum((field - actual) ** 2.0), np.nansum((now - actual) ** 2.0)]
        if squares[1] > 0:
            found.append(1 - math.sqrt(squares[0] / squares[1]))
    return float(np.mean(found)) if found else None


def choose_cases(skills: list[float | None]) -> dict[str, int]:
    """Which forecasts are best, median and worst; fewer where there are fewer."""
    order = sorted((i for i, s in enumerate(skills) if s is not None), key=lambda i: -skills[i])
    if not order:
        return {}
    chosen = {"best": order[0], "median": order[(len(order) - 1) // 2], "worst": order[-1]}
    if len(order) < 3:
        del chosen["median"]
    return chosen if len(order) > 1 else {"only": order[0]}


def map_panels(forecast: xr.Dataset, truth: Truth, name: str, i: int, leads: Sequence[np.timedelta64]) -> Markup:
    """Truth, forecast, persistence and error at some leads, as an image."""
    start = forecast["init_time"].values[i]
    with rc_context({"text.parse_math": False}):  # a name of a store is no formula
        figure = forecast_panels(forecast, lambda time: truth(time, name), name, leads, start)
        told = ", ".join(f"+{lead / HOUR:g} h" for lead in leads)
        alt = f"Maps of {name} from {show(start)} UTC at {told}: truth, forecast, persistence and error"
        return figure_picture(figure, alt, f"{alt}.", dpi=100)


def player(forecast: xr.Dataset, truth: Truth, name: str, i: int, every: int = 1) -> Markup:
    """Truth and forecast side by side, one frame for each `every`-th lead, with a slider and a button to play."""
    start = forecast["init_time"].values[i]
    leads = range(0, forecast.sizes["lead_time"], every)
    thin = thinning(forecast[name].shape[2:])
    fields = [forecast[name].variable[i, j].values[::thin, ::thin].copy() for j in leads]
    times = [start + forecast["lead_time"].values[j] for j in leads]
    found = [None if a is None else a[::thin, ::thin].copy() for a in (truth(t, name) for t in times)]
    actual = [np.full(f.shape, np.nan) if a is None else a for f, a in zip(fields, found, strict=True)]
    colours, norm, _ = field_colours(name, fields + actual)
    up = frame_of(forecast, forecast[name].dims[2:], lines=False).origin == "lower"
    labels = [f"+{(t - start) / HOUR:g} h, valid {show(t)} UTC" for t in times]
    sides = []
    for side, shown in (("truth", actual), ("forecast", fields)):
        images = (
            picture(encode(f, colours, norm, up), "webp", f"{name}, {side}, {label}", class_="frame", hidden=k > 0)
            for k, (f, label) in enumerate(zip(shown, labels, strict=True))
        )
        sides.append(tag("div", tag("p", side), *images))
    slider = tag(
        "input", type="range", min=0, max=len(labels) - 1, value=0, aria_label=f"lead time of {name} from {show(start)}"
    )
    told = tag("ol", *(tag("li", label) for label in labels), class_="labels", hidden=True)
    controls = tag("div", tag("button", "Play", type="button"), slider, tag("output", labels[0]), class_="controls")
    note = f"{name}, {lookup(name).units or 'no unit'}" + (f"; every {thin}th cell" if thin > 1 else "")
    parts = (tag("div", *sides, class_="pair"), controls, told, scale(colours, norm, name), tag("figcaption", note))
    return tag("figure", *parts, class_="player card")


def encode(field: np.ndarray, colours, norm, up: bool) -> bytes:
    """A (y, x) field as a lossless image with north up, one pixel a cell."""
    shown = np.ma.masked_invalid(field)
    pixels = (colours(norm(shown))[..., :3] * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[::-1] if up else pixels).save(buffer, "webp", lossless=True, quality=60, method=4)
    return buffer.getvalue()


def thinning(shape: tuple[int, int]) -> int:
    """Every how many cells a frame shows one."""
    return math.ceil(max(shape) / WIDEST)


def scale(colours, norm, name: str) -> Markup:
    """The colours and what they mean."""
    levels = getattr(norm, "boundaries", None)
    levels = np.linspace(norm.vmin, norm.vmax, 7) if levels is None else levels[:-1]
    inside = [colours(norm(v)) for v in levels]
    marks = (
        tag("li", tag("span", style=f"background:#{''.join(f'{round(255 * c):02x}' for c in colour[:3])}"), f"{v:.4g}")
        for v, colour in zip(levels, inside, strict=True)
    )
    return tag("ul", *marks, class_="scale", aria_label=f"colours of {name}, {lookup(name).units}, from the value on")


def show(time: np.datetime64) -> str:
    return str(time.astype("datetime64[m]")).replace("T", " ")


def cases_markup(forecast: xr.Dataset, chosen: dict[str, int], skills, players: dict, maps: dict) -> Markup:
    """For each chosen case a heading, its `players` entry and its `maps` entry."""
    out = []
    for kind, i in chosen.items():
        title = f"{kind} case: {show(forecast['init_time'].values[i])} UTC, skill {skills[i]:+.2f}"
        out += [tag("h3", title[0].upper() + title[1:]), players[kind], maps[kind]]
    return join(*out)


def all_maps(forecast: xr.Dataset, truth: Truth, i: int, mapped: Sequence[str], leads) -> Markup:
    """The maps of several variables beside each other."""
    return tag("div", *(map_panels(forecast, truth, name, i, leads) for name in mapped), class_="maps")


def clipped_rows(forecast: xr.Dataset | None) -> list[list]:
    """For each variable its name, the mean and the largest share of clipped cells, and where that was."""
    rows = []
    for name in [] if forecast is None else forecast.attrs.get("variables") or list(forecast.data_vars):
        if f"{name}_clipped_share" not in forecast:
            continue
        shares = forecast[f"{name}_clipped_share"].values[:, 1:]
        if not np.isfinite(shares).any():
            continue
        i, j = np.unravel_index(np.nanargmax(shares), shares.shape)
        lead = forecast["lead_time"].values[j + 1] / HOUR
        where = f"+{lead:g} h from {show(forecast['init_time'].values[i])}" if shares[i, j] > 0 else "nowhere"
        rows.append([name, f"{np.nanmean(shares):.3%}", f"{shares[i, j]:.3%}", where])
    return rows

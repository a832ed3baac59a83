"""Line charts as SVG inside the page: they follow its light or dark colours and stay sharp at any width."""

import math

from plotting.report_html import Markup, is_number, join, number, tag

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 10, 12, 40  # margins
DASHES = ("", "8 4", "2 3", "9 3 2 3", "14 4", "5 2", "1 4")  # with the colour they tell lines apart
Series = dict[str, list[tuple[float, float]]]


def line_chart(
    title: str, series: Series, x: str, y: str, zero: bool = False, log: bool = False, legend: bool = True
) -> Markup:
    """One chart, with a legend unless it is not wanted. `series` holds (x, y) points by name; points that are no finite
    numbers are left out.

    zero: draw the line y = 0, and cut off below -1 what would flatten the rest; log: logarithmic y where all is
    positive."""
    lines = {n: [p for p in points if is_number(p[0]) and is_number(p[1])] for n, points in series.items()}
    lines = {n: points for n, points in lines.items() if points}
    if not lines:
        return tag("figure", tag("figcaption", f"{title}: nothing to draw"))
    ys = [v for points in lines.values() for _, v in points]
    log = log and min(ys) > 0
    low, high = (min(ys), max(ys)) if log else _span(ys, zero)
    xs = [v for points in lines.values() for v, _ in points]
    right = max(xs) or 1.0
    across = lambda v: LEFT + (WIDTH - LEFT - RIGHT) * v / right  # noqa: E731
    scale = math.log if log else float
    tall = (scale(high) - scale(low)) or 1.0
    down = lambda v: TOP + (HEIGHT - TOP - BOTTOM) * (scale(high) - scale(max(v, low))) / tall  # noqa: E731

    parts = [_grid(across, down, right, low, high, log, x)]
    for n, points in enumerate(lines.values()):
        path = "M" + "L".join(f"{across(a):.1f} {down(b):.1f}" for a, b in points)
        parts.append(tag("path", d=path, class_=f"line c{n % 7}", stroke_dasharray=DASHES[n % 7] or None))
        if len(points) <= 40:
            dots = (tag("circle", cx=f"{across(a):.1f}", cy=f"{down(b):.1f}", r="2.4") for a, b in points)
            parts.append(tag("g", *dots, class_=f"dot c{n % 7}"))
    if zero and low < 0 < high:
        parts.append(_stroke(LEFT, down(0.0), WIDTH - RIGHT, down(0.0), "zero"))
    newest = ", ".join(f"{n} {number(points[-1][1])}" for n, points in lines.items())
    alt = f"{title}: {y} over {x}, 0 to {number(right)}. At the end: {newest}."
    svg = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=alt, class_="chart")
    caption = tag("figcaption", tag("strong", title), tag("span", y, class_="quiet"))
    return tag("figure", caption, svg, _legend(lines) if legend else None, class_="card")


def _span(values: list[float], zero: bool) -> tuple[float, float]:
    """The lowest and highest y to show."""
    low, high = min(0.0, *values), max(0.0, *values)
    if zero and low < -1:
        low = -1.0
    pad = 0.06 * ((high - low) or 1.0)
    return (low - pad if low < 0 else 0.0), high + pad


def _grid(across, down, right: float, low: float, high: float, log: bool, x: str) -> Markup:
    parts = []
    for v in _ticks(0.0, right):
        parts.append(_stroke(across(v), TOP, across(v), HEIGHT - BOTTOM, "grid"))
        parts.append(tag("text", f"{v:g}", x=f"{across(v):.1f}", y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    for v in _log_ticks(low, high) if log else _ticks(low, high):
        parts.append(_stroke(LEFT, down(v), WIDTH - RIGHT, down(v), "grid"))
        parts.append(tag("text", f"{v:g}", x=LEFT - 6, y=f"{down(v) + 4:.1f}", text_anchor="end"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", x, x=f"{middle:.0f}", y=HEIGHT - 6, text_anchor="middle"))
    return join(*parts)


def _stroke(x1, y1, x2, y2, kind: str) -> Markup:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=kind)


def _legend(lines: Series) -> Markup:
    entries = []
    for n, name in enumerate(lines):
        sample = tag("path", d="M1 6L31 6", class_=f"line c{n % 7}", stroke_dasharray=DASHES[n % 7] or None)
        entries.append(tag("li", tag("svg", sample, viewBox="0 0 32 12", aria_hidden="true"), name))
    return tag("ul", *entries, class_="legend")


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / wanted or 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(s * size for s in (1, 2, 2.5, 5, 10) if s * size >= rough * 0.999)
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = (1, 2, 5) if high / low < 1000 else (1,)
    found = [round(m * 10.0**k, 12) for k in tens for m in fine if low <= m * 10.0**k <= high]
    return found if len(found) > 1 else [low, high]

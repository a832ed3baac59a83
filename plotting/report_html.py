"""HTML by small functions that escape whatever is not said to be markup: text of stores can do nothing in a page."""

import base64
import html
import io
import math

from matplotlib.figure import Figure

VOID = ("img", "input", "meta", "link", "br", "hr")


class Markup(str):
    """Text that is HTML already; anything else is escaped where it is put into a page."""


def text(value) -> Markup:
    """A value as text of a page: escaped, without control characters and halves of characters."""
    if isinstance(value, Markup):
        return value
    plain = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return Markup(html.escape(plain, quote=True))


def join(*children) -> Markup:
    """Children one after another; None is left out."""
    return Markup("".join(text(c) for c in children if c is not None))


def tag(name: str, /, *children, **attributes) -> Markup:
    """An element. A trailing underscore of an attribute's name is dropped (class_), others become hyphens; True gives
    a bare attribute, None and False none."""
    given = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            given.append(f" {key}")
        elif value is not None and value is not False:
            given.append(f' {key}="{text(value)}"')
    opened = f"<{name}{''.join(given)}>"
    return Markup(opened if name in VOID else f"{opened}{join(*children)}</{name}>")


def paragraph(*children, **attributes) -> Markup:
    return tag("p", *children, **attributes)


def bullets(items) -> Markup:
    return tag("ul", *(tag("li", i) for i in items))


def section(title: str, *children, name: str) -> Markup:
    """A titled part of the page; `name` is what links point to."""
    heading = tag("h2", title, id=name)
    return tag("section", heading, *children, aria_labelledby=name)


def details(summary: str, *children) -> Markup:
    """What is folded away on the screen; it is unfolded in print."""
    return tag("details", tag("summary", summary), *children)


def table(caption: str, header: list, rows: list[list], left: int = 1) -> Markup:
    """A table with a caption; the first entry of each row is its header, columns from `left` on are numbers.

    On narrow screens each entry carries its column's name."""
    head = tag("tr", *(tag("th", h, scope="col") for h in header))
    body = []
    for first, *rest in rows:
        cells = (
            tag("td", v, class_=None if i + 1 < left else "number", data_column=header[i + 1])
            for i, v in enumerate(rest)
        )
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", inner, class_="wide", role="region", tabindex="0", aria_label=caption)


def picture(data: bytes, kind: str, alt: str, **attributes) -> Markup:
    """An image inside the page; kind is webp or png."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return tag("img", src=source, alt=alt, **attributes)


def figure_picture(figure: Figure, alt: str, caption: str = "", dpi: int = 80, quality: int = 82) -> Markup:
    """A matplotlib figure as an image with a caption, on white paper in the dark too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=dpi, pil_kwargs={"quality": quality, "method": 5})
    inner = picture(buffer.getvalue(), "webp", alt, class_="paper")
    return tag("figure", inner, tag("figcaption", caption) if caption else None)


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def signed(value) -> str:
    """A skill with its sign; n/a where it is not defined."""
    return f"{value:+.2f}" if is_number(value) else "n/a"


def number(value) -> str:
    """About three figures."""
    if not is_number(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

"""The morning report as one HTML file: no network, nothing from a store can run in it.

`page` puts finished parts into a document with its style and the script that plays the frames. A content security
policy names that script by its hash and allows nothing else, so that the browser itself refuses network and other
scripts.
"""

import base64
import hashlib

from plotting.report_html import Markup, join, paragraph, tag

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --card: #f6f7f9; --quiet: #57606a; --rule: #d0d7de;
  --good: #116329; --bad: #a40e26; --link: #0550ae;
  --c0: #0072b2; --c1: #b34700; --c2: #00735a; --c3: #a0457d; --c4: #2f7fae; --c5: #8a6100; --c6: #1b1f24; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --card: #161b22; --quiet: #9aa5b1;
  --rule: #30363d; --good: #56d364; --bad: #ff8f87; --link: #79b8ff;
  --c0: #58b3e8; --c1: #ff9a56; --c2: #3fcfa8; --c3: #e59ac8; --c4: #9fd4f5; --c5: #f0c04a; --c6: #e6edf3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.3rem; margin: 2rem 0 0.5rem; padding-bottom: 0.2rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1.1rem; margin: 1.5rem 0 0.5rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; padding: 0; list-style: none; }
.verdict { border: 2px solid var(--ink); border-radius: 0.5rem; padding: 0.7rem 1rem; margin: 1rem 0;
  font-size: 1.1rem; }
.verdict strong { display: block; font-size: 1.3rem; }
.quiet, figcaption, caption { color: var(--quiet); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.missing { border-left: 4px solid var(--bad); padding-left: 0.7rem; }
figure { margin: 1rem 0; } figcaption { font-size: 0.9rem; }
img { max-width: 100%; height: auto; } .paper { background: #fff; border: 1px solid var(--rule); display: block; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 0.5rem; padding: 0.6rem; margin: 0; }
.card figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; color: var(--ink); }
.charts { display: grid; gap: 0.8rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.maps { display: grid; gap: 0.8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.chart { width: 100%; height: auto; display: block; } .chart text { fill: var(--quiet); font-size: 13px; }
.grid { stroke: var(--rule); } .zero { stroke: var(--ink); stroke-width: 1.5; }
.line { fill: none; stroke-width: 2.2; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.c3 { stroke: var(--c3); } .line.c4 { stroke: var(--c4); } .line.c5 { stroke: var(--c5); }
.line.c6 { stroke: var(--c6); }
.dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); } .dot.c3 { fill: var(--c3); }
.dot.c4 { fill: var(--c4); } .dot.c5 { fill: var(--c5); } .dot.c6 { fill: var(--c6); }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; list-style: none; margin: 0.3rem 0 0; padding: 0;
  font-size: 0.9rem; }
.legend svg { width: 2rem; height: 0.75rem; margin-right: 0.3rem; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; width: 100%; font-size: 0.95rem; }
caption { text-align: left; padding-bottom: 0.3rem; font-weight: 600; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.5rem; border-bottom: 1px solid var(--rule); }
thead th { border-bottom: 2px solid var(--rule); } .number { font-variant-numeric: tabular-nums; }
summary { cursor: pointer; padding: 0.4rem 0; font-weight: 600; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 0.3rem; padding: 0.6rem;
  white-space: pre-wrap; }
.player { margin: 1rem 0; max-width: 48rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0.5rem; } .pair p { margin: 0; }
.frame { width: 100%; image-rendering: pixelated; display: block; background: #fff; } .frame[hidden] { display: none; }
.controls { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; margin: 0.5rem 0; }
.controls input { flex: 1 1 8rem; min-width: 0; }
button { font: inherit; padding: 0.4rem 1rem; min-height: 2.75rem; min-width: 5rem; color: inherit;
  background: var(--paper); border: 1px solid var(--quiet); border-radius: 0.3rem; cursor: pointer; }
.scale { display: flex; flex-wrap: wrap; gap: 0.1rem 0.6rem; list-style: none; margin: 0.3rem 0; padding: 0;
  font-size: 0.85rem; }
.scale span { display: inline-block; width: 1rem; height: 0.8rem; margin-right: 0.25rem;
  border: 1px solid var(--quiet); }
@media (max-width: 40rem) {
  .wide thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .wide tr { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: 0.4rem 0; border-bottom: 1px solid var(--rule); }
  .wide th[scope=row] { flex: 0 0 100%; } .wide th, .wide td { border: 0; padding: 0; }
  .wide td:not(:empty)::before { content: attr(data-column) ": "; color: var(--quiet); } }
@media print {
  body { max-width: none; font-size: 10pt; } nav, .controls button, .controls input { display: none; }
  figure, tr, .verdict { break-inside: avoid; } h2, h3 { break-after: avoid; } a { color: inherit; } }
"""

SCRIPT = """
"use strict";
for (const player of document.querySelectorAll(".player")) {
  const sides = [...player.querySelectorAll(".pair > div")].map((side) => side.querySelectorAll(".frame"));
  const labels = player.querySelectorAll(".labels li");
  const button = player.querySelector("button");
  const slider = player.querySelector("input");
  const output = player.querySelector("output");
  let timer = null;
  const show = (n) => {
    for (const frames of sides) frames.forEach((frame, k) => { frame.hidden = k !== n; });
    slider.value = n;
    slider.setAttribute("aria-valuetext", labels[n].textContent);
    output.textContent = labels[n].textContent;
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    button.textContent = "Pause";
    timer = setInterval(() => show((Number(slider.value) + 1) % labels.length), 400);
  });
  show(0);
}
const unfold = () => { for (const part of document.querySelectorAll("details")) part.open = true; };
window.addEventListener("beforeprint", unfold);
"""


def page(title: str, lead: str, word: str, sentence: str, parts: dict[str, Markup], foot: str) -> str:
    """The document. `parts` are sections by the text of their link, in order."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    links = (tag("li", tag("a", text, href=f"#{name_of(part)}")) for text, part in parts.items())
    body = tag(
        "body",
        tag("header", tag("h1", title), paragraph(lead, class_="quiet"),
            tag("p", tag("strong", word), sentence, class_="verdict", id="verdict")),
        tag("nav", tag("ul", *links), aria_label="Contents"),
        tag("main", *parts.values()),
        tag("footer", tag("hr"), paragraph(foot, class_="quiet")),
        tag("script", Markup(SCRIPT)),
    )  # fmt: skip
    return f"<!doctype html>\n{tag('html', join(head, body), lang='en')}\n"


def name_of(part: Markup) -> str:
    """The id of a section's heading."""
    return part.split('aria-labelledby="', 1)[1].split('"', 1)[0]

"""The ablation's runs: their file, and a table in Markdown with a verdict on each choice."""

import fcntl
import json
import os
import statistics as stats
from pathlib import Path

from data.metadata import replace

# Figure of a run: (heading, whether more is better, +1, or less, -1, the smallest difference that counts)
FIGURES = {
    "skill_near": ("skill {near}", +1, 0.01), "worst_near": ("worst {near}", 0, 0.0),
    "skill_middle": ("skill {middle}", +1, 0.01), "power_near": ("power {near}", -1, 0.05),
    "power_far": ("power {far}", -1, 0.05), "drift": ("drift {far}", -1, 0.1), "line": ("line {far}", -1, 1.0),
    "fss": ("FSS {near}", +1, 0.01),
}  # fmt: skip
DIFFERENCES = ("skill_near", "skill_middle", "power_near", "power_far")  # shown beside the figures
SIGNED = ("skill_near", "worst_near", "skill_middle")
MARKERS = ("<!-- tables: python -m benchmarks.ablation --docs docs/ablation.md -->", "<!-- end of tables -->")

Figures = dict[str, float | None]


def read_runs(path: str) -> list[dict]:
    return json.loads(Path(path).read_text())["runs"] if Path(path).exists() else []


def find(runs: list[dict], wanted: dict) -> dict | None:
    return next((r for r in runs if all(r.get(k) == v for k, v in wanted.items())), None)


def add_run(path: Path, finished: dict) -> None:
    """Add a run to the file in one step; the lock is for others that add to it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        lines = ",\n".join(json.dumps(r) for r in [*read_runs(path), finished])
        replace(path, f'{{"runs": [\n{lines}\n]}}\n')
    finally:
        os.close(folder)


def table(title: str, leads: dict[str, str], texts: dict[str, str], runs: dict[str, dict[int, Figures | None]],
          samples: dict[str, float]) -> str:  # fmt: skip
    """Markdown. leads: near, middle and far as text; texts: what each choice is, the reference first; runs: figures by
    choice and seed, None where the run failed; samples: mean number of training samples."""
    heads = ["choice", "what is changed", "seeds", "samples"]
    heads += [head.format(**leads) for head, _, _ in FIGURES.values()]
    heads += ["d " + FIGURES[f][0].format(**leads) for f in DIFFERENCES] + ["verdict"]
    lines = [f"**{title}**", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, text in texts.items():
        if not runs.get(name):
            continue
        done = {seed: figures for seed, figures in runs[name].items() if figures}
        differences = against(done, runs.get("reference", {}))
        cells = [name, text, str(len(runs[name])), f"{samples[name]:.0f}" if done else "-"]
        cells += [cell([f[k] for f in done.values()], k in SIGNED) for k in FIGURES]
        cells += [cell(differences[k], True) if name != "reference" else "" for k in DIFFERENCES]
        failed = len(runs[name]) - len(done)
        cells.append("" if name == "reference" else f"kept ({failed} failed)" if failed else verdict(differences))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def against(done: dict[int, Figures], reference: dict[int, Figures | None]) -> dict[str, list[float]]:
    """Figure by figure the differences from the reference run of the same seed, where both have it."""
    pairs = [(figures, reference[seed]) for seed, figures in done.items() if reference.get(seed)]
    return {k: [a[k] - b[k] for a, b in pairs if a[k] is not None and b[k] is not None] for k in FIGURES}


def verdict(differences: dict[str, list[float]]) -> str:
    """kept: the reference is better in something and worse in nothing; out: the changed row is; near: neither; mixed:
    each is better in something. A figure differs where the mean difference is larger than the smallest that counts
    and, with several seeds, than twice the standard deviation of the differences. More power of a row that has lost
    skill does not count for it: nothing is as sharp as persistence."""
    signs = {}
    for name, (_, better, least) in FIGURES.items():
        values = differences[name]
        spread = stats.stdev(values) if len(values) > 1 else 0.0
        if values and better and abs(stats.mean(values)) > max(least, 2 * spread):
            signs[name] = better * stats.mean(values) > 0
    if signs.get("skill_near") is False:
        signs = {k: v for k, v in signs.items() if not (v and k.startswith("power"))}
    return {(): "near", (True,): "out", (False,): "kept"}.get(tuple(set(signs.values())), "near (mixed)")


def cell(values: list[float | None], signed: bool) -> str:
    """Mean and, of several seeds, standard deviation."""
    values = [v for v in values if v is not None]
    if not values:
        return "-"
    text = f"{stats.mean(values):{'+' if signed else ''}.3f}"
    return text + (f" ± {stats.stdev(values):.3f}" if len(values) > 1 else "")


def write_between(path: Path, text: str) -> None:
    """Replace what stands between MARKERS in a document; ValueError where it lacks them."""
    document = path.read_text() if path.exists() else ""
    if not all(m in document for m in MARKERS):
        raise ValueError(f"docs: {path} lacks the lines {MARKERS[0]} and {MARKERS[1]}, expected both. Fix: add them")
    before, rest = document.split(MARKERS[0], 1)
    after = rest.split(MARKERS[1], 1)[1]
    replace(path, f"{before}{MARKERS[0]}\n\n{text}\n\n{MARKERS[1]}{after}")

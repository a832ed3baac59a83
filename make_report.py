"""Write the morning report of a run: one HTML file that says how good the model is and how to go on.

    python make_report.py --run_dir runs/demo
    python make_report.py --run_dir runs/demo --out report.html --zarr runs/demo/store.zarr

Reads what is there of log.jsonl, best.pt, scores.json, forecast.zarr and the store with the truth, and says in the
report what is missing. Writes run_dir/report.html: images inside, no network, opens in any browser.
"""

import ast
import json
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import xarray as xr
from matplotlib import rc_context
from tqdm import tqdm

from data.command import refuse_file_above, run
from data.grid import read_grid
from data.store import Store
from data.variables import lookup
from plotting import report
from plotting.curves import headline, loss_curves, without_skill
from plotting.maps import forecast_panels, show_time
from plotting.scores import signed, skill_by_lead
from training.checkpoint import load_checkpoint
from training.log import read_log
from verification.inputs import HOUR, check_grid, choose, open_forecast


@dataclass
class Config:
    run_dir: str = "runs/hrrr"  # folder of a run
    out: str = ""  # file to write; empty: report.html in run_dir
    zarr: str = ""  # store with the truth of the forecast; empty: the one it was started from


FILES = ("log.jsonl", "best.pt", "last.pt", "scores.json", "forecast.zarr")  # one of these makes a folder that of a run
MAPPED = ("REFC", "T2M")  # variables drawn as maps, the first as frames too; the first variable without them
MAP_LEADS = (1, 3, 6, 24)  # h


def main(cfg: Config) -> None:
    folder = Path(cfg.run_dir)
    out = Path(cfg.out) if cfg.out else folder / "report.html"
    if not any((folder / name).exists() for name in FILES):
        what = "which has none of " + ", ".join(FILES) if folder.is_dir() else "which does not exist"
        raise ValueError(f"run_dir: got {folder}, {what}; expected the folder of a run. Fix: --run_dir runs/demo")
    if out.is_dir():
        raise ValueError(f"out: got {out}, a folder, expected a file to write. Fix: --out report.html")
    refuse_file_above(out.parent, "out")

    # What there is; whatever is missing or broken becomes a note.
    notes: list[str] = []

    def attempt(what: str, read: Callable, otherwise=None):
        try:
            return read()
        except (ValueError, OSError) as error:
            notes.append(f"{what}: {' '.join(str(error).split())}")
            print(f"note: {notes[-1]}")
            return otherwise

    best = next((p for n in ("best.pt", "last.pt") if (p := folder / n).is_file()), folder / "best.pt")
    records = attempt("log.jsonl", lambda: read_log(folder / "log.jsonl", 10**9), [])
    scores = attempt("scores.json", lambda: read_scores(folder / "scores.json"))
    checkpoint = attempt("checkpoint", lambda: load_checkpoint(best))
    forecast = attempt("forecast", lambda: open_forecast(str(folder / "forecast.zarr")))
    truth = attempt("truth", lambda: Store(truth_path(cfg, forecast))) if forecast is not None else None
    inner = {p.name: p / "scores.json" for p in sorted(folder.iterdir()) if (p / "scores.json").is_file()}
    others = {name: attempt(f"{name}/scores.json", lambda p=p: read_scores(p)) for name, p in inner.items()}

    # The parts of the report.
    boundary = str(forecast.attrs.get("boundary") or "") if forecast is not None else ""
    with rc_context({"text.parse_math": False}):  # a name of a store is no formula
        cases = attempt("cases", lambda: find_cases(folder, forecast, truth), {}) if truth is not None else {}
        skill_figure = report.picture(skill_by_lead(scores)) if scores and scores["scores"] else ""
        loss_figure = report.picture(loss_curves(records)) if records else ""
    values = constants(checkpoint["config"]) if checkpoint else None
    word, sentence = report.verdict(scores, records, boundary)
    html = report.render(
        title=f"hourcast: {folder}", word=word, sentence=sentence, unproven=without_skill(records),
        headline=headline(records) if records else "", last=records[-1] if records else {}, checkpoint=checkpoint,
        parameters=sum(v.numel() for v in checkpoint["ema"].values()) if checkpoint else 0,
        scores=scores, others={name: other for name, other in others.items() if other}, enough=report.ENOUGH,
        criteria=report.criteria(scores) if scores else [],
        skill_figure=skill_figure, score_tables=report.score_tables(scores) if skill_figure else [],
        cases=cases, case_hours=report.CASE_HOURS, loss_figure=loss_figure,
        clipped=report.clipped_rows(forecast) if forecast is not None else [],
        notes=notes + (truth.notes if truth else []),
        constants=values, steps=next_steps(cfg, folder, values["changed"] if values else []),
        foot=f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC from {folder.resolve()}.",
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, out)
    print(f"{word}: {sentence}\nwrote {out} ({len(html) / 1e6:.1f} MB)")


def read_scores(path: Path) -> dict:
    """scores.json; ValueError if it is missing or something else."""
    if not path.is_file():
        raise ValueError(f"no {path}. Fix: run verify_forecast.py")
    scores, kinds = json.loads(path.read_text()), {"certificate": list, "scores": dict, "init_times": list}
    if not isinstance(scores, dict) or not all(isinstance(scores.get(k), kind) for k, kind in kinds.items()):
        raise ValueError(f"{path} is not what verify_forecast.py writes. Fix: score the forecast again")
    return scores


def truth_path(cfg: Config, forecast: xr.Dataset) -> str:
    """The store named on the command line, or the one that the forecast says it was started from."""
    path = cfg.zarr or str(forecast.attrs.get("source", "")).rpartition(", started from ")[2]
    if not path:
        raise ValueError("the forecast does not say which store it was started from. Fix: name it with --zarr")
    return path


def find_cases(folder: Path, forecast: xr.Dataset, store: Store) -> dict:
    """The best, the median and the worst forecast with maps and frames, and the skill of all; {} without truth at any
    valid time. ValueError if the truth does not fit the forecast."""
    names = choose(str(folder / "forecast.zarr"), forecast, [])
    check_grid("the forecast", read_grid(forecast, forecast[names[0]].dims[2:]), store.path, store.grid)
    own = dict(zip(names, store.choose(names), strict=True))
    truth = lambda time, name: store.load(time, [own[name]])[0] if store.has(time) else None  # noqa: E731
    bar = tqdm(range(forecast.sizes["init_time"]), desc="cases", unit="forecast", disable=None)
    skills, times = [report.case_skill(forecast, truth, names, i) for i in bar], forecast["init_time"].values
    chosen = report.choose_cases(skills)
    mapped = [n for wanted in MAPPED for n in names if lookup(n).name == wanted] or names[:1]
    leads = [lead for lead in forecast["lead_time"].values if lead / HOUR in MAP_LEADS]
    leads = leads or list(forecast["lead_time"].values[1:5])
    cases = []
    for kind, i in chosen.items():
        figures = {n: forecast_panels(forecast, lambda t, n=n: truth(t, n), n, leads, times[i]) for n in mapped}
        maps = {n: report.picture(figure, dpi=100) for n, figure in figures.items()}
        title = f"{kind.capitalize()} case: {show_time(times[i])} UTC, skill {skills[i]:+.2f}"
        cases.append({"title": title, "maps": maps, "frames": report.frames(forecast, truth, mapped[0], i)})
    kinds = {i: kind for kind, i in chosen.items()}
    rows = [[show_time(times[i]), signed(s), kinds.get(i, "")] for i, s in enumerate(skills)]
    return {"chosen": cases, "all": rows} if cases else {}


def constants(config: dict) -> dict:
    """The constants of the run as rows: all, and those that differ from the defaults in train_deterministic.py."""
    source, known = Path(__file__).with_name("train_deterministic.py").read_text(), {}
    show = lambda v: " ".join(shlex.quote(str(x)) for x in (v if isinstance(v, list) else [v]))  # noqa: E731
    for name, value, meaning in re.findall(r"^    (\w+): [^=\n]+ = (.+?)  # (.+)$", source, re.MULTILINE):
        try:
            known[name] = show(ast.literal_eval(value)), meaning
        except (ValueError, SyntaxError):
            known[name] = "", meaning  # a list begins empty
    rows = [[n, show(v), *known.get(n, ("no such constant", ""))] for n, v in config.items()]
    return {"changed": [row for row in rows if row[1] != row[2]], "all": [[n, v, m] for n, v, _, m in rows]}


def next_steps(cfg: Config, folder: Path, changed: list[list[str]]) -> list[tuple[str, str]]:
    """Commands that go on from here, with the paths of this run; `changed`: rows of `constants`."""
    python, names = ".venv/bin/python", ("best.pt", "forecast.zarr", "latest.zarr", "scores.json")
    training = {name: value for name, value, *_ in changed}
    store = shlex.quote(cfg.zarr) if cfg.zarr else training.get("zarr", "STORE.zarr")
    best, forecast, latest, scores = (shlex.quote(str(folder / name)) for name in names)
    arguments = {"zarr": store, "run_dir": shlex.quote(str(folder))} | training
    train = "train_deterministic.py " + " ".join(f"--{name} {value}" for name, value in arguments.items())
    infer = f"infer_iterative.py --checkpoint {best} --zarr {store} --init_time latest --hours 24 --out {latest}"
    verify = f"verify_forecast.py --forecast {forecast} --zarr {store} --out {scores}"
    return [
        ("Go on with the training (a finished run says so):", f"{python} {train}"),
        ("Forecast a day from the latest hour of the store:", f"{python} {infer}"),
        ("Score the forecasts again:", f"{python} {verify}"),
        ("Look at a forecast in a notebook:",
         f"import xarray as xr\nxr.open_zarr({str(folder / 'forecast.zarr')!r})"),
    ]  # fmt: skip


if __name__ == "__main__":
    run(Config, main, __doc__)

"""Write the report of a run: one HTML file that says how good the model is and how to go on.

    python make_report.py --run_dir runs/demo
    python make_report.py --run_dir runs/demo --out report.html --zarr runs/demo/other_seed.zarr

Reads log.jsonl, best.pt, scores.json, forecast.zarr and the store with the truth. The report names those that are
missing. Writes run_dir/report.html, with its images inside: it opens in any browser and needs no network.
"""

import ast
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
from data.metadata import replace
from data.store import Store
from data.variables import lookup
from plotting import report
from plotting.curves import loss_curves
from plotting.maps import forecast_panels, show_time
from plotting.scores import read_scores, signed, skill_by_lead
from training.checkpoint import load_checkpoint
from training.log import read_log
from verification.inputs import HOUR, check_grid, choose, open_forecast


@dataclass
class Config:
    run_dir: str = "runs/hrrr"  # folder of a run
    out: str = ""  # file to write; empty: report.html in run_dir
    zarr: str = ""  # store with the truth of the forecast; empty: the one it was started from


FILES = ("log.jsonl", "best.pt", "last.pt", "scores.json", "forecast.zarr")  # the folder of a run has one of these
MAPPED = "REFC"  # variable of the maps; the first variable of a forecast without it
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

    # ---- read what is there; a file that is missing or broken becomes a note
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
    source = str(forecast.attrs.get("source", "")).rpartition(", started from ")[2] if forecast is not None else ""
    truth = attempt("truth", lambda: Store(cfg.zarr or source)) if cfg.zarr or source else None
    inner = {p.parent.name: p for p in sorted(folder.glob("*/scores.json"))}
    others = {name: attempt(f"{name}/scores.json", lambda p=p: read_scores(p)) for name, p in inner.items()}

    # ---- draw, and put the page together
    outcome = report.outcome(scores, records)
    with rc_context({"text.parse_math": False}):  # names of variables are not formulas
        both = forecast is not None and truth is not None
        cases = attempt("cases", lambda: find_cases(folder, forecast, truth), {}) if both else {}
        scored = scores and scores["scores"]
        skill_figures = [report.picture(skill_by_lead(scores, only)) for only in (True, False)] if scored else []
        loss_figure = report.picture(loss_curves(records)) if records else ""
    values = constants(checkpoint["config"]) if checkpoint else None
    facts = report.facts(scores, records)
    html = report.render(
        title=f"hourcast: {folder}", outcome=outcome, facts=facts, scores=scores, skill_figures=skill_figures,
        score_tables=report.score_tables(scores) if skill_figures else [],
        certificate=report.certificate_rows(scores) if scores else [],
        others=[[name, report.outcome(o, []), report.facts(o, [])[0]] for name, o in others.items() if o],
        cases=cases, case_hours=report.CASE_HOURS, loss_figure=loss_figure, last=records[-1] if records else {},
        constants=values, steps=next_steps(cfg, folder, values["changed"] if values else []),
        notes=notes + (truth.notes if truth else []) + [str(x) for x in (scores or {}).get("baselines", [])],
        foot=f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC from {folder.resolve()}.",
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    replace(out, html)
    print("\n".join([outcome, *facts, f"wrote {out} ({len(html) / 1e6:.1f} MB)"]))


def find_cases(folder: Path, forecast: xr.Dataset, store: Store) -> dict:
    """The best and the worst forecast with maps, and the skill of all; {} if the truth has none of the valid times.
    ValueError if the truth does not fit the forecast."""
    names = choose(str(folder / "forecast.zarr"), forecast, [])
    check_grid("the forecast", read_grid(forecast, forecast[names[0]].dims[2:]), store.path, store.grid)
    own = dict(zip(names, store.choose(names), strict=True))
    truth = lambda time, name: store.load(time, [own[name]])[0] if store.has(time) else None  # noqa: E731
    bar = tqdm(range(forecast.sizes["init_time"]), desc="cases", unit="forecast", disable=None)
    skills, times = [report.case_skill(forecast, truth, names, i) for i in bar], forecast["init_time"].values
    chosen = report.choose_cases(skills)
    mapped = next((n for n in names if lookup(n).name == MAPPED), names[0])
    leads = [lead for lead in forecast["lead_time"].values if lead / HOUR in MAP_LEADS]
    leads = leads or list(forecast["lead_time"].values[1:5])
    cases = []
    for kind, i in chosen.items():
        figure = forecast_panels(forecast, lambda t: truth(t, mapped), mapped, leads, times[i], persistence=False)
        title = f"{kind.capitalize()}: skill {skills[i]:+.2f}, init {show_time(times[i])} UTC"
        cases.append({"title": title, "map": report.picture(figure)})
    kinds = {i: kind for kind, i in chosen.items()}
    rows = [[show_time(times[i]), signed(s), kinds.get(i, "")] for i, s in enumerate(skills)]
    return {"chosen": cases, "all": rows} if cases else {}


def constants(config: dict) -> dict:
    """The constants of the run as rows: all, and those that differ from the defaults in train_deterministic.py."""
    source, known = Path(__file__).with_name("train_deterministic.py").read_text(), {}
    show = lambda v: " ".join(shlex.quote(str(x)) for x in (v if isinstance(v, list | tuple) else [v]))  # noqa: E731
    for name, value, meaning in re.findall(r"^    (\w+): [^=\n]+ = (.+?)  # (.+)$", source, re.MULTILINE):
        try:
            known[name] = show(ast.literal_eval(value)), meaning
        except (ValueError, SyntaxError):
            known[name] = "", meaning  # an empty list
    rows = [[n, show(v), *known.get(n, ("no such constant", ""))] for n, v in config.items()]
    return {"changed": [row for row in rows if row[1] != row[2]], "all": [[n, v, m] for n, v, _, m in rows]}


def next_steps(cfg: Config, folder: Path, changed: list[list[str]]) -> list[tuple[str, str]]:
    """Commands that go on from here, with the paths of this run; `changed`: rows of `constants`."""
    best, latest = (shlex.quote(str(folder / name)) for name in ("best.pt", "latest.zarr"))
    default = shlex.quote(cfg.zarr) if cfg.zarr else "data/hrrr.zarr"  # of a run that did not change it
    training = {"zarr": default, "run_dir": shlex.quote(str(folder))} | {name: value for name, value, *_ in changed}
    store = shlex.quote(cfg.zarr) if cfg.zarr else training["zarr"]
    arguments = " ".join(f"--{name} {value}" for name, value in training.items())
    infer = f"infer_iterative.py --checkpoint {best} --zarr {store} --init_time latest --hours 24 --out {latest}"
    return [
        ("Go on with the training (a finished run says so):", f".venv/bin/python train_deterministic.py {arguments}"),
        ("Forecast a day from the latest hour of the store:", f".venv/bin/python {infer}"),
        ("Open the forecasts in a notebook; notebooks/plot_forecast.ipynb draws them:",
         f"import xarray as xr\nxr.open_zarr({str(folder / 'forecast.zarr')!r})"),
    ]  # fmt: skip


if __name__ == "__main__":
    run(Config, main, __doc__)

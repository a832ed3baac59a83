"""Write the morning report of a run: one HTML file that says how good the model is and how to go on.

    python make_report.py                                               # the constants below
    python make_report.py --run_dir runs/demo
    python make_report.py --run_dir runs/demo --out report.html --zarr runs/demo/store.zarr

Reads what is there of log.jsonl, best.pt, scores.json, forecast.zarr and the store with the truth, and says in the
report what is missing. Writes run_dir/report.html: images inside, no network, opens in any browser.
"""

import inspect
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm import tqdm

import train_deterministic
from data.command import raised_by_us, refuse_file_above, run
from data.grid import read_grid
from data.metadata import replace
from data.store import Store
from data.variables import lookup
from plotting import report_sections as parts
from plotting.report import page
from plotting.report_cases import all_maps, case_skill, cases_markup, choose_cases, clipped_rows, player
from plotting.report_html import Markup, paragraph, section, table
from plotting.report_verdict import verdict
from training.checkpoint import load_checkpoint
from training.log import read_log
from verification.inputs import check_grid, choose, open_forecast


@dataclass
class Config:
    run_dir: str = "runs/hrrr"  # folder of a run
    out: str = ""  # file to write; empty: report.html in run_dir
    zarr: str = ""  # store with the truth of the forecast; empty: the one it was started from
    variables: list[str] = field(default_factory=list)  # drawn as maps, the first as frames too; none: REFC and T2M
    case_hours: float = 6.0  # the best and worst case are chosen by skill over so many hours
    megabytes: float = 6.0  # largest report: frames are left out until it is reached


MAPPED = ["REFC", "T2M"]  # variables drawn as maps where none is named; of these, those of the forecast
MAP_LEADS = (1, 3, 6, 24)  # h
HOUR = np.timedelta64(1, "h")


@dataclass
class Run:
    """What there is of a run; None or empty where it is missing, with the reason in `notes`."""

    folder: Path
    records: list[dict]
    scores: dict | None
    others: dict[str, dict]
    checkpoint: dict | None
    forecast: xr.Dataset | None
    truth: Store | None
    notes: list[str]


def main(cfg: Config) -> int:
    out = Path(cfg.out) if cfg.out else Path(cfg.run_dir) / "report.html"
    refuse_wrong(cfg)
    if out.is_dir():
        raise ValueError(f"out: got {out}, a folder, expected a file to write. Fix: --out report.html")
    refuse_file_above(out.parent, "out")
    found = read_run(cfg)
    if found.forecast is not None:
        choose(str(found.folder / "forecast.zarr"), found.forecast, cfg.variables)
    for note in found.notes:
        print(f"note: {note}")
    out.parent.mkdir(parents=True, exist_ok=True)
    told = find_cases(cfg, found)
    if isinstance(told, str) and found.truth is not None:  # without a truth a note has said so
        print(f"note: the cases, their maps and frames are left out for want of {told}")
    for every in (1, 2, 3, 6, 12, 24):
        html = report(cfg, found, told, every)
        if len(html) <= cfg.megabytes * 1e6:
            break
        print(f"note: {len(html) / 1e6:.1f} MB with every {every}. lead as a frame; fewer frames")
    replace(out, html)
    word, sentence = verdict(found.scores, found.records, attribute(found, "boundary"), attribute(found, "held"))
    print(f"{word}: {sentence}\nwrote {out} ({len(html) / 1e6:.1f} MB)")
    return 0


def refuse_wrong(cfg: Config) -> None:
    """ValueError for a folder that is not that of a run, and for sizes that are not above zero."""
    folder, names = Path(cfg.run_dir), ("log.jsonl", "best.pt", "last.pt", "scores.json", "forecast.zarr")
    if not folder.is_dir():
        raise ValueError(f"run_dir: got {folder}, expected the folder of a run. Fix: --run_dir runs/demo")
    if not any((folder / n).exists() for n in names):
        raise ValueError(
            f"run_dir: got {folder}, which has none of {', '.join(names)}, expected the folder of a run. "
            "Fix: --run_dir runs/demo"
        )
    for name, usual in (("case_hours", 6), ("megabytes", 6)):
        if not getattr(cfg, name) > 0:  # NaN is not above zero either
            raise ValueError(f"{name}: got {getattr(cfg, name)}, expected a number above 0. Fix: --{name} {usual}")


# ---- reading


def read_run(cfg: Config) -> Run:
    """Open what the folder holds; whatever is missing or broken becomes a note."""
    folder, notes = Path(cfg.run_dir), []

    def attempt(what: str, read: Callable, otherwise=None):
        try:
            return read()
        except (ValueError, OSError) as error:
            notes.append(f"{what}: {' '.join(str(error).split())}")
            return otherwise

    records = attempt("log.jsonl", lambda: read_log(folder / "log.jsonl", 10**9), [])
    scores = attempt("scores.json", lambda: read_scores(folder / "scores.json"))
    inner = sorted(p for p in folder.iterdir() if (p / "scores.json").is_file())
    others = {p.name: attempt(f"{p.name}/scores.json", lambda p=p: read_scores(p / "scores.json")) for p in inner}
    best = next((p for n in ("best.pt", "last.pt") if (p := folder / n).is_file()), folder / "best.pt")
    checkpoint = attempt("checkpoint", lambda: load_checkpoint(best))
    forecast = attempt("forecast", lambda: open_forecast(str(folder / "forecast.zarr")))
    truth = attempt("truth", lambda: Store(truth_path(cfg, forecast))) if forecast is not None else None
    return Run(folder, records, scores, {k: v for k, v in others.items() if v}, checkpoint, forecast, truth, notes)


def read_scores(path: Path) -> dict:
    """scores.json; ValueError where it is missing or something else."""
    if not path.is_file():
        raise ValueError(f"no {path}. Fix: run verify_forecast.py")
    found = json.loads(path.read_text())
    known = isinstance(found, dict) and isinstance(found.get("certificate"), list)
    if not known or not isinstance(found.get("scores"), dict) or not isinstance(found.get("init_times"), list):
        raise ValueError(f"{path} is not what verify_forecast.py writes. Fix: score the forecast again")
    return found


def truth_path(cfg: Config, forecast: xr.Dataset) -> str:
    """The store named on the command line, or the one that the forecast says it was started from."""
    told = str(forecast.attrs.get("source", "")).rpartition(", started from ")[2]
    if not cfg.zarr and not told:
        raise ValueError("the forecast does not say which store it was started from. Fix: name it with --zarr")
    return cfg.zarr or told


def attribute(found: Run, name: str) -> str:
    return str(found.forecast.attrs.get(name) or "") if found.forecast is not None else ""


# ---- the report


def report(cfg: Config, found: Run, told: "Cases | str", every: int) -> str:
    """The document, with every `every`-th lead as a frame."""
    word, sentence = verdict(found.scores, found.records, attribute(found, "boundary"), attribute(found, "held"))
    defaults = asdict(train_deterministic.Config())
    sections = {
        "Certificate": parts.certificate(found.scores, found.others),
        "Skill": parts.skill(found.scores),
        "Cases": cases(cfg, found, told, every),
        "Curves": parts.curves(found.records),
        "Clipped or skipped": parts.left_out(
            clipped_rows(found.forecast), found.scores, found.records, found.notes + store_notes(found)
        ),
        "Time and memory": parts.resources(found.records, sizes(found.folder), found.checkpoint),
        "Constants": parts.constants(found.checkpoint, defaults, meanings()),
        "How to go on": parts.commands(next_steps(cfg, found)),
    }
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = f"hourcast: {found.folder}"
    return page(title, describe(found), word, sentence, sections, f"Made {made} from {found.folder.resolve()}.")


def describe(found: Run) -> str:
    """One line on what was trained on what."""
    if found.checkpoint is None:
        return "No checkpoint."
    table_, split = found.checkpoint, found.checkpoint["split"]
    shape = " x ".join(map(str, table_["grid"]["shape"]))
    return (
        f"{', '.join(table_['variables'])} on {shape} cells, {table_['lead']} a step, trained on "
        f"{' to '.join(split['train'])} of {table_['config']['zarr']}"
    )


@dataclass
class Cases:
    """The chosen forecasts; `maps` are drawn once, frames may be made several times to fit."""

    names: list[str]
    skills: list[float | None]
    chosen: dict[str, int]
    maps: dict[str, Markup]
    mapped: list[str]
    fields: Callable


def find_cases(cfg: Config, found: Run) -> Cases | str:
    """The best, the median and the worst forecast, or what is missing for that."""
    if found.forecast is None or found.truth is None:
        return "forecast.zarr" if found.forecast is None else "the store with the truth (name it with --zarr)"
    try:
        return compare(cfg, found)
    except ValueError as error:
        if not raised_by_us(error):
            raise
        return f"a truth that fits the forecast ({error})"


def compare(cfg: Config, found: Run) -> Cases | str:
    """find_cases where there is a forecast and a truth; ValueError where they do not fit."""
    forecast, names = found.forecast, choose(str(found.folder / "forecast.zarr"), found.forecast, [])
    check_grid("the forecast", read_grid(forecast, forecast[names[0]].dims[2:]), found.truth.path, found.truth.grid)
    fields = truth_fields(found.truth, names)
    bar = tqdm(range(forecast.sizes["init_time"]), desc="cases", unit="forecast", disable=None)
    skills = [case_skill(forecast, fields, names, i, cfg.case_hours) for i in bar]
    wanted = [lookup(v).name for v in cfg.variables or MAPPED]
    mapped = sorted((n for n in names if lookup(n).name in wanted), key=lambda n: wanted.index(lookup(n).name))
    mapped = mapped or names[:1]
    leads = [lead for lead in forecast["lead_time"].values if lead / HOUR in MAP_LEADS]
    leads = leads or list(forecast["lead_time"].values[1:5])
    chosen = choose_cases(skills)
    maps = {kind: all_maps(forecast, fields, i, mapped, leads) for kind, i in chosen.items()}
    return Cases(names, skills, chosen, maps, mapped, fields) if chosen else "truth at the valid times of the forecasts"


def cases(cfg: Config, found: Run, told: Cases | str, every: int) -> Markup:
    """Maps and frames of the chosen forecasts, and a table of all."""
    title = "Best, median and worst case"
    if isinstance(told, str):
        return section(title, paragraph(f"Missing: {told}.", class_="missing"), name="cases")
    forecast, chosen = found.forecast, told.chosen
    players = {kind: player(forecast, told.fields, told.mapped[0], i, every) for kind, i in chosen.items()}
    times = [str(t.astype("datetime64[m]")) for t in forecast["init_time"].values]
    kinds = {i: kind for kind, i in chosen.items()}
    rows = [[times[i], parts.signed(s), kinds.get(i, "")] for i, s in enumerate(told.skills)]
    lead = f"By skill against persistence over the first {cfg.case_hours:g} h, mean over {', '.join(told.names)}."
    return section(
        title,
        paragraph(lead),
        cases_markup(forecast, chosen, told.skills, players, told.maps),
        parts.details(f"All {len(rows)} forecasts", table("Forecasts", ["initial time", "skill", "case"], rows)),
        name="cases",
    )


def truth_fields(store: Store, names: list[str]) -> Callable:
    """A function (valid time, variable of the forecast) -> field, None where the store lacks the time."""
    own = dict(zip(names, store.choose(names), strict=True))

    def read(time: np.datetime64, name: str) -> np.ndarray | None:
        return store.load(time, [own[name]])[0] if store.has(time) else None

    return read


def store_notes(found: Run) -> list[str]:
    return [] if found.truth is None else [f"{found.truth.path}: {note}" for note in found.truth.notes]


def sizes(folder: Path) -> list[list]:
    """What the run takes on the disk."""
    rows = []
    for name in ("best.pt", "last.pt", "previous.pt", "forecast.zarr"):
        path = folder / name
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        if files:
            rows.append([f"{name} on the disk", f"{sum(p.stat().st_size for p in files) / 1e6:,.1f} MB"])
    return rows


def meanings() -> dict[str, str]:
    """The comment behind each constant of train_deterministic.py."""
    source = inspect.getsource(train_deterministic.Config)
    return dict(re.findall(r"^    (\w+): .*?  # (.+)$", source, re.MULTILINE))


def next_steps(cfg: Config, found: Run) -> list[tuple[str, str]]:
    """Commands that go on from here, with the paths of this run."""
    python, quote = ".venv/bin/python", shlex.quote
    folder = found.folder
    config = found.checkpoint["config"] if found.checkpoint else {}
    store = cfg.zarr or str(config.get("zarr") or "STORE.zarr")
    defaults = asdict(train_deterministic.Config()) | {"zarr": None, "run_dir": None}
    changed = {k: v for k, v in config.items() if k in defaults and v != defaults[k]}
    told = " ".join(
        f"--{k} {' '.join(quote(str(x)) for x in (v if isinstance(v, list) else [v]))}" for k, v in changed.items()
    )
    best, forecast = quote(str(folder / "best.pt")), quote(str(folder / "forecast.zarr"))
    latest = quote(str(folder / "latest.zarr"))
    steps = [
        ("Go on with the training (a finished run says so), with more --epochs in another --run_dir:",
         f"{python} train_deterministic.py {told or f'--zarr {quote(store)} --run_dir {quote(str(folder))}'}"),
        ("Forecast a day from the latest hour of the store:",
         f"{python} infer_iterative.py --checkpoint {best} --zarr {quote(store)} --init_time latest --hours 24 "
         f"--out {latest}"),
        ("Score the forecasts again:",
         f"{python} verify_forecast.py --forecast {forecast} --zarr {quote(store)} "
         f"--out {quote(str(folder / 'scores.json'))}"),
        ("Publish the weights with a model card:",
         f"{python} export_model.py --checkpoint {best} --out {quote(str(folder / 'export'))}"),
        ("Look at a forecast in a notebook:",
         f"import xarray as xr\nxr.open_zarr({str(folder / 'forecast.zarr')!r})"),
    ]  # fmt: skip
    return steps


if __name__ == "__main__":
    run(Config, main, __doc__)

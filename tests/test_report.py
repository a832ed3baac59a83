"""The report of a run: what it says, that it needs nothing else, and that it opens in a browser on any screen."""

import json
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import infer_iterative
import make_report
import verify_forecast
from plotting.report import case_skill, certificate_rows, choose_cases, facts, outcome
from plotting.scores import RESULTS, read_scores
from tests.conftest import hour, small_grid, weather, write_store
from tests.model_files import write_checkpoint

EVIL = "<img src=x onerror=document.evil=1>$a" + 12 * "long"  # a variable's name, wider than a telephone
NAMES = ["REFC", EVIL]
SCRIPTED = "</script><script>document.evil=1</script>\x00x"
LINES = [{"name": f"{result}, {EVIL}", "value": 0.5, "interval": [0.25, 0.75], "bar": "> 0", "pass": result}
         for result in ("PASS", "UNDECIDED", "n/a", "FAIL", "PASS")]  # fmt: skip


def record(epoch: int) -> dict:
    return {
        "epoch": epoch, "step": 10 * epoch, "samples": 600, "loss": 0.5, "lr": 1e-3, "grad_norm": 0.7,
        "skill": {"REFC": 0.25, EVIL: -0.5}, "score": 0.3, "samples_per_s": 10.0, "data_wait": 0.05,
        "peak_memory_bytes": 8.4e8,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A complete run of names and attributes that want to be markup."""
    folder = tmp_path_factory.mktemp("run")
    store = write_store(folder / "store.zarr", lambda n, t: weather(n, t), [hour(n) for n in range(60)], NAMES)
    best = write_checkpoint(folder / "best.pt", store, NAMES, lr=0.123)
    times = [str(hour(n))[:16] for n in (50, 52, 54)]
    out = str(folder / "forecast.zarr")
    infer_iterative.main(infer_iterative.Config(str(best), str(store), times, 3.0, out=out))
    verify_forecast.main(verify_forecast.Config(out, str(store), str(folder / "scores.json"), figures=False))
    scores = json.loads((folder / "scores.json").read_text())
    scores |= {"certificate": LINES, "certificate_notes": {LINES[0]["name"]: "a note"}, "baselines": [SCRIPTED]}
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "inner").mkdir()
    shutil.copy(folder / "scores.json", folder / "inner")
    (folder / "log.jsonl").write_text("".join(json.dumps(record(e)) + "\n" for e in (5, 10)))
    return folder


@pytest.fixture(scope="module")
def html(run_dir) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_report, "MAP_LEADS", (1,))  # maps take long to draw
        make_report.main(make_report.Config(str(run_dir)))
    return (run_dir / "report.html").read_text()


class Outline(HTMLParser):
    """The elements of a page in order: (name, attributes)."""

    def __init__(self, page: str):
        super().__init__()
        self.elements = []
        self.feed(page)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def all(self, name: str) -> list[dict]:
        return [attributes for n, attributes in self.elements if n == name]


def test_nothing_of_a_store_becomes_markup(html):
    outline = Outline(html)
    assert not outline.all("script") and all(a["src"].startswith("data:image/") for a in outline.all("img"))
    assert not [a for _, attributes in outline.elements for a in attributes if a.startswith("on")]
    assert "&lt;img src=x onerror" in html and "&lt;/script&gt;&lt;script&gt;" in html
    assert "\N{REPLACEMENT CHARACTER}x" in html and "\x00" not in html and html.encode()


def test_the_page_has_a_language_headings_captions_and_alternative_texts(html):
    outline = Outline(html)
    assert outline.all("html")[0]["lang"] == "en" and len(outline.all("h1")) == len(outline.all("main")) == 1
    assert all(a["alt"].strip() for a in outline.all("img"))
    assert len(outline.all("table")) == len(outline.all("caption")) >= 6
    assert all(a["scope"] in ("row", "col") for a in outline.all("th"))
    ids = [a["id"] for _, a in outline.elements if "id" in a]
    assert len(ids) == len(set(ids)) and {a["aria-labelledby"] for a in outline.all("section")} <= set(ids)


def test_every_part_says_what_its_file_holds(html, run_dir):
    best_skill = json.loads((run_dir / "scores.json").read_text())["scores"]["REFC"]["1"]["best_skill"]
    for text in ("Skill against persistence", "Skill against the same hour yesterday", f"{best_skill:+.2f}",
                 "Skill against climatology by hour of day", "Skill against the best baseline", "Best: skill",
                 "Worst: skill", "Certificate: 1 FAIL, 1 UNDECIDED, 2 PASS, 1 n/a.", "0.25 to 0.75", "a note",
                 "0.84 GB", "1.0 min", "Other evaluations",
                 "<th scope=\"row\">lr</th>", "0.123", "0.0015", "peak learning rate of AdamW",
                 f"--checkpoint {run_dir}/best.pt", "--lr 0.123", "long: take persistence instead."):  # fmt: skip
        assert text in html, text
    order = [html.index(f'id="{part}"') for part in ("outcome", "cases", "skill", "certificate", "training",
                                                     "constants", "notes", "next")]  # fmt: skip
    assert order == sorted(order)


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures stay white, since drawing takes longest."""
    monkeypatch.setattr(make_report.report, "picture", lambda figure: "data:,")
    monkeypatch.setattr(make_report, "forecast_panels", lambda *_, **__: None)


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("log.jsonl", "Missing: log.jsonl"),
        ("scores.json", "No test scores yet; the validation at epoch 10 finds skill -0.50 to +0.25"),
        ("best.pt", "Missing: best.pt"),
        ("forecast.zarr", "Missing: forecast.zarr"),
        ("store.zarr", "or a truth that fits it"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_there(run_dir, tmp_path, lost, words, undrawn):
    for path in run_dir.iterdir():
        if lost != path.name:
            (tmp_path / path.name).symlink_to(path)
    make_report.main(make_report.Config(str(tmp_path), zarr=str(tmp_path / "store.zarr")))
    page = tmp_path / "report.html"
    page = page.read_text() if not page.is_symlink() else pytest.fail("wrote through a link")
    assert words in page and len(Outline(page).all("section")) == 7
    assert ("Best: skill" in page) == (lost not in ("forecast.zarr", "store.zarr"))


def test_a_broken_file_or_a_truth_that_does_not_fit_is_said_too(run_dir, tmp_path, capsys, undrawn):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "scores.json").write_text('{"scores": ')  # cut off
    (tmp_path / "scores.json").write_text('{"scores": []}')
    (tmp_path / "log.jsonl").write_text("no json\nno json\n")
    (tmp_path / "best.pt").write_bytes(b"no checkpoint")
    make_report.main(make_report.Config(str(tmp_path)))
    assert capsys.readouterr().out.count("note: ") == 5  # and there is no forecast
    assert "which verify_forecast.py did not write" in (tmp_path / "report.html").read_text()
    hours = [hour(n) for n in range(50, 58)]
    other = write_store(tmp_path / "other.zarr", weather, hours, ["T2M"])
    larger = write_store(tmp_path / "larger.zarr", lambda n, t: 1.0, hours, NAMES, small_grid(20, 16))
    for path, words in ((other, "got no variable"), (larger, "20")):
        make_report.main(make_report.Config(str(run_dir), str(tmp_path / "r.html"), str(path)))
        assert "note: cases: " in capsys.readouterr().out
        page = (tmp_path / "r.html").read_text()
        assert "or a truth that fits it" in page and words in page and "Skill against persistence" in page


@pytest.mark.parametrize(("given", "words"), [("none", "which does not exist"), (".", "which has none of log.jsonl")])
def test_a_folder_that_is_not_that_of_a_run_is_refused_and_nothing_written(command, tmp_path, given, words):
    code, _, err = command(make_report, "--run_dir", tmp_path / given, "--out", tmp_path / "out" / "r.html")
    assert code == 2 and err.startswith("error: run_dir: got") and words in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# ---- the outcome, the certificate and the cases


def scores_of(near: list, far: list, passed: list, **more) -> dict:
    table = {f"V{i}": {"1": {"best_skill": a}, "24": {"best_skill": b}}
             for i, (a, b) in enumerate(zip(near, far, strict=True))}  # fmt: skip
    lines = [{"name": f"{i}, V", "value": 1.0, "interval": None, "bar": "", "pass": p} for i, p in enumerate(passed)]
    return {"scores": table, "certificate": lines, "init_times": ["a", "b"], "outside_test": []} | more


@pytest.mark.parametrize(
    ("near", "far", "words"),
    [
        ([0.3, 0.1, 0.2], [0.1, -0.1, 0.1],
         "The forecast beats the best baseline in 3 of 3 variables at 1 h, and in 2 of 3 variables at 24 h (not V1)."),
        ([0.3, -0.1, -0.1], [-0.1, 0.0, None],
         "The forecast beats the best baseline in 1 of 3 variables at 1 h (V0), and in none of 2 variables at 24 h."),
        ([None], [None], "No baseline was scored."),
    ],
)  # fmt: skip
def test_the_outcome_is_that_of_the_numbers(near, far, words):
    assert outcome(scores_of(near, far, []), []) == words


def test_the_facts_name_times_outside_test_the_boundary_and_weak_variables():
    scores = scores_of([0.1], [0.1], ["PASS", "FAIL", "PASS"], outside_test=["a"], boundary="b.zarr (perfect)")
    assert facts(scores, []) == ["Certificate: 1 FAIL, 2 PASS.", "1 of 2 initial times are not test data.",
                                 "Boundary data: b.zarr (perfect)."]  # fmt: skip
    assert facts(None, [record(5)]) == [f"Validation does not show skill in {EVIL}: take persistence instead."]
    assert outcome(None, []) == "This run has no scores and no log yet."


def test_failed_lines_come_first():
    lines = [{"name": p, "value": v, "interval": None, "bar": "< 2", "pass": p} for v, p in enumerate(RESULTS[::-1])]
    rows = certificate_rows({"certificate": lines, "certificate_notes": {"FAIL": "a note"}})
    assert [r[0] for r in rows] == list(RESULTS) and rows[0] == ["FAIL", "FAIL", "", "3", "", "< 2", "a note"]


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"scores": {"T2M": 3}, "certificate": [], "init_times": []}',
     '{"scores": {"T2M": {"soon": {}}}, "certificate": [], "init_times": []}',
     '{"scores": {}, "certificate": [{"name": "a"}], "init_times": []}',
     '{"scores": {}, "certificate": [{"name": "", "value": 1, "bar": "", "pass": true}], "init_times": []}'],
)  # fmt: skip
def test_a_file_that_is_not_scores_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ValueError, match=r"scores: got .*did not write, expected its scores. Fix: "):
        read_scores(tmp_path / "s.json", "scores")


def test_skill_of_a_case_by_hand():
    truth = {hour(n): np.full((2, 2), 280.0 + 4 * n) for n in range(4)}
    read = lambda time, name: truth.get(time)  # noqa: E731
    now, leads = truth[hour(0)], np.arange(4) * np.timedelta64(1, "h").astype("timedelta64[ns]")
    for share, skill in ((1.0, 1.0), (0.0, 0.0), (0.5, 0.5)):  # the share of the change that is forecast
        fields = np.stack([now + share * (truth[hour(n)] - now) for n in range(4)])
        forecast = xr.Dataset({"T2M": (("init_time", "lead_time", "y", "x"), fields[None])},
                              {"init_time": [hour(0)], "lead_time": leads})  # fmt: skip
        assert case_skill(forecast, read, ["T2M"], 0) == pytest.approx(skill)
    assert case_skill(forecast, lambda *_: None, ["T2M"], 0) is None
    assert case_skill(forecast, lambda *_: now, ["T2M"], 0) is None  # persistence is perfect


def test_best_and_worst():
    assert choose_cases([0.1, None, 0.9, 0.5, -0.2, 0.3]) == {"best": 2, "worst": 4}
    assert choose_cases([0.1, None]) == {"only": 0} and choose_cases([None, None]) == {}


# ---- in a browser

CHROMIUM = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")), None)
FRAMES = ((1280, "light"), (390, "light"), (390, "dark"))  # a screen and a telephone
LOOK = """<script>onload = () => { document.body.textContent = JSON.stringify(
  [...document.querySelectorAll("iframe")].map((frame) => { const page = frame.contentDocument;
    page.querySelectorAll("details").forEach((part) => { part.open = true; });
    return { width: page.documentElement.scrollWidth, evil: page.evil ?? null,
      tables: [...page.querySelectorAll(".wide")].every((e) => e.scrollWidth <= e.clientWidth + 1),
      images: [...page.images].every((i) => i.complete && i.naturalWidth > 0),
      paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor }; })); }</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no browser installed: apt-get install chromium")
def test_it_opens_without_errors_or_sideways_scrolling_on_any_screen(html, tmp_path):
    frames = [f'<iframe width="{width}" style="color-scheme: {scheme}" srcdoc="{escape(html)}"></iframe>'
              for width, scheme in FRAMES]  # fmt: skip
    (tmp_path / "all.html").write_text("<!doctype html><body>" + "".join(frames) + LOOK)
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
               f"--user-data-dir={tmp_path}/profile", "--dump-dom")  # fmt: skip
    done = subprocess.run([CHROMIUM, *options, (tmp_path / "all.html").as_uri()], capture_output=True, text=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = json.loads(done.stdout.partition("<body>")[2].partition("</body>")[0])
    for page, (width, scheme) in zip(found, FRAMES, strict=True):
        assert page["width"] <= width and page["images"] and page["evil"] is None and (page["tables"] or width > 390)
        assert page["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]

"""The morning report: what it says, that it needs nothing else, and that it opens in a browser on any screen."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

import infer_iterative
import make_report
import verify_forecast
from plotting import report
from plotting.report import TEMPLATE, case_skill, choose_cases, clipped_rows, criteria, encode, frames, verdict
from tests.browser import Page, find_browser
from tests.conftest import hour, small_grid, weather, write_store
from tests.model_files import write_checkpoint

EVIL = "<img src=x onerror=document.evil=1>$a" + 12 * "long"  # a variable's name, wider than a telephone
NAMES = ["REFC", EVIL]
SCRIPTED = "</script><script>document.evil=1</script>\x00x"


def record(epoch: int) -> dict:
    return {
        "epoch": epoch, "step": 10 * epoch, "samples": 600, "loss": 0.5, "terms": {"l1": 0.4}, "lr": 1e-3,
        "grad_norm": 0.7, "skill": {"REFC": 0.25, EVIL: -0.5}, "score": 0.3,
        "samples_per_s": 10.0, "data_wait": 0.05, "peak_memory_bytes": 8.4e8,
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
    scores["baselines"].append(SCRIPTED)
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "log.jsonl").write_text("".join(json.dumps(record(e)) + "\n" for e in (5, 10)))
    return folder


@pytest.fixture(scope="module")
def html(run_dir) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_report, "MAP_LEADS", (1,))  # maps take long to draw
        make_report.main(make_report.Config(str(run_dir)))
    return (run_dir / "report.html").read_text()


class Outline(HTMLParser):
    """The elements of a page in order: (name, attributes); `scripts` holds the text of each script."""

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.scripts, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self.open.append(name)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
            self.open.append("text")

    def all(self, name: str) -> list[dict]:
        return [attributes for n, attributes in self.elements if n == name]


def test_nothing_of_a_store_becomes_markup(html):
    outline = Outline(html)
    script = TEMPLATE.read_text().split("<script>")[1].split("</script>")[0]
    assert [s for s in outline.scripts if s.strip()] == [script]
    assert not [a for _, attributes in outline.elements for a in attributes if a.startswith("on")]
    assert all(a["src"].startswith("data:image/") for a in outline.all("img"))
    assert "&lt;img src=x onerror" in html and "&lt;/script&gt;&lt;script&gt;" in html
    assert "\N{REPLACEMENT CHARACTER}x" in html and "\x00" not in html and html.encode()


def test_the_page_has_a_language_headings_captions_and_alternative_texts(html):
    outline = Outline(html)
    assert outline.all("html")[0]["lang"] == "en" and len(outline.all("h1")) == len(outline.all("main")) == 1
    assert all(a["alt"].strip() for a in outline.all("img"))
    assert len(outline.all("table")) == len(outline.all("caption")) >= 6
    assert all(a["scope"] in ("row", "col") for a in outline.all("th"))
    ids = [a["id"] for _, a in outline.elements if "id" in a]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for a in outline.all("a")} <= set(ids)


def test_every_part_says_what_its_file_holds(html, run_dir):
    for text in ("Certificate", "Skill against persistence", "Skill against the same hour yesterday",
                 "Skill against climatology by hour of day", "Skill against the best baseline", "Best case",
                 "Median case", "Worst case", "epoch 10", "0.84 GB", "1 min", "<th scope=\"row\">lr</th>", "0.123",
                 "0.0015", "peak learning rate of AdamW", f"--checkpoint {run_dir}/best.pt", "--lr 0.123",
                 "judge those from 100 or more"):  # fmt: skip
        assert text in html, text
    scores = json.loads((run_dir / "scores.json").read_text())
    assert html.count("FAIL") + html.count("n/a</td>") + html.count("PASS") >= len(criteria(scores))
    assert f"{scores['scores']['REFC']['1']['skill']:+.2f}" in html
    assert "long: validation skill not shown; treat its forecast as persistence." in html


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("log.jsonl", "Missing: log.jsonl"),
        ("scores.json", "Not scored"),
        ("best.pt", "Missing: best.pt"),
        ("forecast.zarr", "Missing: forecast.zarr"),
        ("store.zarr", "or a truth that fits it"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_there(run_dir, tmp_path, lost, words, monkeypatch):
    monkeypatch.setattr(make_report, "MAPPED", ())
    monkeypatch.setattr(make_report, "forecast_panels", lambda *_: Figure())
    for path in run_dir.iterdir():
        if lost != path.name:
            (tmp_path / path.name).symlink_to(path)
    make_report.main(make_report.Config(str(tmp_path), zarr=str(tmp_path / "store.zarr")))
    page = tmp_path / "report.html"
    page = page.read_text() if not page.is_symlink() else pytest.fail("wrote through a link")
    assert words in page and len(Outline(page).all("section")) == 7
    assert ("Best case" in page) == (lost not in ("forecast.zarr", "store.zarr"))


def test_a_broken_file_or_a_truth_that_does_not_fit_is_said_too(run_dir, tmp_path, capsys):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "scores.json").write_text('{"scores": ')  # cut off
    (tmp_path / "scores.json").write_text('{"scores": []}')
    (tmp_path / "log.jsonl").write_text("no json\nno json\n")
    (tmp_path / "best.pt").write_bytes(b"no checkpoint")
    make_report.main(make_report.Config(str(tmp_path)))
    assert capsys.readouterr().out.count("note: ") == 5  # and there is no forecast
    assert "is not what verify_forecast.py writes" in (tmp_path / "report.html").read_text()
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


# ---- the verdict, the certificate and the cases


def scores_of(near: list, far: list, passed: list, **more) -> dict:
    table = {f"V{i}": {"1": {"skill": a, "best_skill": a and a - 0.1}, "24": {"skill": b}}
             for i, (a, b) in enumerate(zip(near, far, strict=True))}  # fmt: skip
    lines = [{"name": "x, V", "value": 1.0, "bar": "", "pass": p} for p in passed]
    return {"scores": table, "certificate": lines, "init_times": ["a", "b"], "outside_test": []} | more


@pytest.mark.parametrize(
    ("near", "far", "passed", "word", "words"),
    [
        ([0.3, 0.05], [0.1, -0.1], [True, None], "Better than persistence at 1 h; certificate not passed",
         "beats persistence in 2 of 2 variables (skill +0.05 to +0.30) and the best baseline in 1. "
         "At 24 h it beats persistence in 1 of 2"),
        ([0.3, -0.1], [0.1, 0.1], [True], "Partly better than persistence at 1 h; certificate passed", "1 of 1 lines."),
        ([-0.3, -0.1], [0.1, 0.1], [None], "Not better than persistence", "0 of 1 lines, 1 n/a"),
        ([None], [None], [False], "Nothing to compare with", "At 1 h nothing to compare with"),
    ],
)  # fmt: skip
def test_the_verdict_is_that_of_the_numbers(near, far, passed, word, words):
    verdict_word, sentence = verdict(scores_of(near, far, passed), [])
    assert verdict_word.startswith(word) and words in sentence


def test_the_verdict_names_times_outside_test_the_boundary_and_without_scores_the_validation():
    scores = scores_of([0.1], [0.1], [True], outside_test=["a"])
    sentence = verdict(scores, [], "b.zarr (perfect)")[1]
    assert "1 of the 2 initial times lie outside" in sentence and "edge was given by b.zarr (perfect)" in sentence
    assert "validation at epoch 5 finds skill -0.50 to +0.25" in verdict(None, [record(5)])[1]
    assert verdict(None, [])[0] == "Not scored"


@pytest.mark.parametrize(
    ("passed", "mark"), [([True, False, None], "✗ FAIL"), ([True, None], "– n/a"), ([True, True], "✓ PASS")]
)
def test_a_criterion_passes_only_if_all_its_lines_do(passed, mark):
    assert criteria(scores_of([], [], passed)) == [["x", mark, "", f"{passed.count(True)} of {len(passed)}"]]


def forecast_of(fields: np.ndarray) -> xr.Dataset:
    """One forecast of T2M; fields (lead, y, x), hourly."""
    leads = np.arange(len(fields)) * np.timedelta64(1, "h").astype("timedelta64[ns]")
    return xr.Dataset({"T2M": (("init_time", "lead_time", "y", "x"), fields[None])},
                      {"init_time": [hour(0)], "lead_time": leads})  # fmt: skip


def test_skill_of_a_case_by_hand():
    truth = {hour(n): np.full((2, 2), 280.0 + 4 * n) for n in range(4)}
    read = lambda time, name: truth.get(time)  # noqa: E731
    now = truth[hour(0)]
    for share, skill in ((1.0, 1.0), (0.0, 0.0), (0.5, 0.5)):  # the share of the change that is forecast
        fields = np.stack([now + share * (truth[hour(n)] - now) for n in range(4)])
        assert case_skill(forecast_of(fields), read, ["T2M"], 0) == pytest.approx(skill)
    assert case_skill(forecast_of(fields), lambda *_: None, ["T2M"], 0) is None
    assert case_skill(forecast_of(fields), lambda *_: now, ["T2M"], 0) is None  # persistence is perfect


def test_best_median_and_worst():
    assert choose_cases([0.1, None, 0.9, 0.5, -0.2, 0.3]) == {"best": 2, "median": 5, "worst": 4}
    assert choose_cases([0.1, 0.2]) == {"best": 1, "worst": 0} and choose_cases([0.1, None]) == {"only": 0}
    assert choose_cases([None, None]) == {}


def test_the_largest_clipped_share_is_found():
    forecast = forecast_of(np.zeros((4, 2, 2))).assign_attrs(variables=["T2M"])
    shares = np.array([[0.0, 0.01, 0.2, 0.03]])
    forecast["T2M_clipped_share"] = (("init_time", "lead_time"), shares)
    assert clipped_rows(forecast) == [["T2M", "8.000%", "20.000%", "+2 h from 2024-05-20 00:00"]]


def test_frames_show_the_field_of_their_time_with_north_up(monkeypatch):
    field = np.array([[0.0, 0.0], [1.0, np.nan]])  # rows from south to north
    grey = colormaps["gray"].with_extremes(bad="red")
    for up, top in ((True, [[255] * 3, [255, 0, 0]]), (False, [[0] * 3] * 2)):
        data = base64.b64decode(encode(field, grey, Normalize(0, 1), up).partition(",")[2])
        assert np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[0].tolist() == top
    monkeypatch.setattr(report, "FRAMES", 2)
    monkeypatch.setattr(report, "WIDEST", 2)
    asked = []
    drawn = frames(forecast_of(np.zeros((4, 3, 3))), lambda time, name: asked.append(time), "T2M", 0)
    assert asked == [hour(0), hour(2)] and drawn["labels"][1] == "+2 h, valid 2024-05-20 02:00 UTC"
    assert drawn["name"] == "T2M, K; one cell in 2" and [len(v) for v in drawn["sides"].values()] == [2, 2]


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    path = find_browser()
    if path is None:
        pytest.skip("no browser installed: apt-get install chromium")
    with Page(path) as page:
        yield page


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_it_opens_without_errors_network_or_sideways_scrolling(html, run_dir, browser, width, dark):
    browser.problems.clear(), browser.requests.clear()
    browser.open(run_dir / "report.html", width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") <= width
    inner = "[...document.querySelectorAll('.wide')].every((e) => e.scrollWidth <= e.clientWidth + 1)"
    assert width > 390 or browser.value(inner)
    assert browser.value("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert browser.value("document.evil") is None and browser.problems == []
    assert {r.split(":")[0] for r in browser.requests} <= {"file", "data"}
    assert len([r for r in browser.requests if r.startswith("file")]) == 1
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def test_the_frames_play_and_the_slider_moves_them(html, run_dir, browser):
    browser.open(run_dir / "report.html", 390)
    shown = "[...document.querySelector('.player').querySelectorAll('.frame')].map((f) => f.hidden ? 0 : 1).join('')"
    assert browser.value(shown) == "10001000"
    browser.value(
        "{const s = document.querySelector('.player input'); s.value = 2; s.dispatchEvent(new Event('input'))}"
    )
    assert browser.value(shown) == "00100010"
    assert browser.value("document.querySelector('.player output').textContent").startswith("+2 h")
    browser.value("document.querySelector('.player button').click()")
    moved = f"new Promise((done) => setTimeout(() => done({shown}), 500))"
    assert browser.value(moved) == "00010001"
    browser.value("document.querySelector('.player button').click()")
    assert browser.value(moved) == "00010001" and browser.problems == []


def test_a_page_that_calls_elsewhere_would_be_noticed(html, run_dir, tmp_path, browser):
    """The checks above can fail: the same page with a foreign image and an error in a script."""
    shutil.copy(run_dir / "report.html", tmp_path / "r.html")
    page = html.replace("</main>", '<img src="https://example.org/a.png" alt="a"><p style="width:2000px">x</p></main>')
    (tmp_path / "r.html").write_text(page.replace("</main>", "<script>document.evil = 1</script></main>"))
    browser.problems.clear()
    browser.open(tmp_path / "r.html", 390)
    assert browser.value("document.documentElement.scrollWidth") > 390
    assert len(browser.problems) >= 2 and browser.value("document.evil") is None  # refused by the page's own policy

"""The morning report: what it says, that it needs nothing else, and that it opens in a browser on any screen."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import infer_iterative
import make_report
import verify_forecast
from plotting.report import SCRIPT
from plotting.report_cases import case_skill, choose_cases, clipped_rows, encode, player
from plotting.report_charts import line_chart
from plotting.report_html import tag
from plotting.report_verdict import verdict
from tests.browser import Page, find_browser
from tests.conftest import hour, small_grid, weather, write_store
from tests.model_files import write_checkpoint

EVIL = "<img src=x onerror=document.evil=1>$a" + 12 * "long"  # a variable's name, wider than a telephone
NAMES = ["REFC", EVIL]
SCRIPTED = "</script><script>document.evil=1</script>"


def record(epoch: int) -> dict:
    return {
        "epoch": epoch, "step": 10 * epoch, "samples": 600, "loss": 0.5, "terms": {"l1": 0.4}, "lr": 1e-3,
        "grad_norm": 0.7, "skill": {"REFC": 0.25, EVIL: 0.5}, "rollout_skill": {"REFC": -0.1}, "rollout_hours": 6.0,
        "score": 0.3, "alarm": "", "samples_per_s": 10.0, "data_wait": 0.05, "peak_memory_bytes": 8.4e8,
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
    assert [s for s in outline.scripts if s.strip()] == [SCRIPT]
    assert not [a for _, attributes in outline.elements for a in attributes if a.startswith("on")]
    assert all(a["src"].startswith("data:image/") for a in outline.all("img"))
    assert "&lt;img src=x onerror" in html and "&lt;/script&gt;&lt;script&gt;" in html
    assert tag("p", "a & <b>\x00\ud800", title='"') == '<p title="&quot;">a &amp; &lt;b&gt;\ufffd\ufffd</p>'


def test_the_page_has_a_language_headings_captions_and_alternative_texts(html):
    outline = Outline(html)
    assert outline.all("html")[0]["lang"] == "en" and len(outline.all("h1")) == len(outline.all("main")) == 1
    assert all(a["alt"].strip() for a in outline.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in outline.all("svg"))
    assert len(outline.all("table")) == len(outline.all("caption")) >= 6
    assert all(a["scope"] in ("row", "col") for a in outline.all("th"))
    ids = [a["id"] for _, a in outline.elements if "id" in a]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for a in outline.all("a")} <= set(ids)


def test_every_part_tells_what_its_file_holds(html, run_dir):
    for text in ("Certificate", "Skill against persistence", "Skill against the same hour yesterday", "Best case",
                 "Median case", "Worst case", "Training curves", "0.84 GB", "0:01:00", "<th scope=\"row\">lr</th>",
                 "0.123", "0.0015", "peak learning rate of AdamW", f"--checkpoint {run_dir}/best.pt"):  # fmt: skip
        assert text in html, text
    scores = json.loads((run_dir / "scores.json").read_text())
    passed = sum(line["pass"] is True for line in scores["certificate"])
    assert f"{passed} of {len(scores['certificate'])} lines passed" in html
    assert f"{scores['scores']['REFC']['1']['skill']:+.2f}" in html


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("log.jsonl", "Missing: log.jsonl"),
        ("scores.json", "Not scored"),
        ("best.pt", "Missing: best.pt"),
        ("forecast.zarr", "Missing: forecast.zarr"),
        ("store.zarr", "Missing: the store with the truth"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_there(run_dir, tmp_path, lost, told, monkeypatch):
    monkeypatch.setattr(make_report, "cases_markup", lambda *_: "the cases")
    monkeypatch.setattr(make_report, "all_maps", lambda *_: "")
    for path in run_dir.iterdir():
        if lost != path.name:
            (tmp_path / path.name).symlink_to(path)
    cfg = make_report.Config(str(tmp_path), zarr=str(tmp_path / "store.zarr"))
    make_report.main(cfg)
    page = tmp_path / "report.html"
    page = page.read_text() if not page.is_symlink() else pytest.fail("wrote through a link")
    assert told in page
    assert len(Outline(page).all("section")) == 8
    assert ("the cases" in page) == (lost not in ("forecast.zarr", "store.zarr"))


def test_a_broken_file_is_said_too(run_dir, tmp_path, capsys):
    (tmp_path / "scores.json").write_text('{"scores": []}')
    (tmp_path / "log.jsonl").write_text("no json")
    (tmp_path / "best.pt").write_bytes(b"no checkpoint")
    assert make_report.main(make_report.Config(str(tmp_path))) == 0
    assert capsys.readouterr().out.count("note: ") == 4  # and there is no forecast
    assert "is not what verify_forecast.py writes" in (tmp_path / "report.html").read_text()


def test_a_truth_of_another_kind_or_grid_is_said_too(run_dir, tmp_path, capsys):
    hours = [hour(n) for n in range(50, 58)]
    other = write_store(tmp_path / "other.zarr", weather, hours, ["T2M"])
    larger = write_store(tmp_path / "larger.zarr", lambda n, t: 1.0, hours, NAMES, small_grid(20, 16))
    for path, told in ((other, "got no variable"), (larger, "20")):
        cfg = make_report.Config(str(run_dir), str(tmp_path / "r.html"), str(path))
        assert make_report.main(cfg) == 0
        assert "note: the cases, their maps and frames are left out for want of a truth" in capsys.readouterr().out
        page = (tmp_path / "r.html").read_text()
        assert (
            "Missing: a truth that fits the forecast" in page and told in page and "Skill against persistence" in page
        )


def test_a_folder_that_is_not_there_is_refused(command, tmp_path):
    code, _, err = command(make_report, "--run_dir", tmp_path / "none")
    assert code == 2 and err.startswith("error: run_dir: got") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--case_hours", 0), "case_hours: got 0.0"),
        (("--case_hours", "nan"), "case_hours: got nan"),
        (("--megabytes", -1), "megabytes: got -1.0"),
        (("--variables", "T2N"), "got no variable 'T2N', expected one of the forecast's"),
        (("--run_dir", "EMPTY"), "which has none of log.jsonl"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_written(run_dir, command, tmp_path, given, told):
    (tmp_path / "empty").mkdir()
    given = [tmp_path / "empty" if part == "EMPTY" else part for part in given]
    folder = () if given[0] == "--run_dir" else ("--run_dir", run_dir)
    code, _, err = command(make_report, *folder, "--out", tmp_path / "out" / "r.html", *given)
    assert code == 2 and told in err and " expected " in err and "Fix: " in err
    assert len([line for line in err.splitlines() if line]) == 1 and not (tmp_path / "out").exists()


def test_frames_are_left_out_until_the_report_is_small_enough(run_dir, tmp_path, html, capsys, monkeypatch):
    monkeypatch.setattr(make_report, "all_maps", lambda *_: "")
    make_report.main(make_report.Config(str(run_dir), str(tmp_path / "r.html")))
    limit = (tmp_path / "r.html").stat().st_size / 1e6 - 0.002
    make_report.main(make_report.Config(str(run_dir), str(tmp_path / "r.html"), megabytes=limit))
    assert "every 1. lead" in capsys.readouterr().out
    assert (tmp_path / "r.html").read_text().count('class="frame"') == 2 * 3 * 2  # +0 and +2 h, two sides, three cases
    assert html.count('class="frame"') == 4 * 3 * 2


# ---- the verdict and the cases


def scores_of(near: list, far: list, passed: list, **more) -> dict:
    table = {
        f"V{i}": {"1": {"skill": a, "skill_interval": [a - 0.1, a + 0.1] if a else None}, "24": {"skill": b}}
        for i, (a, b) in enumerate(zip(near, far, strict=True))
    }
    lines = [{"name": "x, V", "value": 1.0, "bar": "", "pass": p} for p in passed]
    return {"scores": table, "certificate": lines, "init_times": ["a", "b"], "outside_test": []} | more


@pytest.mark.parametrize(
    ("near", "far", "passed", "word", "told"),
    [
        ([0.3, 0.05], [0.1, -0.1], [True, None], "Better than persistence at 1 h; certificate not passed",
         "beats persistence in 2 of 2 variables (skill +0.05 to +0.30, the whole 90 % interval above zero in 1); "
         "at 24 h it beats persistence in 1 of 2"),
        ([0.3, -0.1], [0.1, 0.1], [True], "Partly better than persistence at 1 h; certificate passed", "1 of 1 lines."),
        ([-0.3, -0.1], [0.1, 0.1], [None], "Not better than persistence", "0 of 1 lines, 1 not judged"),
        ([None], [None], [False], "Nothing to compare with", "At 1 h nothing to compare with"),
    ],
)  # fmt: skip
def test_the_verdict_is_that_of_the_numbers(near, far, passed, word, told):
    found = verdict(scores_of(near, far, passed), [])
    assert found[0].startswith(word) and told in found[1]


def test_the_verdict_tells_an_alarm_times_outside_test_and_a_boundary_from_the_truth():
    assert "1 of the 2 initial times lie outside" in verdict(scores_of([0.1], [0.1], [True], outside_test=["a"]), [])[1]
    told = verdict(scores_of([0.1], [0.1], [True]), [record(5) | {"alarm": "ALARM: x"}], "b.zarr (perfect)")[1]
    assert "U10 V10 are held (persistence)" in verdict(scores_of([0.1], [0.1], [True]), [], "", "U10 V10")[1]
    assert told.startswith("ALARM: x. At 1 h") and "its edge was given by b.zarr (perfect)" in told
    assert "epoch 5 the validation finds skill +0.25 to +0.50" in verdict(None, [record(5)])[1]


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
        assert case_skill(forecast_of(fields), read, ["T2M"], 0, 6.0) == pytest.approx(skill)
    assert case_skill(forecast_of(fields), lambda *_: None, ["T2M"], 0, 6.0) is None
    assert case_skill(forecast_of(fields), lambda *_: now, ["T2M"], 0, 6.0) is None  # persistence is perfect


def test_best_median_and_worst():
    assert choose_cases([0.1, None, 0.9, 0.5, -0.2, 0.3]) == {"best": 2, "median": 5, "worst": 4}
    assert choose_cases([0.1, 0.2]) == {"best": 1, "worst": 0} and choose_cases([0.1, None]) == {"only": 0}
    assert choose_cases([None, None]) == {}


def test_the_largest_clipped_share_is_found():
    forecast = forecast_of(np.zeros((4, 2, 2))).assign_attrs(variables=["T2M"])
    shares = np.array([[0.0, 0.01, 0.2, 0.03]])
    forecast["T2M_clipped_share"] = (("init_time", "lead_time"), shares)
    assert clipped_rows(forecast) == [["T2M", "8.000%", "20.000%", "+2 h from 2024-05-20 00:00"]]
    assert clipped_rows(None) == []


def test_frames_show_the_field_of_their_time_with_north_up():
    import io

    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from PIL import Image

    field = np.array([[0.0, 0.0], [1.0, np.nan]])  # rows from south to north
    grey = colormaps["gray"].with_extremes(bad="red")
    for up, top in ((True, [[255] * 3, [255, 0, 0]]), (False, [[0] * 3] * 2)):
        pixels = np.asarray(Image.open(io.BytesIO(encode(field, grey, Normalize(0, 1), up))).convert("RGB"))
        assert pixels[0].tolist() == top
    asked = []
    drawn = player(forecast_of(np.zeros((4, 3, 3))), lambda time, name: asked.append(time), "T2M", 0, 3)
    assert asked == [hour(0), hour(3)] and "+3 h, valid 2024-05-20 03:00 UTC" in drawn


def test_a_chart_leaves_out_what_is_no_number_and_puts_the_rest_in_its_place():
    chart = line_chart("t", {"a": [(0, 0.0), (5, None), (10, 2.0)], "b": [(0, float("nan"))]}, "x", "y")
    points = chart.split('d="M')[1].split('"')[0].split("L")
    (x0, y0), (x1, y1) = (map(float, p.split()) for p in points)
    assert (x0, x1) == (56.0, 450.0) and y0 == 230.0 and 12 < y1 < 30 and chart.count("<li>") == 1
    assert "nothing to draw" in line_chart("t", {"b": []}, "x", "y")


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

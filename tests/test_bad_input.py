"""A user's mistake ends in one line with got, expected and the fix, exit code 2, and nothing written or changed."""

import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
import zarr

import infer_iterative as inference
import train_deterministic as training
import verify_forecast as verification
from tests.conftest import TINY, hour, small_grid, weather, write_store
from tests.model_files import train
from training.constants import RANGES

HOURS = 40  # train 0 to 27, validation 30 to 33, test 36 to 39
NAMES = ("T2M", "U10", "CIN")
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # Python shows none of these


def contents(folder: Path) -> dict[str, bytes]:
    """Every path under a folder, files with their bytes."""
    return {str(p): p.read_bytes() if p.is_file() else b"folder" for p in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A sound store, a finished run, its forecast and a file of scores that no mistake may touch."""
    folder = tmp_path_factory.mktemp("good")
    store = write_store(folder / "store.zarr", weather, [hour(n) for n in range(HOURS)], NAMES)
    run, forecast, scores = folder / "run", folder / "forecast.zarr", folder / "scores.json"
    assert train(store, run) == 0
    inference.main(inference.Config(str(run / "best.pt"), str(store), [str(hour(36))], 2.0, out=str(forecast)))
    scores.write_text('{"older": "scores"}\n')
    return SimpleNamespace(folder=folder, store=store, run=run, best=run / "best.pt", forecast=forecast, scores=scores)


@pytest.fixture
def refused(command, good, tmp_path):
    """Run a command that must refuse its input; the line it prints, which holds each of `words`."""

    def check(module, *arguments, words=(), unsaid=None) -> str:
        before = contents(good.folder) | contents(tmp_path)
        with warnings.catch_warnings(record=True) as seen:
            code, out, err = command(module, *arguments)
        assert unsaid is None or unsaid not in out
        lines = [line for line in err.splitlines() if line.strip()]
        assert code == 2, err
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        for part in (*words, " expect", "Fix: "):
            assert part in lines[0], f"{part!r} is not in {lines[0]!r}"
        assert not [w for w in seen if not issubclass(w.category, HIDDEN)], "a warning beside the line"
        assert contents(good.folder) | contents(tmp_path) == before, "something was written or changed"
        return lines[0]

    return check


@pytest.fixture
def scripts(good, tmp_path):
    """The three commands with sound arguments; an argument given again replaces the sound one."""

    def arguments(module, *changes) -> list:
        sound = {
            training: {"--zarr": good.store, "--run_dir": tmp_path / "run", "--epochs": 1,
                       **dict(zip(TINY[::2], TINY[1::2], strict=True))},
            inference: {"--checkpoint": good.best, "--zarr": good.store, "--init_time": hour(36), "--hours": 2,
                        "--out": good.forecast},
            verification: {"--forecast": good.forecast, "--zarr": good.store, "--out": good.scores},
        }[module]  # fmt: skip
        for name, value in zip(changes[::2], changes[1::2], strict=True):
            sound[name] = value
        flat = [[name, *value] if isinstance(value, tuple) else [name, value] for name, value in sound.items()]
        return [module, *(part for pair in flat for part in pair)]

    return arguments


# ---- stores ---------------------------------------------------------------------------------------


def with_time(path: Path, values, **attributes) -> Path:
    """A store whose time coordinate holds these values and attributes, as another tool might write it."""
    fields = np.stack([weather("T2M", hour(n)) for n in range(len(values))])
    time = ("time", np.asarray(values), attributes)
    xr.Dataset({"T2M": (("time", "y", "x"), fields)}, {"time": time}).to_zarr(path, zarr_format=2, consolidated=True)
    return path


@pytest.fixture
def edited(good, tmp_path):
    """A copy of the sound store of which one array was edited afterwards."""

    def make(name: str, edit) -> Path:
        path = shutil.copytree(good.store, tmp_path / "bad.zarr")
        array = zarr.open_group(path, mode="r+")[name]
        array[:] = edit(array[:])
        return path

    return make


def put(*places):
    """An edit that writes values into (hour, y, x) places."""

    def edit(fields):
        for place, value in places:
            fields[place] = value
        return fields

    return edit


def folder_with_notes(path: Path) -> Path:
    path.mkdir()
    (path / "notes.txt").write_text("no weather here\n")
    return path


def wide_weather(name: str, time: np.datetime64) -> np.ndarray:
    return weather(name, time, (12, 18))


def text_file(path: Path) -> Path:
    path.write_text("no weather here\n")
    return path


def without_time(path: Path) -> Path:
    xr.Dataset({"T2M": (("hour", "y", "x"), np.zeros((3, 4, 5)))}).to_zarr(path, zarr_format=2, consolidated=True)
    return path


UNREADABLE = {  # name: (maker, words)
    "missing": (lambda p: p, ["no such store"]),
    "folder": (folder_with_notes, ["not a zarr store"]),
    "file": (text_file, ["not a zarr store"]),
    "no calendar": (lambda p: with_time(p, range(40), units="moons since noon"), ["cannot be decoded", "moons since"]),
    "plain integers": (lambda p: with_time(p, range(40)), ["cannot be decoded", "int64", "no units"]),
    "no time": (without_time, ["no time coordinate", "T2M"]),
    "an hour twice": (lambda p: with_time(p, [0, 1, 2, 2, 3, 4], units="hours since 2024-05-20"),
                      ["2024-05-20T02:00", "2 times"]),
    "no hours": (lambda p: write_store(p, weather, []), []),
}  # fmt: skip


@pytest.mark.parametrize("module", [training, inference, verification], ids=["train", "infer", "verify"])
@pytest.mark.parametrize("case", UNREADABLE)
def test_a_store_that_cannot_be_used(case, module, refused, scripts, tmp_path):
    maker, words = UNREADABLE[case]
    path = maker(tmp_path / "bad.zarr")
    refused(*scripts(module, "--zarr", path), words=["bad.zarr", *words])


NAN, INF = np.nan, np.inf
BAD_VALUES = {  # name: (array, edit, words)
    "nan in one hour": ("U10", put(((20, 3, 4), NAN)), ["U10", " 1 missing", "2024-05-20T20:00"]),
    "nan from some hour on": ("T2M", put((np.s_[9:, 0, 0], NAN), ((31, 1, 1), NAN)), ["T2M", "at 2024-05-20T09:00"]),
    "nan in validation": ("T2M", put(((31, 0, 0), NAN)), ["T2M", "2024-05-21T07:00"]),
    # as many in that hour as the mask has, but in another place
    "a mask that moves": ("T2M", put((np.s_[:, 0, 0], NAN), ((31, 0, 0), 290.0), ((31, 5, 5), NAN)),
                          ["T2M", "2024-05-21T07:00"]),
    "infinite value": ("U10", put(((5, 1, 1), INF)), ["U10", "infinite", "2024-05-20T05:00"]),
    "nothing but nan": ("U10", lambda a: a * NAN, ["U10", "missing (NaN) in every cell"]),
    "the same field every hour": ("U10", lambda a: a[:1] + 0 * a, ["U10", "never changes"]),
    "one number everywhere": ("T2M", lambda a: 0 * a + 273.15, ["T2M", "never changes", "273.15"]),
    "celsius": ("T2M", lambda a: a - 273.15, ["T2M", "180..340 K", "units"]),
    "positive inhibition": ("CIN", lambda a: -a, ["CIN", "-2000..0 J kg-1", "sign"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_VALUES)
def test_values_that_cannot_be_trained_on(case, refused, scripts, edited):
    name, edit, words = BAD_VALUES[case]
    refused(*scripts(training, "--zarr", edited(name, edit)), words=["bad.zarr", *words])


# ---- training -------------------------------------------------------------------------------------

TRAINING = {  # name: (changes, words)
    "a variable that is missing": (("--variables", ("T2M", "U1O")), ["'U1O'", "U10", "--variables"]),
    "a variable named twice": (("--variables", ("T2M", "t2m")), ["T2M and t2m, which name one array"]),
    "a lead between the hours": (("--lead", "7min"), ["lead: got 7 min", "--lead 1h"]),
    "a lead longer than the record": (("--lead", "900h"), []),
    "no duration": (("--lead", "soon"), ["lead", "'soon'"]),
    "no gap": (("--gap", "-3h"), ["gap", "'-3h'"]),
    "no date": (("--train_end", "nonsense"), ["train_end", "'nonsense'", "ISO"]),
    "a date outside the record": (("--val_end", "2031-01-01"), ["val_end", "2031-01-01", "2024-05-21T15:00"]),
    "no boundary store": (("--boundary", "nowhere.zarr"), ["nowhere.zarr", "no such store"]),
    "more history than hours": (("--history", 30), ["series of 32"]),
    "no validation pair": (("--train_end", "2024-05-20T20", "--val_end", "2024-05-20T22", "--gap", "2h"),
                           ["no series of 3", "validation"]),
    "no clock time": (("--until", "soon"), ["until: got 'soon'", "--until 07:00"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAINING)
def test_constants_that_cannot_train(case, refused, scripts):
    changes, words = TRAINING[case]
    refused(*scripts(training, *changes), words=words)


@pytest.mark.parametrize("name", RANGES)
def test_constants_outside_their_range(name, refused, scripts):
    (low, high), default = RANGES[name], getattr(training.Config(), name)
    kind = float if isinstance(default, tuple) else type(default)
    for value in (low - 1, 2 * high, *([NAN, INF] if kind is float else [])):
        given = (0.4, 0.3, kind(value), 0.1) if isinstance(default, tuple) else kind(value)
        refused(*scripts(training, f"--{name}", given), words=[f"{name}: got {kind(value)}"])


def test_a_run_is_not_resumed_with_another_constant(refused, scripts, good):
    again = scripts(training, "--run_dir", good.run)
    refused(*again, "--lr", 0.1, words=["last.pt", "lr: got 0.1, expected 0.0015", "--lr 0.0015 to resume"])
    refused(*again, "--variables", "T2M", words=["last.pt", "variables: got ['T2M'], expected []"])


def test_a_run_is_not_resumed_on_another_store(refused, scripts, good, tmp_path):
    times = [hour(n) for n in range(HOURS)]
    larger = write_store(tmp_path / "larger.zarr", wide_weather, times, NAMES, small_grid(12, 18))
    again = scripts(training, "--run_dir", good.run, "--zarr", larger)
    refused(*again, words=["grid", "[12, 18]", "[12, 16]"])


@pytest.mark.parametrize("module, name, value, said", [
    (training, "--epoch", 1, "--epochs"), (inference, "--hour", 1, "--hours"), (verification, "--ot", 1, "--out"),
    (training, "--epochs", "ten", "ten"), (training, "--epochs", "1.5", "1.5"), (training, "--lr", "fast", "fast"),
    (training, "--flip", "maybe", "maybe"),
])  # fmt: skip
def test_an_unknown_name_and_a_wrong_type_are_refused_by_the_parser(module, name, value, said, command, scripts, good):
    before = contents(good.folder)
    code, out, err = command(*scripts(module, name, value))
    assert code == 2 and name in out + err and said in out + err
    assert contents(good.folder) == before


# ---- inference ------------------------------------------------------------------------------------

INFERENCE = {
    "an hour the store lacks": (("--init_time", "2024-05-23T05"), ["2024-05-23T05", "2024-05-21T15:00"]),
    "one good hour and one bad": (("--init_time", (hour(1), "2024-05-20T01:30")), ["2024-05-20T01:00"]),
    "no time at all": (("--init_time", "yesterday"), ["init_time", "'yesterday'", "ISO"]),
    "no hours": (("--hours", 0), ["hours", "0", "1 hours"]),
    "half a step": (("--hours", 1.5), ["hours", "1.5", "multiple"]),
    "backwards": (("--hours", -3), ["hours", "-3"]),
    "hours nan": (("--hours", NAN), ["hours", "nan"]),
    "hours inf": (("--hours", INF), ["hours", "inf"]),
    "no hour before the first": (("--init_time", hour(0)), ["no 2024-05-19T23:00", "last 2 times"]),
    "a start every so often": (("--init_time", "test", "--init_every", "soon"), ["init_every", "'soon'"]),
    "no boundary store": (("--boundary", "nowhere.zarr"), ["nowhere.zarr", "no such store"]),
    "an hour after the boundary store": (("--boundary", "GOOD", "--hours", 6), ["store.zarr has no 2024-05-21T16:00"]),
}


@pytest.mark.parametrize("case", INFERENCE)
def test_forecasts_that_cannot_start(case, refused, scripts, good):
    changes, words = INFERENCE[case]
    changes = [good.store if part == "GOOD" else part for part in changes]
    refused(*scripts(inference, *changes), words=words)


@pytest.mark.parametrize("module", [training, inference], ids=["train", "infer"])
def test_a_boundary_store_that_does_not_cover_the_domain(module, refused, scripts, tmp_path):
    times = [hour(n) for n in range(HOURS)]
    small = write_store(tmp_path / "small.zarr", lambda n, t: weather(n, t)[:-1], times, NAMES, small_grid(11, 16))
    refused(*scripts(module, "--boundary", small), words=["boundary: ", "small.zarr", "16 of 52 cells", "covers"])


def test_a_checkpoint_for_other_variables(refused, scripts, tmp_path):
    other = write_store(tmp_path / "other.zarr", weather, [hour(n) for n in range(37)], ("T2M", "V10"))
    line = refused(*scripts(inference, "--zarr", other), words=["T2M U10 CIN", "'U10'", "V10"])
    assert "--variables" not in line, "the advice names a constant that infer_iterative.py does not have"


def test_a_store_without_the_coordinates_the_checkpoint_knows(refused, scripts, tmp_path, good):
    bare = tmp_path / "bare.zarr"
    less = xr.open_zarr(good.store).drop_vars(["latitude", "longitude", "spatial_ref"])
    less.drop_encoding().to_zarr(bare, consolidated=False)
    refused(*scripts(inference, "--zarr", bare), words=["cos_zenith_now"])


def test_half_a_checkpoint_is_refused_and_does_not_start_a_run_over(refused, scripts, tmp_path, good):
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.pt").write_bytes(good.best.read_bytes()[: good.best.stat().st_size // 2])
    refused(*scripts(training), words=["last.pt"])
    refused(*scripts(inference, "--checkpoint", run / "last.pt"), words=["last.pt"])


OCCUPIED = {
    "training store": lambda path: write_store(path, weather, [hour(0)]),
    "somebody's zarr": lambda path: with_time(path, np.arange(4), units="hours since 2024-05-20"),
    "folder": folder_with_notes,
    "file": text_file,
}


@pytest.mark.parametrize("case", OCCUPIED)
def test_results_replace_only_results(case, refused, scripts, tmp_path):
    path = OCCUPIED[case](tmp_path / "taken.zarr")
    refused(*scripts(inference, "--out", path), words=["taken.zarr", "forecast store"], unsaid="is replaced when")
    if path.is_dir():
        refused(*scripts(verification, "--out", path), words=["taken.zarr"])
    else:
        refused(*scripts(training, "--run_dir", path), words=["taken.zarr"])


def test_a_missing_value_is_refused_in_a_later_start_and_in_the_truth(refused, scripts, edited):
    holes = edited("T2M", put(((38, 2, 2), NAN)))
    changes = ("--zarr", holes, "--init_time", (hour(36), hour(38)))
    refused(*scripts(inference, *changes), words=["T2M", "2024-05-21T14:00"])
    refused(*scripts(verification, "--zarr", holes), words=["T2M", "2024-05-21T14:00"])


# ---- verification ---------------------------------------------------------------------------------


def test_a_forecast_or_a_variable_that_is_missing(refused, scripts, tmp_path, good):
    refused(*scripts(verification, "--forecast", tmp_path / "nope.zarr"), words=["nope.zarr", "no such forecast"])
    refused(*scripts(verification, "--forecast", text_file(tmp_path / "text.zarr")), words=["text.zarr"])
    refused(*scripts(verification, "--forecast", good.store), words=["store.zarr", "training"])
    refused(*scripts(verification, "--variables", ("T2M", "V1O")), words=["'V1O'", "U10"])


def moved_grid():
    grid = small_grid()
    grid.longitude = grid.longitude + 1
    return grid


LATE = [hour(n) for n in range(36, 40)]
TRUTHS = {  # name: (maker, words)
    "another grid": (lambda p: write_store(p, wide_weather, LATE, NAMES, small_grid(12, 18)), ["(12, 18)", "(12, 16)"]),
    "another place": (lambda p: write_store(p, weather, LATE, NAMES, moved_grid()), ["latitudes or longitudes"]),
    "other hours": (lambda p: write_store(p, weather, [hour(n) for n in range(3)], NAMES),
                    ["2024-05-21T12:00", "2024-05-20T00:00", "2024-05-20T02:00"]),
    "another variable": (lambda p: write_store(p, weather, LATE, ("T2M", "V10")), ["'U10'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TRUTHS)
def test_scores_against_a_truth_that_does_not_fit(case, refused, scripts, tmp_path):
    maker, words = TRUTHS[case]
    refused(*scripts(verification, "--zarr", maker(tmp_path / "truth.zarr")), words=words)

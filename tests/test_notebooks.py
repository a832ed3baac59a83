"""The notebooks run from top to bottom in a real kernel, on small stores, and are kept without outputs."""

import json
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from data.forecast_store import ForecastWriter
from data.grid import Grid
from tests.conftest import PROJECT, SEVEN, hour, small_grid, weather, write_store

FOLDER = PROJECT / "notebooks"
SMALL = """%config InlineBackend.print_figure_kwargs = {"bbox_inches": None}
import matplotlib
matplotlib.rcParams["figure.dpi"] = 30"""  # pictures are looked at by nobody here
FIGURES = ("field_map", "wind_map", "convection_map", "forecast_panels", "meteogram", "skill_by_lead", "spectra",
           "Image", "coverage", "distributions", "fields[VARIABLE]", "store[VARIABLE]")  # fmt: skip
NAMES = sorted(p.name for p in FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, str]:
    """The constants of the notebooks, set to a store, two forecasts of it and scores."""
    folder = tmp_path_factory.mktemp("notebooks")
    write_store(folder / "store.zarr", weather, [hour(n) for n in range(9) if n != 4], SEVEN)
    inits, leads = [hour(0), hour(5)], np.arange(4) * np.timedelta64(1, "h")
    with ForecastWriter(folder / "forecast.zarr", SEVEN, small_grid(), np.array(inits), leads, {}) as writer:
        for i, init in enumerate(inits):
            for j, lead in enumerate(leads):
                fields = [weather(n, init + lead) * (1 - 0.01 * j) for n in SEVEN]
                writer.write(i, j, np.stack(fields), np.zeros(len(SEVEN)))
    entry = {"skill": 0.5, "skill_yesterday": None, "power_ratio": {"2-5": 0.9}, "coherence": {"2-5": 0.5}}
    table = {n: {str(h): entry for h in range(1, 4)} for n in SEVEN[:3]}
    scores = {"scores": table, "certificate": [], "init_times": []}
    (folder / "scores.json").write_text(json.dumps(scores))
    names = {"FORECAST": "forecast.zarr", "TRUTH": "store.zarr", "SCORES": "scores.json", "STORE": "store.zarr"}
    return {constant: str(folder / name) for constant, name in names.items()}


def test_there_are_two_notebooks_without_outputs():
    assert NAMES == ["explore_store.ipynb", "plot_forecast.ipynb"]
    for name in NAMES:
        cells = json.loads((FOLDER / name).read_text())["cells"]
        code = [c for c in cells if c["cell_type"] == "code"]
        assert code and all(c["outputs"] == [] and c["execution_count"] is None for c in code), name


@pytest.mark.skipif(not (find_spec("nbclient") and find_spec("ipykernel")), reason="needs nbclient and ipykernel")
def test_the_notebooks_run_and_show_a_picture_for_every_figure(stores):
    """Both in one kernel, whose start takes most of the time; the imports of the second are then there already."""
    import nbformat
    from nbclient import NotebookClient

    joined = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SMALL)])
    for name in NAMES:
        notebook = nbformat.read(FOLDER / name, as_version=4)
        joined.metadata = notebook.metadata
        cells = [c for c in notebook.cells if c["cell_type"] == "code"]
        for i, cell in enumerate(cells):
            cell.id = f"{name.partition('.')[0]}-{i}"
        joined.cells += cells
        constants = cells[0]
        for constant, path in stores.items():
            for line in [x for x in constants.source.splitlines() if x.startswith(f"{constant} = ")]:
                constants.source = constants.source.replace(line, f"{constant} = {path!r}")
        assert "../runs" not in constants.source
    NotebookClient(joined, timeout=60, resources={"metadata": {"path": str(FOLDER)}}).execute()

    shown = {c.source: [o.data for o in c.outputs if "data" in o] for c in joined.cells}
    figures = [source for source in shown if source.splitlines()[-1].startswith(FIGURES)]
    assert len(figures) == 18
    for source in figures:
        assert any("image/png" in data or "image/gif" in data for data in shown[source]), source
    printed = [o for c in joined.cells for o in c.outputs if o.output_type == "stream"]
    assert [o.text for o in printed] == ["init 2024-05-20T00:00 UTC\n"]  # neither warnings nor noise


def test_a_run_of_one_variable_without_latitudes_needs_edits_in_one_cell_only(tmp_path, monkeypatch):
    times = [hour(n / 12) for n in range(12)]
    fields = lambda n, t: weather("REFC", t)  # noqa: E731
    write_store(tmp_path / "store.zarr", fields, times, ["dbz"], Grid((12, 16)))
    leads = np.arange(4) * np.timedelta64(5, "m")
    with ForecastWriter(tmp_path / "f.zarr", ["dbz"], Grid((12, 16)), np.array(times[5:6]), leads, {}) as writer:
        for j, lead in enumerate(leads):
            writer.write(0, j, fields("dbz", times[5] + lead)[None], np.zeros(1))
    table = {"dbz": {str(n / 12): {"best_skill": 0.5} for n in range(1, 4)}}
    (tmp_path / "s.json").write_text(json.dumps({"scores": table, "certificate": [], "init_times": []}))
    store, forecast, scores = (str(tmp_path / name) for name in ("store.zarr", "f.zarr", "s.json"))
    edited = {"VARIABLE": "dbz", "FORECAST": forecast, "TRUTH": store, "SCORES": scores, "STORE": store}
    monkeypatch.chdir(FOLDER)
    monkeypatch.setitem(matplotlib.rcParams, "backend", "agg")
    for name in NAMES:
        names: dict = {}
        for i, cell in enumerate(c for c in json.loads(Path(name).read_text())["cells"] if c["cell_type"] == "code"):
            exec("".join(x for x in cell["source"] if not x.startswith("%")), names)
            names |= {} if i else edited
    assert (tmp_path / "dbz.gif").exists()

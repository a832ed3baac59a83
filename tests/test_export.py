"""Exported weights forecast like the checkpoint; earth2studio's protocol gives the same forecast."""

import sys
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from export import earth2, model_card
from infer_iterative import forecast, load_model
from tests.conftest import SEVEN, hour, weather, write_store
from tests.model_files import write_checkpoint
from training.checkpoint import load_checkpoint

HOUR = np.timedelta64(1, "h")
TIMES = ["2024-05-20T05", "2024-05-21T07"]


@pytest.fixture(scope="module")
def best(seven_store, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt", seven_store, list(SEVEN))


@pytest.fixture(scope="module")
def exported(best, seven_store):
    pytest.importorskip("safetensors")
    folder = best.parent / "export"
    model_card.main(model_card.Config(str(best), str(folder), str(seven_store)))
    return folder


@pytest.fixture(scope="module")
def model(best, seven_store):
    return earth2.HourcastModel.from_checkpoint(str(best), str(seven_store), "cpu")


def fetched(model, store, ensemble: int = 0) -> tuple[torch.Tensor, OrderedDict]:
    """The result of earth2studio's fetch_data: x (time, lead_time, variable, y, x), and ensemble before it."""
    expected, truth, times = model.input_coords(), xr.open_zarr(store, chunks=None), np.array(TIMES, "datetime64[ns]")
    x = np.stack([[[truth[n].sel(time=t + lead) for n in SEVEN] for lead in expected["lead_time"]] for t in times])
    coords = OrderedDict(time=times, **{k: expected[k] for k in list(expected)[2:]})
    x = torch.from_numpy(x)
    if ensemble:
        x, coords = x.expand(ensemble, *x.shape), OrderedDict(ensemble=np.arange(ensemble), **coords)
    return x, coords


def test_exported_weights_give_the_same_bits(exported, best, seven_store):
    a, b = (forecast(p, seven_store, TIMES, 3) for p in (best, exported / "model.safetensors"))
    assert all(np.array_equal(a[n], b[n]) for n in SEVEN)
    card, weights = (exported / n for n in ("README.md", "model.safetensors"))
    assert weights.stat().st_mode == card.stat().st_mode  # readable by other users, like any other file


def test_the_mask_is_exported_with_the_weights(tmp_path):
    pytest.importorskip("safetensors")
    mask = torch.zeros(1, 12, 16, dtype=torch.bool)
    mask[0, :4, :5] = True
    masked = lambda name, time: np.where(mask[0], np.nan, weather(name, time))  # noqa: E731
    store = write_store(tmp_path / "s.zarr", masked, [hour(n) for n in range(40)], ["REFC"])
    best = write_checkpoint(tmp_path / "best.pt", store, ["REFC"], mask)
    model_card.main(model_card.Config(str(best), str(tmp_path / "out"), str(store)))
    a, b = (forecast(p, store, "latest", 2).REFC.values for p in (best, tmp_path / "out/model.safetensors"))
    assert np.array_equal(a, b, equal_nan=True) and np.isnan(a[..., :4, :5]).all()


def test_a_file_without_our_weights_is_refused(exported, tmp_path):
    whole = (exported / "model.safetensors").read_bytes()
    for content in (b"", b"PK\x03\x04 a zip", whole[:-100], whole.replace(b'"format\\"', b'"farmot\\"')):
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"expected .*Fix: "):
            load_model(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        load_model(tmp_path / "none.safetensors")


def test_the_card_has_license_dates_scores_and_a_model_index_and_escapes_names(best):
    yaml = pytest.importorskip("yaml")
    lines = [{"name": "a", "value": 1.0, "bar": "", "pass": result} for result in ("PASS", "UNDECIDED")]
    table = {"T2M": {"1": {"rmse": 0.5, "best_skill": 0.25}}, '<b>|x: "': {"1": {"rmse": 2.0, "best_skill": None}}}
    scores = {"certificate": lines, "init_times": ["2024-05-22T00:00"], "outside_test": [], "scores": table}
    card = model_card.model_card(load_checkpoint(best), scores, "0" * 64)
    assert "| T2M | +0.25 |" in card and "<b>" not in card.split("---")[2] and r"| \<b\>\|x: " in card
    assert "Certificate: 1 UNDECIDED, 1 PASS." in card and "2024-05-20T00:00 to 2024-05-21T17:00 UTC" in card
    front = yaml.safe_load(card.split("---")[1])
    (result,) = front["model-index"][0]["results"]  # the keys that huggingface_hub asks for
    assert front["license"] == "mit" and {"type", "name"} <= set(result["dataset"]) and result["task"]["type"]
    metrics = {m["name"]: (m["type"], m["value"]) for m in result["metrics"]}
    assert metrics == {"T2M rmse, 1 h": ("rmse", 0.5), "T2M best_skill, 1 h": ("best_skill", 0.25),
                       '<b>|x: " rmse, 1 h': ("rmse", 2.0)}  # fmt: skip
    assert "model-index" not in model_card.model_card(load_checkpoint(best), None, "0" * 64)


def test_without_safetensors_the_pip_command_is_named(command, best, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.torch", raising=False)
    code, _, err = command(model_card, "--checkpoint", best, "--out", tmp_path / "out")
    assert code == 2 and "pip install safetensors" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# ---- earth2studio: the members of models/px/base.py, 0.19


def test_coordinates_are_those_of_earth2studio(model):
    coords = model.input_coords()
    assert list(coords) == ["batch", "time", "lead_time", "variable", "hrrr_y", "hrrr_x"]
    assert list(coords["variable"]) == ["refc", "t2m", "d2m", "u10m", "v10m", "cape", "cin"]
    assert list(coords["lead_time"]) == [-HOUR, 0 * HOUR] and coords["batch"].shape == coords["time"].shape == (0,)
    assert list(model.output_coords(coords)["lead_time"]) == [HOUR] and model.to("cpu") is model
    assert list(model.output_coords(coords)) == list(coords)


def test_the_iterator_gives_the_initial_fields_and_then_our_forecast(model, best, seven_store):
    x, coords = fetched(model, seven_store)
    ours = forecast(best, seven_store, TIMES, 3)
    for k, (fields, after) in zip(range(4), model.create_iterator(x, coords), strict=False):
        assert list(after["lead_time"]) == [k * HOUR] and list(after["time"]) == list(coords["time"])
        assert fields.shape == (2, 1, 7, 12, 16) and (k or torch.equal(fields, x[:, -1:]))
        for c, name in enumerate(SEVEN if k else ()):
            np.testing.assert_allclose(fields[:, 0, c], ours[name][:, k], atol=1e-3 * float(ours[name].std()))


def test_each_ensemble_member_and_time_is_a_forecast_of_its_own(model, seven_store):
    x, coords = fetched(model, seven_store)
    alone, _ = model(x[1:], OrderedDict(coords, time=coords["time"][1:]))
    x, coords = fetched(model, seven_store, ensemble=2)
    out, after = model(x, coords)
    assert out.shape == (2, 2, 1, 7, 12, 16) and list(after)[:3] == ["ensemble", "time", "lead_time"]
    assert torch.equal(out[0], out[1]) and torch.equal(out[0, 1:], alone)


@pytest.mark.parametrize("change", ["variable", "hrrr_x", "lead_time", "order", "nan", "shape"])
def test_other_coordinates_and_missing_values_are_refused(model, seven_store, change):
    x, coords = fetched(model, seven_store)
    if change == "order":
        coords.move_to_end("time")
    elif change == "nan":
        x[0, 0, 1, 3, 3] = torch.nan
    elif change == "shape":
        x = x[:1]
    else:
        coords[change] = coords[change][::-1] if change == "variable" else coords[change] * 2
    with pytest.raises(ValueError, match=r"expected .*Fix: "):
        model(x, coords)


def test_an_exported_folder_is_a_package(exported, model):
    package = SimpleNamespace(resolve=lambda path: str(exported / path))
    loaded = earth2.HourcastModel.load_model(package)
    for name, values in model.input_coords().items():
        assert np.array_equal(loaded.input_coords()[name], values)
    assert torch.equal(loaded.forcing.fixed, model.forcing.fixed) and loaded.grid.dims == model.grid.dims

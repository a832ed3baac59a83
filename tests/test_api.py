"""Use from elsewhere: a forecast in memory, weights as safetensors, and earth2studio's protocol."""

import builtins
import json
from collections import OrderedDict
from typing import Protocol, runtime_checkable

import numpy as np
import pytest
import torch
import xarray as xr

import export_model
import infer_iterative
from earth2_model import NAMES, HourcastModel
from forecaster import forecast, load_model
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
    export_model.main(export_model.Config(str(best), str(folder), str(seven_store)))
    return folder


def test_a_forecast_in_memory_is_the_store_that_the_script_writes(best, seven_store, tmp_path):
    cfg = infer_iterative.Config(str(best), str(seven_store), TIMES, 3.0, out=str(tmp_path / "f.zarr"))
    infer_iterative.main(cfg)
    written, made = xr.open_zarr(tmp_path / "f.zarr").load(), forecast(best, seven_store, TIMES, 3)
    xr.testing.assert_identical(written, made)
    assert not np.allclose(made.T2M[:, 1], made.T2M[:, 0])  # the model does something


def test_a_boundary_store_gives_the_edge_here_too(best, seven_store, tmp_path):
    cfg = infer_iterative.Config(str(best), str(seven_store), TIMES[:1], 2.0, out=str(tmp_path / "f.zarr"))
    cfg.boundary = str(seven_store)
    infer_iterative.main(cfg)
    made = forecast(best, seven_store, np.datetime64(TIMES[0]), 2, str(seven_store))
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "f.zarr").load(), made)
    assert "perfect boundary" in made.attrs["boundary"]


def test_initial_times_that_are_computed_together_are_those_computed_one_by_one(best, seven_store, tmp_path):
    times = [*TIMES, "2024-05-20T20"]  # three in batches of two; the sun and the boundary are those of each
    cfg = infer_iterative.Config(str(best), str(seven_store), times, 3.0, batch_size=2, out=str(tmp_path / "f.zarr"))
    cfg.boundary = str(seven_store)
    infer_iterative.main(cfg)
    together, single = xr.open_zarr(tmp_path / "f.zarr").load(), forecast(best, seven_store, times, 3, cfg.boundary)
    xr.testing.assert_identical(together, forecast(best, seven_store, times, 3, cfg.boundary, batch_size=2))
    for n in SEVEN:  # rounding apart: a thousandth of the standard deviation
        near = 1e-3 * float(single[n].std())
        assert abs(together[n] - single[n]).max() < near and abs(single[n][0] - single[n][1]).max() > 100 * near


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"init_time": "2030-01-01"}, "no 2030-01-01T00:00, expected a time of the store"),
        ({"init_time": "2024-05-20T00"}, "expected it because the model sees the last 2 times"),
        ({"init_time": []}, "expected at least one time"),
        ({"init_time": "soon"}, "expected an ISO time"),
        ({"batch_size": 0}, "batch_size: got 0, expected at least 1"),
        ({"hours": 1.5}, "expected a positive multiple of the model's step of 1 hours"),
    ],
)
def test_what_the_store_lacks_is_refused(best, seven_store, wrong, message):
    with pytest.raises(ValueError, match=message):
        forecast(best, seven_store, **wrong)


def test_safetensors_weights_give_the_same_bits(exported, best, seven_store):
    one, other = (forecast(p, seven_store, TIMES, 3) for p in (best, exported / "model.safetensors"))
    assert all(np.array_equal(one[n], other[n]) for n in SEVEN)
    card, weights = (exported / n for n in ("README.md", "model.safetensors"))
    assert weights.stat().st_mode == card.stat().st_mode  # to be published: readable like any other file


def test_a_mask_travels_with_the_weights(tmp_path):
    pytest.importorskip("safetensors")

    def field(name, time):
        out = weather(name, time)
        out[:4, :5] = np.nan
        return out

    store = write_store(tmp_path / "s.zarr", field, [hour(n) for n in range(40)], ["REFC"])
    mask = torch.zeros(1, 12, 16, dtype=torch.bool)
    mask[0, :4, :5] = True
    best = write_checkpoint(tmp_path / "best.pt", store, ["REFC"], mask)
    export_model.main(export_model.Config(str(best), str(tmp_path / "out"), str(store)))
    one, other = (forecast(p, store, "latest", 2).REFC.values for p in (best, tmp_path / "out/model.safetensors"))
    assert np.array_equal(one, other, equal_nan=True) and np.isnan(one[..., :4, :5]).all()


def test_a_file_that_holds_no_weights_of_ours_is_refused(exported, tmp_path):
    whole = (exported / "model.safetensors").read_bytes()
    for content in (b"", b"PK\x03\x04 a zip", whole[:-100], whole.replace(b'"format\\"', b'"farmot\\"')):
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"expected .*Fix: "):
            load_model(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        load_model(tmp_path / "none.safetensors")


def test_the_model_card_tells_the_data_the_scores_and_no_markup_of_the_store(best, seven_store, tmp_path):
    scores = {"certificate": [{"pass": True}, {"pass": None}], "init_times": ["2024-05-22T00:00"], "outside_test": [],
              "scores": {"T2M": {"1": {"skill": 0.25}}, "<b>|x": {"1": {"skill": None}}}}  # fmt: skip
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    found, _ = export_model.read_scores(export_model.Config(str(best), scores=str(tmp_path / "scores.json")))
    card = export_model.model_card(load_checkpoint(best), found, "0" * 64)
    assert card.startswith("---\nlibrary_name: hourcast\n") and "| T2M | +0.25 |" in card
    assert "<b>" not in card and r"| \<b\>\|x | - |" in card
    assert "1 of 2 lines passed, 1 not available" in card and "2024-05-20T00:00 to 2024-05-21T17:00 UTC" in card


def test_without_the_library_the_pip_command_is_named(command, best, tmp_path, monkeypatch):
    original = builtins.__import__
    refused = lambda name, *more: (_ for _ in ()).throw(ImportError) if "safetensors" in name else original(name, *more)  # noqa: E731
    monkeypatch.setattr(builtins, "__import__", refused)
    code, _, err = command(export_model, "--checkpoint", best, "--out", tmp_path / "out")
    assert code == 2 and "pip install safetensors" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# ---- earth2studio: the members of models/px/base.py, 0.19


@runtime_checkable
class Prognostic(Protocol):
    def __call__(self, x, coords): ...
    def create_iterator(self, x, coords): ...
    def input_coords(self): ...
    def output_coords(self, input_coords): ...
    def to(self, device): ...


@pytest.fixture(scope="module")
def model(best, seven_store):
    return HourcastModel.from_checkpoint(str(best), str(seven_store), "cpu")


def fetched(model, store, times=TIMES, ensemble: int = 0) -> tuple[torch.Tensor, OrderedDict]:
    """What earth2studio's fetch_data gives: x (time, lead_time, variable, y, x), and ensemble before it."""
    wanted, truth = model.input_coords(), xr.open_zarr(store, chunks=None)
    back = {v: k for k, v in NAMES.items()}
    times = np.array(times, "datetime64[ns]")
    names = [back[str(v)] for v in wanted["variable"]]
    x = np.stack([[[truth[n].sel(time=t + lead) for n in names] for lead in wanted["lead_time"]] for t in times])
    coords = OrderedDict(time=times, **{k: wanted[k] for k in list(wanted)[2:]})
    x = torch.from_numpy(x)
    if ensemble:
        x, coords = x.expand(ensemble, *x.shape), OrderedDict(ensemble=np.arange(ensemble), **coords)
    return x, coords


def test_the_model_has_the_members_of_a_prognostic_model(model):
    assert isinstance(model, Prognostic) and model.to("cpu") is model
    coords = model.input_coords()
    assert list(coords) == ["batch", "time", "lead_time", "variable", "hrrr_y", "hrrr_x"]
    assert list(coords["variable"]) == ["refc", "t2m", "d2m", "u10m", "v10m", "cape", "cin"]
    assert list(coords["lead_time"]) == [-HOUR, 0 * HOUR] and coords["batch"].shape == coords["time"].shape == (0,)
    assert list(model.output_coords(coords)["lead_time"]) == [HOUR]
    assert list(model.output_coords(coords)) == list(coords)


def test_the_iterator_gives_the_initial_fields_and_then_our_forecast(model, best, seven_store):
    x, coords = fetched(model, seven_store)
    ours = forecast(best, seven_store, TIMES, 3)
    for k, (fields, told) in zip(range(4), model.create_iterator(x, coords), strict=False):
        assert list(told["lead_time"]) == [k * HOUR] and list(told["time"]) == list(coords["time"])
        assert fields.shape == (2, 1, 7, 12, 16)
        if k == 0:
            assert torch.equal(fields, x[:, -1:])
        for c, name in enumerate(SEVEN):
            if k:
                np.testing.assert_allclose(fields[:, 0, c], ours[name][:, k], atol=1e-3 * float(ours[name].std()))


def test_one_call_is_one_step_for_every_member(model, seven_store):
    x, coords = fetched(model, seven_store)
    alone, _ = model(x[1:], OrderedDict(coords, time=coords["time"][1:]))
    x, coords = fetched(model, seven_store, ensemble=2)
    out, after = model(x, coords)
    assert out.shape == (2, 2, 1, 7, 12, 16) and list(after)[:3] == ["ensemble", "time", "lead_time"]
    assert torch.equal(out[0], out[1]) and torch.equal(out[0, 1:], alone)


def test_hooks_run_before_and_after_each_step(best, seven_store):
    model = HourcastModel.from_checkpoint(str(best), str(seven_store), "cpu")
    x, coords = fetched(model, seven_store)
    model.rear_hook = lambda x, coords: (x + 100.0, coords)
    (_, (changed, _)), (_, (plain, _)) = (
        [next(it), next(it)]
        for it in (
            model.create_iterator(x, coords),
            HourcastModel(model.forecaster, model.grid).create_iterator(x, coords),
        )
    )
    assert torch.equal(changed, plain + 100.0)


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
    class Package:
        def resolve(self, path: str) -> str:
            return str(exported / path)

    loaded = HourcastModel.load_model(Package())
    assert all(
        np.array_equal(a, b) for a, b in zip(loaded.input_coords().values(), model.input_coords().values(), strict=True)
    )
    assert torch.equal(loaded.forcing.fixed, model.forcing.fixed) and loaded.grid.dims == model.grid.dims


def test_it_runs_in_earth2studio(model, best, seven_store):
    """With the real package, where it is installed."""
    pytest.importorskip("earth2studio")
    from earth2studio.io import XarrayBackend
    from earth2studio.models.px.base import PrognosticModel
    from earth2studio.run import deterministic

    class Source:  # asked for each lead of the input by itself
        def __call__(self, time, variable):
            truth = xr.open_zarr(seven_store, chunks=None)
            x = np.stack([truth[n].sel(time=time).values for n in SEVEN], 1)
            return xr.DataArray(x, {"time": time, "variable": list(variable), "hrrr_y": truth.y.values,
                                    "hrrr_x": truth.x.values}, ["time", "variable", "hrrr_y", "hrrr_x"])  # fmt: skip

    assert isinstance(model, PrognosticModel)
    out = deterministic(TIMES, 2, model, Source(), XarrayBackend(), device=torch.device("cpu"), verbose=False).root
    np.testing.assert_allclose(out.t2m[:, 2], forecast(best, seven_store, TIMES, 2).T2M[:, 2], atol=1e-3)

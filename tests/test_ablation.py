"""The ablation switches what it says, fills its budget, never repeats a finished run, and judges by its rules."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SEVEN, hour, small_grid, weather, write_store

import train_deterministic
from benchmarks import ablation, ablation_score
from benchmarks.ablation import Config, Meter, changed, main, train
from benchmarks.ablation_choices import choices
from benchmarks.ablation_score import Setup, spread
from benchmarks.ablation_table import MARKERS, read_runs, table, verdict, write_between
from data.synthetic_storms import one_thread
from models.sharpen import powers
from models.unet import ResidualUNet
from training.checkpoint import load_checkpoint

TINY = {
    "batch_size": 2,
    "accumulate": 2,
    "base_features": 4,
    "levels": 1,
    "blocks": 1,
    "rollout_hours": 5.0,
    "sharpen": False,
    "restrain": False,
}
SHAPE = (16, 16)
SPLIT = {"train_end": "2024-05-20T15", "val_end": "2024-05-20T20", "gap": "1h"}
PATCHED = [
    n for n, c in choices(train_deterministic.Config(**TINY)).items() if c.patches and not c.constants.get("sharpen")
]


@pytest.fixture(scope="module", autouse=True)
def alone():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("ablation") / "tiny.zarr"
    times = [hour(n) for n in range(30)]
    return write_store(path, lambda n, t: weather(n, t, SHAPE), times, SEVEN, small_grid(*SHAPE))


@pytest.fixture
def cfg(store, tmp_path, monkeypatch):
    """A configuration for a tiny store, model and budget."""
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "tiny.zarr").symlink_to(store)
    monkeypatch.setattr(ablation, "REFERENCE", TINY)
    monkeypatch.setitem(ablation_score.STORES, "tiny", Setup(print, split=SPLIT, leads=(1, 2, 3), starts=2))
    monkeypatch.setattr(train_deterministic, "save_loss_curves", lambda *_: None)
    work = str(tmp_path)
    return Config(("tiny",), ("history_0", "advected_off"), budget=0.2, work=work, json=f"{work}/a.json")


def two_steps(store, folder, choice):
    """The averaged weights after one optimizer step on pairs and one in a roll-out."""
    constants = replace(train_deterministic.Config(**TINY), **choice.constants, **SPLIT, zarr=str(store))
    constants = replace(constants, run_dir=str(folder), epochs=2, rollout_epochs=1, validate_every=2, validate_hours=1)
    with changed([*choice.patches, (train_deterministic, "save_loss_curves", lambda *_: None)]):
        meter = Meter(1, 1, 1, clock=lambda: 0.0)
        constants = replace(
            constants, run_dir=str(folder), epochs=2, rollout_epochs=1, validate_every=2, validate_hours=1
        )
        train(constants, meter)
    assert len(meter.ends) == 2 and meter.samples == 8
    return load_checkpoint(folder / "best.pt")["ema"]


def test_finished_runs_are_kept_and_not_run_again(cfg, monkeypatch, capsys):
    main(cfg)
    runs = read_runs(cfg.json)
    assert [r["choice"] for r in runs] == ["reference", "history_0", "advected_off"]
    for r in runs:
        assert r["samples"] == 4 * r["steps"] and r["steps"] % r["epochs"] == 0
        assert r["scores"]["1"]["T2M"]["skill"] is not None and len(r["start_times"]) == 2
    capsys.readouterr()
    monkeypatch.setattr(ablation, "make_run", lambda *_: pytest.fail("a finished run was run again"))
    main(cfg)
    out = capsys.readouterr().out
    assert "3 runs, 0 of them to be made" in out
    assert "| advected_off | no advected base" in out and "| skill 1 h | worst 1 h | skill 2 h |" in out
    with pytest.raises(pytest.fail.Exception):
        main(replace(cfg, budget=0.4))  # another budget is another run
    monkeypatch.setitem(ablation.REFERENCE, "lr", 1e-4)
    with pytest.raises(pytest.fail.Exception):
        main(cfg)


def test_a_training_that_breaks_down_is_a_row(cfg, monkeypatch, capsys):
    def break_down(constants, meter):
        raise ValueError("the gradient is not finite")

    monkeypatch.setattr(ablation, "train", break_down)
    main(replace(cfg, choices=("history_0",)))
    assert "kept (1 failed)" in capsys.readouterr().out


def test_unknown_names_are_refused(cfg):
    with pytest.raises(ValueError, match="Fix: history_0"):
        main(replace(cfg, choices=("history0",)))


def test_a_store_whose_data_is_absent_is_skipped(cfg, capsys):
    main(replace(cfg, stores=("era5",), data=cfg.work))
    assert "era5: skipped" in capsys.readouterr().out


@pytest.fixture(scope="module")
def reference(store, tmp_path_factory):
    every = choices(train_deterministic.Config(**TINY))
    folder = tmp_path_factory.mktemp("reference")
    first, again = (two_steps(store, folder / n, every["reference"]) for n in "ab")
    assert all(torch.equal(first[k], again[k]) for k in first)
    return first


@pytest.mark.parametrize("name", PATCHED)
def test_a_patched_choice_trains_to_other_weights(name, store, reference, tmp_path):
    weights = two_steps(store, tmp_path / "run", choices(train_deterministic.Config(**TINY))[name])
    assert weights.keys() != reference.keys() or any(not torch.equal(weights[k], reference[k]) for k in weights)
    assert all(v.isfinite().all() for v in weights.values())


def test_without_gains_near_the_edge_they_are_those_of_the_inside():
    state, piled = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([True, False])
    inside, rim = powers(state, 9, piled)
    assert not torch.equal(inside[0], rim[0])
    with changed(choices(train_deterministic.Config())["sharpen_no_rim"].patches):
        inside, rim = powers(state, 9, piled)
    assert torch.equal(inside, rim)


def test_without_the_advected_base_a_blob_stays():
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    blob = torch.exp(-((y - 8).square() + (x - 6).square()) / 8)[None, None, None]
    model = ResidualUNet(1, 0, 2, 4, 1, 1, history=0)
    model.flow_head.bias.data[0] = 3.0  # cells eastward
    arguments = (blob, torch.zeros(1, 0, 16, 16), torch.zeros(1, 2))
    with torch.no_grad():
        moved = blob[:, 0] + model(*arguments)
        with changed(choices(train_deterministic.Config())["advected_off"].patches):
            kept = blob[:, 0] + model(*arguments)
    assert int(moved[0, 0, 8].argmax()) == 9 and int(kept[0, 0, 8].argmax()) == 6


def test_steps_fill_the_budget(cfg, monkeypatch):
    """1 s a step on pairs, 3 s a step in roll-outs, a fifth of them: 14 s are 10 steps."""

    def pretend(constants, meter):
        meter.ends, meter.whole = [0, 1, 2, 3, 4, 9, 12, 15, 18, 21], 7
        raise ablation.Enough

    monkeypatch.setattr(ablation, "train", pretend)
    assert ablation.plan(ablation.base(), 1, replace(cfg, budget=14.0)) == (2, 5, 1)
    assert ablation.plan(ablation.base(), 1, replace(cfg, budget=140.0)) == (7, 15, 3)  # 100 steps, 7 to an epoch


def test_start_times_meet_different_hours():
    starts = np.array([hour(n) for n in range(97)])
    chosen = spread(starts, 24)
    assert {int(t.astype("datetime64[h]").astype(int)) % 24 for t in chosen} == set(range(24))
    assert chosen[0] == starts[0] and chosen[-1] > starts[80] and len(spread(starts[:3], 12)) == 3


def figures(skill: float, power: float = 0.2) -> dict:
    return {"skill_near": skill, "worst_near": 0.1, "skill_middle": 0.2, "power_near": power, "power_far": 0.4,
            "drift": 0.1, "line": 0.0, "fss": None}  # fmt: skip


def test_verdicts_by_the_stated_rules():
    none = {key: [] for key in figures(0)}
    assert verdict({**none, "skill_near": [-0.02]}) == "kept"
    assert verdict({**none, "skill_near": [0.02]}) == "out"
    assert verdict({**none, "skill_near": [0.005]}) == "near"
    assert verdict({**none, "skill_near": [0.00, 0.04]}) == "near"  # mean 0.02 is less than twice 0.028
    assert verdict({**none, "power_near": [0.1]}) == "kept"  # farther from the truth's power
    assert verdict({**none, "line": [3.0]}) == "kept"
    assert verdict({**none, "skill_near": [0.02], "drift": [0.2]}) == "near (mixed)"
    assert verdict({**none, "skill_near": [0.02], "power_far": [0.2]}) == "near (mixed)"  # skill bought by blur
    assert verdict({**none, "skill_near": [-0.02], "power_far": [-0.2]}) == "kept"  # sharp as persistence is


def test_the_table_has_mean_spread_and_difference_of_the_same_seed():
    runs = {"reference": {0: figures(0.40), 1: figures(0.44)}, "muon_off": {0: figures(0.30), 1: figures(0.34)}}
    texts = {"reference": "the reference set", "muon_off": "AdamW", "absent": "no run"}
    lines = table("demo", dict(near="1 h", middle="6 h", far="24 h"), texts, runs, dict.fromkeys(runs, 800)).split("\n")
    cells = [c.strip() for c in lines[-1].split("|")]
    assert len(lines) == 6 and cells[1:5] == ["muon_off", "AdamW", "2", "800"]
    assert cells[5] == "+0.320 ± 0.028" and "-0.100 ± 0.000" in cells and cells[-2] == "kept"


def test_the_document_keeps_what_stands_around_the_tables(tmp_path):
    path = tmp_path / "a.md"
    path.write_text(f"before\n{MARKERS[0]}\nold\n{MARKERS[1]}\nafter\n")
    write_between(path, "new")
    assert path.read_text() == f"before\n{MARKERS[0]}\n\nnew\n\n{MARKERS[1]}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the lines"):
        write_between(path, "new")


def test_scores_of_a_perfect_and_of_a_blurred_field():
    noise = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    perfect = ablation_score.variable_scores("T2M", noise, noise, noise + 1, None)
    assert perfect["skill"] == 1 and perfect["power_5-10"] == 1 and perfect["drift"] == 0
    halved = ablation_score.variable_scores("T2M", noise / 2, noise, noise + 1, None)
    result = {"scores": {"1": {"T2M": halved}}}
    assert ablation_score.headline(result, (1, 1, 1))["power_near"] == pytest.approx(2.0, abs=0.01)  # log2 of 1/4
    assert math.isclose(halved["std_ratio"], 0.5)
    stripes = noise + 2.0 * (torch.arange(32) % 2)
    assert ablation_score.variable_scores("T2M", stripes, noise, noise + 1, None)["line"] > 1 > abs(halved["line"])

"""The perfect-model twin forecasts from the stored variables alone, and its skill comes from fitting them."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import twin, twin_estimate
from benchmarks.twin import Config, analysis, climate_of, forecast, run_record, score
from benchmarks.twin_estimate import ERROR, HOUR, estimate, make_place, storm_guess, wet_of
from data.storm_physics import cycles, diagnose
from data.synthetic_storms import NAMES, generate, make_world, one_thread
from verification.scores import rmse, skill

SIZE, SEED, INIT = 8, 1, 26
START = np.datetime64("2024-06-20T00", "s")


@pytest.fixture(scope="module", autouse=True)
def setting():
    """World, place, climate and the record of the hours around INIT on 8 x 8 cells; all tests on one thread."""
    with one_thread():
        world = make_world(SIZE, SEED)
        hours = {INIT + lead for lead in range(-1, 4)}
        record = dict(run_record(world, SEED, START, max(hours) + 1, hours))
        yield world, make_place(SIZE, SEED + 1), climate_of([SEED + 1], SIZE, START, 24), record


def skills(setting, iterations):
    """Skill at 1 h against persistence of each variable."""
    world, place, climate, record = setting
    cfg = Config(seed=SEED, size=SIZE, iterations=iterations)
    rows = {n: score(forecast(cfg, n, world, place, climate, record, START, INIT), record, INIT)
            for n in ("persistence", "twin")}  # fmt: skip
    return {n: skill(rmse(rows["twin"][n, 1]), rmse(rows["persistence"][n, 1])) for n in NAMES}


def test_the_twin_beats_persistence_of_temperature(setting):
    assert skills(setting, 8)["T2M"] > 0.25


def test_a_twin_that_ignores_the_analyses_does_not(setting, monkeypatch):
    real = twin_estimate.misfits
    monkeypatch.setattr(twin_estimate, "misfits", lambda *args: 0 * real(*args))
    assert skills(setting, 8)["T2M"] < 0.1


def test_the_estimate_is_handed_no_hidden_state(setting, monkeypatch):
    world, place, climate, record = setting
    handed = []
    monkeypatch.setattr(twin, "estimate", lambda *args: handed.append(args) or (world, record[INIT][0]))
    forecast(Config(), "twin", world, place, climate, record, START, INIT)
    given, _, analyses, times, _ = handed[0]
    assert list(inspect.signature(estimate).parameters) == ["place", "climate", "analyses", "times", "iterations"]
    assert given.slow is None and given.periods is None and given.phases is None
    assert [set(a) for a in analyses] == [set(NAMES)] * 2 and times == [START + 25 * HOUR, START + 26 * HOUR]
    assert all(a[n].shape == (SIZE, SIZE) for a in analyses for n in NAMES)
    with pytest.raises(TypeError):
        cycles(given, times[0])


def test_the_estimate_does_not_change_when_only_what_is_not_stored_changes(setting):
    world, place, climate, record = setting
    other = {h: (replace(s, storm=s.storm * 0, modes=s.modes * 0), f) for h, (s, f) in record.items()}
    runs = [forecast(Config(seed=SEED, iterations=2), "twin", world, place, climate, r, START, INIT)[1]
            for r in (record, other)]  # fmt: skip
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in NAMES)


def test_the_record_is_the_one_that_is_stored(setting):
    for h, (_, fields) in enumerate(generate(setting[0], SEED, START, INIT + 1)):
        if h >= INIT - 1:
            assert all((fields[n] == setting[3][h][1][n].numpy()).all() for n in NAMES)


def test_the_analysis_error_has_the_stated_size():
    truth = {n: torch.full((200, 200), 25.0) for n in NAMES}
    truth["REFC"][0] = -10
    seen = analysis(truth, 1.0, np.random.default_rng(0))
    for name, error in ERROR.items():
        expected = error * (25 if name in ("CAPE", "CIN") else 1)
        assert (seen[name] - truth[name])[1:].std() == pytest.approx(expected, rel=0.02)
    assert (seen["REFC"][0] == -10).all()
    assert all(torch.equal(v, truth[n]) for n, v in analysis(truth, 0.0, np.random.default_rng(0)).items())


def test_rain_is_read_back_from_the_reflectivity_of_the_generator(setting):
    world, _, _, record = setting
    storm = torch.rand(3, *world.land.shape, generator=torch.Generator().manual_seed(0))
    state = replace(record[INIT][0], storm=storm)
    refc = diagnose(world, state, START)["REFC"]
    assert torch.allclose(wet_of(refc), state.storm[1] + state.storm[2], rtol=1e-3, atol=0.01)
    assert all(bool((g >= 0).all()) for g in storm_guess(wet_of(refc)))
    assert float(wet_of(torch.tensor(-10.0))) == 0

"""The synthetic store: right in form, and weather that persistence and extrapolation describe only in part."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data import command
from data.store import Store
from data.synthetic_storms import (
    NAMES,
    Config,
    advance,
    cycles,
    diagnose,
    first_state,
    generate,
    main,
    make_world,
    mean_winds,
    surroundings,
)  # fmt: skip

HOUR = np.timedelta64(1, "h")
SEED = 1
WORLD = make_world(8, SEED)  # its synoptic cycles are those of every size
SOLAR = -98.5 / 15  # local solar time minus UTC, hours
CELLS_PER_HOUR = 3600 / 3000  # cells that 1 m/s moves in an hour


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Four days on 64 x 64 cells: the store and {name: (time, y, x)}, REFC from 0 dBZ up."""
    path = str(tmp_path_factory.mktemp("synthetic") / "storms.zarr")
    main(Config(path, hours=96, size=64, seed=SEED))
    store = Store(path)
    fields = dict(zip(NAMES, np.stack([store.load(t, NAMES) for t in store.times], 1), strict=True))
    return store, fields | {"REFC": np.maximum(fields["REFC"], 0)}


def run(seed, hours, size):
    """(time, variable, y, x) of a record that is not stored."""
    hourly = generate(make_world(size, seed), seed, np.datetime64("2024-06-01"), hours)
    return np.stack([[fields[name] for name in NAMES] for _, fields in hourly])


def steering(store, hour):
    """How far the hidden steering wind moves a storm in the hour: (dy, dx) whole cells."""
    u, v = mean_winds(cycles(WORLD, store.times[hour]))[1].tolist()
    return round(v * CELLS_PER_HOUR), round(u * CELLS_PER_HOUR)


def test_the_store_is_hourly_complete_and_names_its_generator(record):
    store, _ = record
    assert store.names and set(store.names) == set(NAMES) and store.times[0] == np.datetime64("2024-05-20T00")
    assert (np.diff(store.times) == HOUR).all() and len(store.times) == 96
    assert "synthetic" in store.dataset.attrs["source"] and store.dataset.attrs["seed"] == SEED
    assert store.grid.spacing == (3000, 3000) and set(store.grid.static) == {"orography", "land_sea_mask"}
    assert 33 < store.grid.latitude.min() < store.grid.latitude.max() < 38
    assert set(np.unique(store.grid.static["land_sea_mask"])) <= {0, 1}


def test_values_are_finite_inside_their_bounds_and_consistent(record):
    store, f = record
    refc = store.dataset["REFC"].values
    assert all(np.isfinite(v).all() for v in f.values())
    assert refc.min() == -10 and (refc == -10).mean() > 0.5 and 55 < refc.max() < 80
    assert (f["D2M"] <= f["T2M"]).all() and f["D2M"].min() > 270 and f["T2M"].max() < 320
    assert f["CAPE"].min() >= 0 and 2000 < f["CAPE"].max() < 7000
    assert f["CIN"].max() <= 0 and -1000 < f["CIN"].min() < -100
    assert np.abs(f["U10"]).max() < 40 and np.abs(f["V10"]).max() < 40


def test_one_seed_gives_one_record_and_another_seed_another_over_the_same_terrain():
    first, again, other = run(3, 2, 33), run(3, 2, 33), run(4, 2, 33)
    assert first.shape == (2, 7, 33, 33) and (first == again).all()
    assert np.abs(first[:, 1] - other[:, 1]).mean() > 0.3  # K
    assert (make_world(8, 3).orography == make_world(8, 4).orography).all()  # the place stays
    assert run(0, 2, 8).shape == (2, 7, 8, 8)


@pytest.mark.parametrize("wrong", [{"hours": 1}, {"size": 7}, {"seed": -1}, {"start": "yesterday"}])
def test_a_bad_value_is_refused_with_the_fix(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got .* expected .* Fix: "):
        main(replace(Config("never.zarr"), **wrong))


def test_persistence_is_wrong_but_not_useless_for_every_variable(record):
    for name, field in record[1].items():
        ratio = np.sqrt((np.diff(field, axis=0) ** 2).mean()) / field.std()
        assert 0.2 < ratio < 1.0, name  # sqrt(2) is a field without memory


def test_echoes_move_with_the_steering_wind_and_not_with_the_wind_at_10_m(record):
    store, f = record
    errors = []
    for h in range(len(store.times) - 1):
        if (f["REFC"][h : h + 2] >= 30).mean() < 0.02:
            continue
        now, later = f["REFC"][h] * (f["REFC"][h] >= 30), f["REFC"][h + 1] * (f["REFC"][h + 1] >= 30)
        shape = (128, 128)  # zeros around: correlation without wrap
        match = np.fft.irfft2(np.fft.rfft2(later, shape) * np.fft.rfft2(now, shape).conj(), shape)
        best = (np.array(np.unravel_index(match.argmax(), shape)) + 64) % 128 - 64
        surface = CELLS_PER_HOUR * np.array([f["V10"][h].mean(), f["U10"][h].mean()])
        errors.append([np.hypot(*(best - steering(store, h))), np.hypot(*(best - surface))])
    of_steering, of_surface = np.median(errors, axis=0)
    assert len(errors) > 20 and of_steering < 2 and 2 * of_steering < of_surface


def test_storms_live_on_cape_by_day_leave_cold_pools_and_come_from_upwind(record):
    store, f = record
    refc, cover = f["REFC"], (f["REFC"] >= 20).mean((1, 2))
    local = (store.times.astype("datetime64[h]").astype(int) + SOLAR) % 24
    late = (local >= 12) & (local < 21)
    assert cover[late].mean() > 4 * cover[~late].mean()
    assert 0.02 < cover.mean() < 0.15 and 0.002 < (refc >= 40).mean() < 0.05
    daily = (refc.reshape(4, 24, -1) >= 40).mean(2).max(1)  # the widest hour of each day
    assert (daily > 0.01).sum() >= 3 and daily[-1] > 0.01
    near = torch.nn.functional.max_pool2d(torch.from_numpy(refc[:-1])[:, None], 13, 1, 6)[:, 0].numpy()
    born = (refc[1:] >= 30) & (near < 10)
    assert born.sum() > 50 and f["CAPE"][:-1][born].mean() > 1.5 * f["CAPE"].mean()
    storm = refc >= 45
    outside, speed = (refc < 5) & storm.any((1, 2))[:, None, None], np.hypot(f["U10"], f["V10"])
    assert f["T2M"][storm].mean() < f["T2M"][outside].mean() - 1 and speed[storm].mean() > speed[outside].mean() + 0.5
    assert (refc[:, :, :4] >= 20).mean() > 0.4 * (refc[:, :, 30:34] >= 20).mean()


def test_a_storm_that_leaves_on_one_side_does_not_come_back_on_the_other():
    world, time = make_world(24, 0), np.datetime64("2024-06-01T10")
    calm = stormy = first_state(world, torch.Generator().manual_seed(0))
    stormy = replace(stormy, storm=stormy.storm.clone())
    stormy.storm[1:, 30:50, -24:-16] = 20.0  # mm/h, east of the middle and moving east
    trace = []
    for h in range(4):
        calm, stormy = (advance(world, s, time, torch.Generator().manual_seed(h)) for s in (calm, stormy))
        time = time + HOUR
        both = (diagnose(world, s.air, s.storm, surroundings(world, s, time), time)["REFC"] for s in (calm, stormy))
        gap = (next(both) - next(both)).abs()
        trace.append((float(gap[:, -24:].max()), float(gap[:, :40].max())))
    assert trace[0][0] > 20 and max(west for _, west in trace) < 0.1


def test_work_without_a_terminal_says_now_and_then_how_far_it_is(monkeypatch, capsys):
    clock = iter(range(0, 1000, 15))
    monkeypatch.setattr(command.time, "monotonic", lambda: next(clock))
    assert list(command.paced("abcd", "scoring", 4, "case")) == list("abcd")
    assert capsys.readouterr().out == "scoring: 1 of 4\nscoring: 3 of 4\n"

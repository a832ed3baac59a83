"""Where hours are kept, how an epoch is ordered, and that half precision changes nothing."""

import numpy as np
import pytest
import torch

from data import cache
from data.cache import block_order, choose, free_memory
from data.packing import LEVELS, Packed, find_step, find_steps, pack
from data.sources.grib import decode, scan
from data.variables import TABLE

GB = 10**9


def packed(field: np.ndarray, step: float):
    """(fields after packing, error)."""
    out = np.empty(field.shape, np.int16)
    scale, offset, error = pack(field, step, out)
    hour = Packed(out[None], *(np.array([n], np.float32) for n in (scale, offset, error)))
    return hour.fields()[0], float(error)


def in_steps(low: float, step: float, levels: int, shape=(60, 70)) -> np.ndarray:
    """A field as a GRIB decoder gives it: a lowest value and whole numbers of steps, computed in float64."""
    k = np.random.default_rng(levels).integers(0, levels + 1, shape)
    k.flat[:2] = 0, levels
    return (np.float64(np.float32(low)) + k * step).astype(np.float32)


@pytest.mark.parametrize("low,step,levels", [(255.9653, 1 / 16, 960), (-10, 1 / 16, 1328), (0, 10, 600),
                                             (-58, 1, 58), (-7.3, 1 / 16, 300), (231.4, 0.01, 9000)])  # fmt: skip
def test_fields_in_steps_are_the_same_after_packing(low, step, levels):
    field = in_steps(low, step, levels)
    assert find_step(field) == pytest.approx(step, rel=1e-5)
    same, error = packed(field, find_step(field))
    assert error == 0
    if np.log2(step) == round(np.log2(step)) or step >= 1:
        assert np.array_equal(same, field)
    else:  # a step that float32 cannot hold: equal to its rounding
        assert np.abs(same - field).max() <= 2 * np.spacing(np.abs(field).max())


@pytest.mark.real_data
def test_real_hours_are_the_same_after_packing(real):
    files = [*sorted((real / "hrrr_grib").rglob("*.grib2"))[::6], *sorted((real / "hrrr_conus").glob("*refc*.grib2"))]
    seen = {}
    for message in (m for file in files for m in scan(file)):
        for variable in [v for v in TABLE if message.matches(v)]:
            field = decode(message).astype(np.float32)
            step = find_step(field)
            if step:  # 0 where a field is the same everywhere
                same, error = packed(field, step)
                # decoders round where a field crosses 256 K: one hour of D2M differs in its last digit
                assert error == 0 and np.abs(same - field).max() <= 2e-5 * (variable.name == "D2M"), variable.name
                seen.setdefault(variable.name, set()).add(step)
    assert seen["T2M"] == seen["D2M"] == seen["U10"] == seen["V10"] == seen["REFC"] == {1 / 16}
    assert min(seen["CAPE"]) >= 1 and min(seen["CIN"]) >= 0.1


def test_a_bound_at_which_cells_pile_up_stays_what_it_is():
    for levels in range(100, 140):
        inhibition = -in_steps(0, 0.1, levels)  # 0 is its highest value
        same, _ = packed(inhibition, 0.1)
        assert np.array_equal(same == 0, inhibition == 0) and same.max() == 0


def test_smooth_fields_have_no_step_and_noise_cannot_pass_for_one():
    noise = np.random.default_rng(0).normal(288, 8, (200, 300)).astype(np.float32)
    assert find_step(noise) is None
    assert find_step(np.zeros((4, 4), np.float32)) == 0
    assert find_step(np.float32([[0, 1, 2.4]])) is None and find_step(np.float32([[0, 1, 3]])) == 1
    stepped = np.round(noise * 16) / 16
    assert find_steps([np.stack([stepped, noise])]) == [1 / 16, None]
    assert find_steps([np.zeros((1, 4, 4), np.float32)]) == [None]  # nothing was seen
    assert find_steps([np.zeros((1, 200, 300), np.float32), stepped[None]]) == [1 / 16]


def test_an_hour_in_other_steps_is_told_and_wrong_by_half_a_scale_at_most():
    field = in_steps(270, 0.03, 2000)
    same, error = packed(field, 1 / 16)
    assert 0 < error <= 1 / 32 and 0 < np.abs(same - field).max() <= error * 1.01


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1.1 * LEVELS, -1.1 * LEVELS])
def test_what_int16_cannot_say_is_not_packed(odd):
    field = in_steps(0, 1, 60, (300, 700))
    field[123, 456] = odd  # not in a row that tells the range
    assert pack(field, 1.0, np.empty(field.shape, np.int16)) is None
    field[123, 456] = int(0.9 * LEVELS)  # far beyond the others
    same, error = packed(field, 1.0)
    assert error == 0 and np.array_equal(same, field)


def test_the_cache_goes_where_it_fits_and_says_so(monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda: 17 * GB)
    hour = 26_671_974
    plan = choose(335, hour, 3, "int16")
    assert (plan.place, plan.hours, plan.block(3)) == ("RAM", 335, 0)
    assert plan.line == "cache: all 335 hours in RAM as int16, 8.9 GB of 17.0 GB free"
    plan = choose(335, hour, 3, "int16", cache_gb=4.0)
    assert (plan.place, plan.hours, plan.block(3)) == ("RAM", 149, 147)
    assert "149 of 335 hours in RAM" in plan.line and "blocks of 147 pairs" in plan.line
    assert plan.block(26) == 124 and plan.block(200) == 0  # chains of 24 h; longer than what is kept
    assert choose(335, hour, 3, "int16", sharers=4).hours == int(0.6 * 17 * GB / 4 // hour)
    assert choose(335, hour, 3, "int16", cache_gb=99).hours == 335  # never more than what is free
    assert choose(1000, hour, 3, "int16", cache_gb=99).hours == int(0.6 * 17 * GB // hour)
    assert choose(335, hour, 3, "int16", cache_gb=0).place == "none"
    assert choose(335, hour, 3, "int16", device_bytes=80 * GB).place == "device"
    assert choose(335, hour, 3, "int16", device_bytes=10 * GB).place == "RAM"
    assert cache.device_room(torch.device("cuda"), lean=True) == 0  # lean mode leaves the device alone


def test_free_memory_heeds_the_limit_of_the_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 99 kB\nMemAvailable:   20000 kB\n")
    groups, own = tmp_path / "cgroup", tmp_path / "own"
    assert free_memory(meminfo, groups, own) == 20_000 * 1024
    (groups / "job/step").mkdir(parents=True)
    own.write_text("0::/job/step\n")
    (groups / "job/memory.max").write_text("9000000\n")  # the limit stands above this process's own group
    (groups / "job/memory.current").write_text("5000000\n")
    (groups / "job/memory.stat").write_text("anon 1\ninactive_file 1500000\n")
    (groups / "job/step/memory.max").write_text("max\n")
    (groups / "job/step/memory.current").write_text("1\n")
    assert free_memory(meminfo, groups, own) == 5_500_000
    (groups / "memory").mkdir()
    own.write_text("5:cpu,cpuacct:/x\n4:memory:/x\n")  # version 1; inside a container the path is not there
    (groups / "memory/memory.limit_in_bytes").write_text("7000000\n")
    (groups / "memory/memory.usage_in_bytes").write_text("6000000\n")
    (groups / "memory/memory.stat").write_text("total_inactive_file 0\n")
    assert free_memory(meminfo, groups, own) == 1_000_000


def test_blocks_hold_every_pair_once_and_differ_between_epochs():
    def order(seed, count=100, block=17):
        return block_order(count, block, torch.Generator().manual_seed(seed))

    for seed in range(20):
        assert sorted(order(seed)) == list(range(100))
    assert order(1) == order(1) != order(2)
    at = np.array(order(3))
    runs = [at[i : i + 17] for i in range(0, 100, 17)]
    assert min(np.ptp(r) for r in runs) < 40 < np.ptp(at)
    rng = torch.Generator().manual_seed(5)
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(5)).tolist()
    assert block_order(100, 0, rng) == expected  # all in the cache: the order is that of old runs

"""Operations, bytes and memory of a step on the full domain stay below their bars; lean and fast are the same model."""

import json

import pytest
import torch

from benchmarks import memory, speed


@pytest.fixture(scope="module")
def full():
    return {mode: memory.counted((1059, 1799), mode, 40) for mode in ("lean", "fast")}


@pytest.mark.parametrize(
    ("mode", "kind", "peak", "operations", "moved"),
    [
        ("lean", "training", 0.88e9, 900, 28e9),
        ("lean", "rollout_training", 0.89e9, 2000, 80e9),  # two steps with gradient after three without
        ("fast", "training", 2.0e9, 800, 29e9),
        ("fast", "rollout_training", 2.0e9, 2000, 80e9),
        ("lean", "forecast", 0.6e9, 400, 15e9),  # two steps
    ],
)
def test_a_step_on_the_full_domain_stays_below_its_bars(full, mode, kind, peak, operations, moved):
    found = full[mode][kind]
    state = 7 * 1059 * 1799 * 4  # bytes of one state in float32: not a count of nothing
    assert 3 * state < found["peak_bytes"] < peak
    assert 100 < found["operations"] < operations and 20 * state < found["moved_bytes"] < moved


def test_the_count_is_that_of_storages_that_are_alive():
    with memory.Count() as count:
        a = torch.zeros(1000)
        b = a.view(10, 100)  # the same storage
        c = torch.zeros(500)
        del c
        d = a + 1
    assert count.alive == 8000 and count.peak == 8000 and b.shape == (10, 100) and len(d) == 1000
    assert count.operations == 3 and count.moved == 4000 + 2000 + 8000  # a, c, d with what it read; no view
    with count:
        count.reset()
        torch.zeros(3000)
        assert count.peak == 20000 and count.alive == 8000 and (count.operations, count.moved) == (1, 12000)


def test_the_speed_of_each_mode_and_form_is_written(tmp_path, capsys):
    out = str(tmp_path / "s.json")
    speed.main(speed.Config((24, 32), base_features=4, repeats=1, forms=("eager", "captured"), json=out))
    found = json.loads((tmp_path / "s.json").read_text())["results"]
    assert {"lean eager", "fast eager"} <= set(found)
    for row in found.values():
        assert row["pairs_per_s"] > 0 and min(row["seconds"].values()) > 0 and row["warm_up_seconds"] > 0
    printed = capsys.readouterr().out
    assert "fast eager: " in printed and (torch.cuda.is_available() or "lean captured: left out" in printed)

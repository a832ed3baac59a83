"""The host benchmark: a host of the truth's own means, and the gain that it brings."""

import json

import numpy as np

from benchmarks import host
from data import synthetic_host
from tests.conftest import hour, small_grid, weather, write_store
from tests.model_files import write_checkpoint


def test_a_host_is_the_mean_over_its_cells_with_an_error_of_the_stated_size():
    at, weights = synthetic_host.averages(17, 8.0)
    assert at.tolist() == [0, 8, 16] and np.allclose(weights.sum(axis=1), 1)
    assert np.allclose(weights[1, 4:13], np.array([0.5, *[1] * 7, 0.5]) / 8) and not weights[1, :4].any()
    error = synthetic_host.smooth_error(np.arange(0, 400, 3.0), np.linspace(0, 1, 9), np.linspace(0, 1, 9), seed=0)
    assert 0.8 < error.std() < 1.2 and all(np.diff(error, axis=a).std() < error.std() for a in range(3))


def test_the_benchmark_compares_none_host_and_truth(tmp_path, command):
    names, field, grid = ["T2M", "U10"], lambda n, t: weather(n, t, (24, 32)), small_grid(24, 32)
    short, path = (write_store(tmp_path / f"{first}.zarr", field, [hour(n) for n in range(first, last)], names, grid)
                   for first, last in ((0, 40), (39, 70)))  # fmt: skip
    best = write_checkpoint(tmp_path / "best.pt", short, names)
    arguments = ("--checkpoint", best, "--zarr", path, "--climate", short, "--json", tmp_path / "h.json")
    code, out, err = command(host, *arguments)
    assert code == 0 and "share 24 h" in out, err
    result = json.loads((tmp_path / "h.json").read_text())
    assert result["init_times"] >= 1 and set(result["share"]["6"]) == set(result["skill"]["24"]) == set(names)
    rmse = {k: result[f"rmse_{k}"]["24"]["T2M"] for k in ("none", "host", "perfect")}
    assert len(set(rmse.values())) == 3
    gain = (rmse["none"] - rmse["host"]) / (rmse["none"] - rmse["perfect"])
    assert np.isclose(result["share"]["24"]["T2M"], gain)

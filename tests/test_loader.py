"""The loader benchmark reads the same hours in each way and writes its figures."""

import json

from benchmarks import loader
from data.store import Store


def test_the_loader_benchmark_writes_its_figures(command, tmp_path):
    loader.write_store(tmp_path / "s.zarr", 3, (24, 32))
    assert len(Store(tmp_path / "s.zarr").times) == 3
    code, out, err = command(loader, "--zarr", tmp_path / "s.zarr", "--repeats", 1, "--json", tmp_path / "l.json")
    assert code == 0 and "cached" in out, err
    result = json.loads((tmp_path / "l.json").read_text())
    assert result["grid"] == [24, 32] and result["hours"] == 3 and len(result["variables"]) == 7
    assert set(result["hours_per_s"]) == {"first epoch", "no checksums", "cached", "copy"}
    assert all(rate > 0 for rate in result["hours_per_s"].values())
    assert command(loader, "--repeats", 0)[0] == 2

"""Hours under faults that are real: chunks that go, are cut off or hold other bytes, missing values; a full disk."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import zarr

from data.command import run
from data.hours import Hours
from data.normalise import Statistics
from data.store import Store
from tests.conftest import hour, weather, write_store

NAMES = ["T2M", "U10"]
STATISTICS = Statistics(tuple(NAMES), torch.zeros(2), torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("damage", ["gone", "cut off", "noise", "a folder", "a missing value", "an infinite value"])
def test_a_damaged_chunk_is_an_error_that_names_the_hour_and_the_others_are_read(damage, tmp_path):
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(6)], NAMES)
    hours, chunk = Hours(Store(path), NAMES, STATISTICS, None), path / "U10" / "c" / "4" / "0" / "0"
    raw = chunk.read_bytes()
    if damage == "cut off":
        chunk.write_bytes(raw[: len(raw) // 2])
    elif damage == "noise":
        chunk.write_bytes(np.random.default_rng(0).bytes(len(raw)))
    elif "value" in damage:
        zarr.open_array(path / "U10", mode="r+")[4, 3, 3] = np.nan if "missing" in damage else np.inf
    else:
        chunk.unlink()
    if damage == "a folder":
        chunk.mkdir()  # for zarr it is not there
    with pytest.raises(ValueError, match=r"s\.zarr: .*2024-05-20T04:00.*Fix: ") as error:
        hours(hour(4))
    assert "U10" in str(error.value) and "\n" not in str(error.value)
    for c, name in enumerate(NAMES):
        assert np.array_equal(hours(hour(3))[c], weather(name, hour(3)))


def test_a_full_disk_ends_any_command_in_one_line(capsys, monkeypatch):
    @dataclass
    class Config:
        out: str = "/dev/full"  # the kernel's own full disk

    def main(cfg) -> None:
        with open(cfg.out, "w") as file:
            file.write("a forecast")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        run(Config, main)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and "make room" in said

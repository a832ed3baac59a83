"""Reading under real faults: chunks that go, a disk that comes back, stores that grow or are replaced, a server that
answers 503. Time passes only in a clock that the tests turn."""

import shutil
from dataclasses import dataclass

import fsspec
import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from fsspec.implementations.local import LocalFileSystem

from data import dataset as reading
from data.command import run
from data.dataset import Hours
from data.normalise import Statistics
from data.store import Store
from data.write import StoreWriter
from tests.conftest import hour, small_grid, weather, write_store

NAMES = ["T2M", "U10"]


class Clock:
    """A clock for data/dataset.py: sleep only advances it, and calls what is planned for that time."""

    def __init__(self):
        self.now, self.plan = 0.0, []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self.plan and self.plan[0][0] <= self.now:
            self.plan.pop(0)[1]()


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reading, "clock", clock)
    return clock


@pytest.fixture
def path(tmp_path):
    return write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(6)], NAMES)


def hours(path, names=NAMES, mask=None) -> Hours:
    n = len(names)
    return Hours(Store(path), names, Statistics(tuple(names), torch.zeros(n), *[torch.ones(n)] * 2), mask)


def right(read: Hours, n: int) -> bool:
    return all(np.array_equal(v, weather(name, hour(n))) for v, name in zip(read(hour(n)), NAMES, strict=True))


def test_a_disk_that_comes_back_is_waited_for_with_one_note(path, clock, capsys):
    read, away = hours(path), path.with_name("away")
    path.rename(away)
    clock.plan = [(120.0, lambda: away.rename(path))]
    assert right(read, 4) and 120 <= clock.now < 151
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.startswith("note: 2024-05-20T04:00 cannot be read")
    assert "trying again for up to 600 s" in out


def test_an_hour_that_cannot_be_read_for_ten_minutes_ends_in_one_line(path, clock):
    read = hours(path)
    path.rename(path.with_name("away"))
    with pytest.raises(ValueError, match=r"s\.zarr: 2024-05-20T04:00 cannot be read .* Fix: check the disk"):
        read(hour(4))
    assert 570 < clock.now <= 600


@pytest.mark.parametrize("fill", [np.nan, 0.0])
def test_a_chunk_that_is_gone_is_named_at_once_and_never_read_as_its_fill_value(tmp_path, fill, clock):
    fields = np.stack([weather("CAPE", hour(n)) + 1 for n in range(6)])
    fields[5] = fill  # written, but no chunk is made for a field of the fill value
    path = tmp_path / "z.zarr"
    data = xr.Dataset({"CAPE": (("time", "y", "x"), fields)}, {"time": [hour(n) for n in range(6)]})
    data.to_zarr(path, encoding={"CAPE": {"chunks": (1, 12, 16), "fill_value": fill}}, zarr_format=3)
    read, chunk = hours(path, ["CAPE"]), path / "CAPE/c/3/0/0"
    assert not (path / "CAPE/c/5").exists()
    chunk.unlink()
    with pytest.raises(ValueError, match=r"z\.zarr: the chunk of CAPE at 2024-05-20T03:00 is gone"):
        read(hour(3))
    chunk.mkdir()  # for zarr it is not there
    with pytest.raises(ValueError, match="is gone"):
        read(hour(3))
    assert clock.now == 0
    assert np.allclose(read.physical(hour(2))[0], fields[2])
    if fill == 0:  # it never existed
        assert not read(hour(5)).any()


def test_a_chunk_that_no_hour_has_may_be_a_mask(tmp_path):
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(3)], ["T2M"])
    array = zarr.open_array(path / "T2M", mode="r+")
    array[:] = np.where(np.arange(16) < 8, np.nan, array[:])
    mask = torch.from_numpy(np.isnan(array[0]))[None]
    data = xr.open_zarr(path)[["T2M"]].load().drop_encoding()
    data.to_zarr(tmp_path / "m.zarr", encoding={"T2M": {"chunks": (1, 12, 8)}}, zarr_format=3)
    assert not (tmp_path / "m.zarr/T2M/c/1/0/0").exists()
    assert np.array_equal(hours(tmp_path / "m.zarr", ["T2M"], mask).physical(hour(1))[0], array[1], equal_nan=True)
    shutil.rmtree(tmp_path / "m.zarr/T2M/c/1/0")
    with pytest.raises(ValueError, match=r"the chunk of T2M at .*01:00 is gone"):
        hours(tmp_path / "m.zarr", ["T2M"], mask)(hour(1))


@pytest.mark.parametrize("damage", ["cut off", "missing value"])
def test_what_no_patience_heals_is_refused_at_once(path, damage, clock):
    chunk = path / "U10/c/4/0/0"
    if damage == "missing value":
        zarr.open_array(path / "U10", mode="r+")[4, 0, 0] = np.nan
    else:
        chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"U10 at 2024-05-20T04:00 (cannot be read|has 1 missing)"):
        hours(path)(hour(4))
    assert clock.now == 0 and right(hours(path), 3)


def test_a_store_that_grows_is_read_on_and_one_that_is_replaced_is_refused(path):
    wanted, read = [hour(n) for n in range(9)], hours(path)
    with StoreWriter(path, NAMES, small_grid(), {"source": "a test"}, None, wanted) as store:
        for t in store.todo:
            store.write(t, {n: weather(n, t) for n in NAMES})
    assert right(read, 2)
    write_store(path, lambda n, t: weather(n, t) + 1, wanted, NAMES)
    with pytest.raises(ValueError, match="is another store than when this run began"):
        read(hour(1))


# ---- a remote store


class Remote(LocalFileSystem):
    """A file system that can fail as a server does, with errors of its client's own."""

    protocol, cachable, broken = "faulty", False, False

    def cat_file(self, path, start=None, end=None, **options):
        if Remote.broken:
            raise RuntimeError("HTTP 503")
        return super().cat_file(path, start, end, **options)


def test_a_server_that_answers_503_is_asked_again_and_a_chunk_that_it_has_lost_is_named(
    path, clock, capsys, monkeypatch
):
    fsspec.register_implementation("faulty", Remote, clobber=True)
    read = hours(f"faulty://{path}")
    monkeypatch.setattr(Remote, "broken", True)
    clock.plan = [(20.0, lambda: setattr(Remote, "broken", False))]
    assert right(read, 1) and "HTTP 503" in capsys.readouterr().out
    shutil.rmtree(path / "U10/c/3")
    with pytest.raises(ValueError, match=r"the chunk of U10 at .*03:00 is gone"):
        read(hour(3))
    Remote.broken = True
    with pytest.raises(ValueError, match=r"04:00 cannot be read \(.*HTTP 503.* Fix: "):
        read(hour(4))


def test_a_full_disk_ends_any_command_in_one_line(capsys, monkeypatch):
    @dataclass
    class Config:
        out: str = "/dev/full"  # the kernel's own full disk

    def main(cfg) -> None:
        with open(cfg.out, "w") as file:
            file.write("a forecast")

    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        run(Config, main)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and "make room" in said

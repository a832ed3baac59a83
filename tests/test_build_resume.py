"""Builds that are interrupted, repeated and extended: never half an hour, and in the end one unbroken store."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import PROJECT, hour, small_grid, weather, write_store
from zarr.core.sync import sync

from data import build_hrrr, check_store, write
from data.write import StoreWriter

NAMES = ("T2M", "CIN")
HOURS = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("source") / "s.zarr", weather, [hour(n) for n in range(HOURS)], NAMES)


@pytest.fixture
def build(command, source, tmp_path):
    def call(*options):
        out = tmp_path / "out.zarr"
        return command(build_hrrr, "--source", "zarr", "--path", source, "--out", out, *options)

    return call


def loaded(path) -> xr.Dataset:
    """Everything but the history."""
    dataset = xr.open_zarr(path).load()
    dataset.attrs.pop("history")
    return dataset


def files(folder) -> dict:
    return {p.relative_to(folder): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def unbroken(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken") / "out.zarr"
    build_hrrr.main(build_hrrr.Config(source="zarr", path=str(source), out=str(path)))
    return loaded(path)


def assert_sound(path, count: int, command) -> None:
    """Readers see exactly `count` hours, each complete."""
    store = xr.open_zarr(path)
    assert store.sizes["time"] == count
    for n, t in enumerate(store.time.values):
        assert np.array_equal(store.T2M[n], weather("T2M", t)) and np.array_equal(store.CIN[n], weather("CIN", t))
    assert command(check_store, path)[0] == 0


# the same command, which kills itself after so many files that it waited for
KILL = """
import multiprocessing, os, signal
left, fsync = int(os.environ["SYNCS"]), os.fsync
def counted(handle):
    global left
    fsync(handle)
    left -= 1
    if left < 0 and multiprocessing.parent_process() is None:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = counted
"""


@pytest.mark.parametrize("processes, times, most", [(1, 5, 8), (2, 3, 6)])
def test_a_build_that_is_killed_again_and_again_ends_as_an_unbroken_one(
    source, unbroken, command, tmp_path, processes, times, most
):
    out, progress = tmp_path / "out.zarr", tmp_path / "out.zarr.partial" / "progress"
    call = ["--source", "zarr", "--path", str(source), "--out", str(out)]
    (tmp_path / "sitecustomize.py").write_text(KILL)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    rng, reached = random.Random(processes), []
    for end in (19, 39):  # killed while the store is new, then while it is extended
        options = [*call, "--end", str(hour(end)), "--processes", str(processes)]
        for _ in range(times):
            done = subprocess.run([sys.executable, "-m", "data.build_hrrr", *options], cwd=PROJECT, timeout=60,
                                  env=environment | {"SYNCS": str(rng.randrange(2, most))},
                                  capture_output=True)  # fmt: skip # until workers have closed their output too
            assert done.returncode == -signal.SIGKILL, done.stderr
            reached.append(progress.read_text().count("\n"))
            assert out.exists() == (end == 39)
            if out.exists():
                assert_sound(out, 20, command)
        _, said, _ = command(build_hrrr, *options[:-2])
        assert "hours are there already" in said
        assert_sound(out, end + 1, command)
    new = reached[:times]
    assert new == sorted(new) and new[-1] > 2  # it went on and did not begin again
    xr.testing.assert_identical(loaded(out), unbroken)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("out")) == ["out.zarr"]


class Killed(BaseException):
    pass


async def others_to_end() -> None:
    """The files that zarr writes at the same time: a process that dies leaves none of them at work."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)


def stop_at(monkeypatch, count: int) -> None:
    """The process dies before the count-th step that changes a file when a store is completed or extended."""
    left = iter(range(count))

    def stopping(original):
        def call(*args, **kwargs):
            if next(left, None) is None:
                raise Killed
            return original(*args, **kwargs)

        return call

    for module, name in ((Path, "rename"), (Path, "unlink"), (write, "replace"), (write, "write_template"),
                         (write.shutil, "rmtree"), (zarr.Array, "resize"), (zarr.Array, "__setitem__"),
                         (zarr.Group, "update_attributes"), (write.zarr, "consolidate_metadata")):  # fmt: skip
        monkeypatch.setattr(module, name, stopping(getattr(module, name)))


@pytest.mark.parametrize("first", [0, 2])
def test_dying_at_any_step_of_the_completion_leaves_old_or_new_and_never_half(tmp_path, monkeypatch, first):
    wanted, grid = [hour(n) for n in range(5)], small_grid()

    def work(path, times):
        with StoreWriter(path, list(NAMES), grid, {"source": "a", "history": "h"}, None, times) as store:
            for t in store.todo:
                store.write(t, {n: weather(n, t) for n in NAMES})

    whole = tmp_path / "whole.zarr"
    work(whole, wanted)
    seen = set()
    for count in range(90):
        path = tmp_path / f"{count}.zarr"
        if first:
            work(path, wanted[:first])
        with monkeypatch.context() as patch:
            stop_at(patch, count)
            try:
                work(path, wanted)
                died = False
            except Killed:
                died = True
                sync(others_to_end())
        if path.exists():
            store = xr.open_zarr(path).load()
            seen.add(store.sizes["time"])
            xr.testing.assert_identical(store.drop_attrs(deep=False),
                                        xr.open_zarr(whole).isel(time=slice(store.sizes["time"])).load()
                                        .drop_attrs(deep=False))  # fmt: skip
        work(path, wanted)
        xr.testing.assert_identical(loaded(path), loaded(whole))
        assert not list(tmp_path.glob(f"{count}.zarr.*"))
        if not died:
            break
    assert not died and count > 20 and seen == ({2, 5} if first else {5})


def test_the_same_command_again_changes_no_file(build, tmp_path):
    build()
    before = files(tmp_path / "out.zarr")
    code, out, _ = build()
    assert code == 0 and "40 hours are there already; 0 to go" in out and files(tmp_path / "out.zarr") == before


def test_a_later_end_adds_the_hours_and_an_open_reader_keeps_its_own(build, tmp_path, unbroken):
    build("--end", hour(9))
    reader = xr.open_zarr(tmp_path / "out.zarr", chunks=None)
    assert build("--end", hour(25))[0] == 0 and build()[0] == 0
    assert reader.sizes["time"] == 10 and np.array_equal(reader.T2M[9], weather("T2M", hour(9)))
    xr.testing.assert_identical(loaded(tmp_path / "out.zarr"), unbroken)
    assert build("--end", hour(3))[0] == 0  # fewer hours: all there, nothing is removed
    xr.testing.assert_identical(loaded(tmp_path / "out.zarr"), unbroken)
    assert len(xr.open_zarr(tmp_path / "out.zarr").attrs["history"].splitlines()) == 3


@pytest.mark.parametrize(
    "options, part",
    [(("--variables", "T2M"), "holds T2M CIN, got T2M to add"), (("--forecast_hour", 1), "holds hours of f00, got f01"),
     (("--start", hour(2)), "lacks 3 of the wanted hours before")],
)  # fmt: skip
def test_another_build_does_not_go_into_a_store(command, build, tmp_path, options, part):
    source = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(12)], NAMES)
    build("--start", hour(5), "--end", hour(6))
    before = files(tmp_path / "out.zarr")
    if "--forecast_hour" in options:
        with StoreWriter(source, list(NAMES), small_grid(), {}, forecast_hour=1) as store:
            for n in range(12):
                store.write(hour(n), {v: weather(v, hour(n)) for v in NAMES})
    code, _, err = command(build_hrrr, "--source", "zarr", "--path", source, "--out", tmp_path / "out.zarr", *options)
    assert code == 2 and part in err and "Fix: " in err and files(tmp_path / "out.zarr") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.zarr", "s.zarr"]


def test_another_grid_is_refused_unless_the_store_is_to_be_replaced(command, build, tmp_path):
    build()
    other = write_store(tmp_path / "s.zarr", lambda n, t: weather(n, t)[:8], [hour(50)], NAMES, small_grid(8))
    call = ("--source", "zarr", "--path", other, "--out", tmp_path / "out.zarr")
    assert "holds another grid" in command(build_hrrr, *call)[2]
    assert command(build_hrrr, *call, "--replace", True)[0] == 0
    assert list(xr.open_zarr(tmp_path / "out.zarr").time.values) == [hour(50)]


def test_a_build_that_is_refused_or_has_nothing_to_do_leaves_an_interrupted_one_alone(tmp_path):
    path = write_store(tmp_path / "s.zarr", weather, [hour(0)], NAMES)

    def writer(names, last: int) -> StoreWriter:
        return StoreWriter(path, list(names), small_grid(), {}, None, [hour(n) for n in range(last + 1)])

    def write(store, n: int) -> None:
        store.write(hour(n), {v: weather(v, hour(n)) for v in NAMES})

    with pytest.raises(RuntimeError), writer(NAMES, 2) as store:
        write(store, 1)
        raise RuntimeError
    with pytest.raises(ValueError, match="got T2M to add"):
        writer(["T2M"], 2)
    with writer(NAMES, 0) as store:
        assert store.todo == []
    with writer(NAMES, 2) as store:
        assert store.todo == [hour(2)]
        write(store, 2)
    assert xr.open_zarr(path).sizes["time"] == 3 and [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_a_second_builder_of_the_same_store_is_refused(tmp_path):
    with StoreWriter(tmp_path / "s.zarr", ["T2M"], small_grid(), {}, None, [hour(0)]) as store:
        with pytest.raises(ValueError, match="another process that is building it"):
            StoreWriter(tmp_path / "s.zarr", ["T2M"], small_grid(), {}, None, [hour(0)])
        store.write(hour(0), {"T2M": weather("T2M", hour(0))})
    assert xr.open_zarr(tmp_path / "s.zarr").sizes["time"] == 1


def test_a_source_that_breaks_off_keeps_what_is_complete_and_a_replaced_store_stays_till_the_end(
    build, tmp_path, unbroken, monkeypatch
):
    old = write_store(tmp_path / "out.zarr", lambda n, t: 250.0 if n == "T2M" else -1.0, [hour(0)], NAMES)
    load = build_hrrr.SOURCES["zarr"].load

    def broken(self, time):
        if time == hour(30):
            raise ValueError("got no answer, expected one. Fix: later")
        return load(self, time)

    with monkeypatch.context() as patch:
        patch.setattr(build_hrrr.SOURCES["zarr"], "load", broken)
        code, out, err = build("--replace", True)
        assert code == 2 and "30 complete hours are kept" in out and err.splitlines()[-1].startswith("error: ")
    assert xr.open_zarr(old).sizes["time"] == 1
    code, out, _ = build("--replace", True)
    assert code == 0 and "30 hours are there already; 10 to go" in out
    xr.testing.assert_identical(loaded(old), unbroken)

"""Hours built by one process, by several and by a Dask cluster: the same store; broken dew points are mended."""

import os
import pickle
import signal

import numpy as np
import pytest
import xarray as xr
from conftest import hour, weather, write_store

from data import build_hrrr, check_store, workers
from data.sources.grib import GribHours
from data.sources.zarr_netcdf import ZarrHours
from data.workers import repair_dew_points

NAMES = ("T2M", "D2M", "CIN")
HOURS = 30


def fields(name, time):
    """CIN with the other sign; three broken dew points in every tenth hour."""
    values = -weather("CIN", time) if name == "CIN" else weather(name, time).copy()
    if name == "D2M" and int((time - hour(0)) / np.timedelta64(1, "h")) % 10 == 0:
        values[2, 3] = values[0, 0] = values[9, 15] = 192.12
    return values


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("source") / "s.zarr", fields, [hour(n) for n in range(HOURS)], NAMES)


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "out.zarr"
    build_hrrr.main(build_hrrr.Config(source="zarr", path=str(source), out=str(path), processes=1))
    return xr.open_zarr(path).load()


def same(path, alone):
    a = xr.open_zarr(path).load()
    xr.testing.assert_identical(a.drop_attrs(deep=False), alone.drop_attrs(deep=False))


def test_several_processes_build_the_same_store(command, source, alone, tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(workers, "local_pool", lambda *a, f=workers.local_pool: served.append(a[2]) or f(*a))
    code, out, _ = command(build_hrrr, "--source", "zarr", "--path", source, "--out", tmp_path / "o.zarr",
                           "--processes", 3)  # fmt: skip
    assert code == 0 and served == [3] and "wrote 30 hours" in out
    assert "9 broken dew points in 3 hours (first 2024-05-20T00:00)" in out
    assert "CIN was positive in 30 hours" in out
    same(tmp_path / "o.zarr", alone)


def test_a_dask_cluster_builds_the_same_store(command, source, alone, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster:
        call = ("--source", "zarr", "--path", source, "--out", tmp_path / "o.zarr")
        code, out, err = command(build_hrrr, *call, "--end", hour(19), "--dask", cluster.scheduler_address)
        assert code == 0 and "wrote 20 hours" in out, err
        code, out, err = command(build_hrrr, *call, "--dask", cluster.scheduler_address)
        assert code == 0 and "wrote 10 hours" in out, err
        same(tmp_path / "o.zarr", alone)


def test_an_address_without_a_scheduler_is_refused(command, source, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "PATIENCE", 1)
    code, _, err = command(build_hrrr, "--source", "zarr", "--path", source, "--out", tmp_path / "o.zarr",
                           "--dask", "tcp://127.0.0.1:1")  # fmt: skip
    assert code == 2 and "got no answer from tcp://127.0.0.1:1" in err and not list(tmp_path.iterdir())


def test_a_worker_that_dies_ends_the_build_and_the_same_command_goes_on(command, source, alone, tmp_path, monkeypatch):
    record = build_hrrr.StoreWriter.add

    def kill_one(self, time):
        record(self, time)
        if len(self.hours) == 5:
            import multiprocessing

            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    call = ("--source", "zarr", "--path", source, "--out", tmp_path / "o.zarr", "--processes", 2)
    with monkeypatch.context() as patch:
        patch.setattr(build_hrrr.StoreWriter, "add", kill_one)
        code, out, err = command(build_hrrr, *call)
    assert (
        code == 2 and "a worker process that ended before its work was done" in err and "complete hours are kept" in out
    )
    assert not (tmp_path / "o.zarr").exists()
    code, out, _ = command(build_hrrr, *call)
    assert code == 0 and "hours are there already" in out
    same(tmp_path / "o.zarr", alone)
    assert command(check_store, tmp_path / "o.zarr")[0] == 0


def test_a_broken_chunk_ends_several_processes_in_one_line(command, tmp_path):
    bad = write_store(tmp_path / "bad.zarr", fields, [hour(n) for n in range(6)], NAMES)
    chunk = bad / "T2M" / "c" / "3" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    code, _, err = command(
        build_hrrr, "--source", "zarr", "--path", bad, "--out", tmp_path / "o.zarr", "--processes", 2
    )
    assert code == 2 and err.count("error:") == 1 and "T2M cannot be read" in err and "Traceback" not in err
    assert not (tmp_path / "o.zarr").exists()


def test_a_source_that_was_sent_elsewhere_loads_the_same(source, tmp_path):
    cfg = build_hrrr.Config(source="zarr", path=str(source))
    here = ZarrHours(cfg, None, None)
    here.load(hour(3))
    assert len(pickle.dumps(here)) < 100_000  # nothing decoded travels
    there = pickle.loads(pickle.dumps(here))
    for time in (hour(3), hour(29)):
        assert all(np.array_equal(v, there.load(time)[n]) for n, v in here.load(time).items())
    folder = tmp_path / "nc"
    folder.mkdir()
    for day in range(2):
        part = xr.open_zarr(source).load().isel(time=slice(24 * day, 24 * day + 24))
        xr.Dataset({n: part[n] for n in NAMES}).drop_encoding().to_netcdf(folder / f"{day}.nc")
    here = ZarrHours(build_hrrr.Config(source="zarr", path=str(folder)), None, None)
    there = pickle.loads(pickle.dumps(here))
    for time in (hour(3), hour(29)):
        assert all(np.array_equal(v, there.load(time)[n]) for n, v in here.load(time).items())


@pytest.mark.real_data
def test_grib_files_built_by_two_processes_equal_those_built_by_one(command, real, tmp_path):
    for n in (1, 2):
        assert (
            command(build_hrrr, "--path", real / "hrrr_grib", "--out", tmp_path / f"{n}.zarr", "--processes", n)[0] == 0
        )
    same(tmp_path / "2.zarr", xr.open_zarr(tmp_path / "1.zarr").load())
    hours = GribHours(build_hrrr.Config(path=str(real / "hrrr_grib")), None, None)
    there = pickle.loads(pickle.dumps(hours))
    assert all(np.array_equal(v, there.load(hours.times[5])[n]) for n, v in hours.load(hours.times[5]).items())


def test_dew_points_are_mended_only_where_a_pixel_stands_alone():
    x = np.mgrid[:20, :24][1]
    warm = (285 + 0.1 * x).astype(np.float32)
    bad = warm.copy()
    bad[0, 0] = bad[10, 10] = bad[10, 12] = bad[19, 23] = 192.12
    mended, count = repair_dew_points(bad)
    assert count == 4 and abs(mended - warm).max() < 0.3 and np.array_equal(mended[10, 10], np.median(bad[8:13, 8:13]))
    untouched = bad != np.float32(192.12)
    assert np.array_equal(mended[untouched], warm[untouched])
    cold = (190 + 0.2 * x).astype(np.float32)  # polar air that passes through the broken value
    dry = warm.copy()
    dry[5, 5] = 231.0  # as over the dry mountains of ERA5: weather
    assert repair_dew_points(cold)[1] == repair_dew_points(dry)[1] == 0 and repair_dew_points(warm)[0] is warm
    hole = warm.copy()
    hole[3:6, 3:6] = np.nan
    hole[4, 7] = 192.12
    mended, count = repair_dew_points(hole)
    assert count == 1 and np.isnan(mended[3:6, 3:6]).all() and np.isfinite(mended[4, 7])


def test_processes_are_as_many_as_memory_and_work_allow(monkeypatch):
    class Source:
        names = ["T2M"] * 7
        cache_bytes = 0
        grid = type("Grid", (), {"shape": (1059, 1799)})

    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: set(range(64)))
    many = workers.suggested(Source, [hour(n) for n in range(500)])
    field = 4 * 1059 * 1799 * 7
    assert workers.INTERPRETER * (many + 1) + many * workers.HELD * field < 2**30 and many >= 2
    assert workers.suggested(Source, [hour(0)]) == 1  # not worth a process of its own

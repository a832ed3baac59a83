"""The cached loader gives what xarray gives, decodes each hour once, and outlives spawn and wrong chunks."""

import multiprocessing
import pickle
import threading

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from numcodecs.blosc import Blosc

from data import cache, hours
from data.chunks import plain_arrays, read_fields
from data.dataset import Hours, Series, find_pairs, read_ahead
from data.metadata import COMPRESSION
from data.store import Store
from data.transfer import Pinned
from tests.conftest import SEVEN, hour, weather, write_store

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
TWO = ["T2M", "CIN"]
ONE = (1, 12, 16)  # one chunk an hour
ALL = (hour(0), hour(10_000))


def in_steps(name: str, time: np.datetime64) -> np.ndarray:
    """Weather in steps, as GRIB has it, with another lowest value in each hour."""
    base = 255.9653 + float((time - hour(0)) / LEAD) / 7 if name == "T2M" else 0
    return (base + np.round(weather(name, time) * 16) / 16 - (270 if name == "T2M" else 0)).astype(np.float32)


@pytest.fixture(scope="module")
def stepped(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("stores") / "stepped.zarr"
    return Store(write_store(path, in_steps, [hour(n) for n in range(30)], TWO))


def test_every_value_is_that_of_xarray_whatever_the_cache(seven_store, stepped):
    for path, names in ((seven_store, list(SEVEN)), (stepped.path, TWO)):
        store = Store(path)
        plain = xr.open_zarr(path)[names].to_array().transpose("time", "variable", ...).values
        at_once, packed, parallel = (Hours(store, names, None, threads=t) for t in (1, 1, 2))
        packed.plan(store.times, 3)
        assert (packed._steps is None) == (path == seven_store), "smooth weather stays float32"
        for n, t in list(enumerate(store.times))[::3]:
            for loader in (at_once, packed, packed, parallel):
                assert loader(t).dtype == torch.float32 and np.array_equal(loader(t).numpy(), plain[n])
            assert np.array_equal(store.load(t, names), plain[n])
        kept = len(plain[::3]) * plain[0].nbytes
        assert packed.rounded == {} and packed._held == (kept // 2 if names == TWO else kept)


@pytest.mark.parametrize("source", ["seven", "stepped"])
def test_batches_become_the_tensors_of_the_plain_reader(seven_store, stepped, source):
    store, names = (stepped, TWO) if source == "stepped" else (Store(seven_store), list(SEVEN))
    plain = Series(Hours(store, names, None), LEAD, 1)
    loader = Hours(store, names, None)
    for _ in range(2):  # a run that goes on after a setback plans again
        assert (" as int16" in loader.plan(store.times, 4).line) == (source == "stepped")
        loader(store.times[0])
    cached = Series(loader, LEAD, 1)
    starts = find_pairs(store.times, LEAD, ALL, 1, 2)
    for chosen in ([3], [7, 2]):
        expected = plain.states(starts[chosen]), *plain.targets(starts[chosen], range(2))
        states, targets = cached.batches(starts[chosen], range(2))
        copies = [b.clone() for b in (states, *targets)]
        got = [b.to("cpu") for b in (states, *targets)]
        assert all(torch.equal(a, b) for a, b in zip(got, copies, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        assert torch.equal(cached.states(starts[chosen]), expected[0])


def decodes_of_an_epoch(store, block, room, seed):
    loader = Hours(store, TWO, None)
    loader.plan(store.times, 3, cache_gb=room * 2 * 2 * 12 * 16 / 1e9)  # so many hours of two int16 fields
    loader.decoded = 0
    starts = find_pairs(store.times, LEAD, ALL, 1)
    order = cache.block_order(len(starts), block, torch.Generator().manual_seed(seed))
    series = Series(loader, LEAD, 1)
    for i, (_, (target,)) in read_ahead(lambda i: series.batches(starts[[i]], range(1)), order):
        assert torch.equal(target.to("cpu")[0], torch.from_numpy(store.load(starts[i] + LEAD, TWO)))
    return loader.decoded, len(loader._kept)


def test_in_blocks_each_hour_is_decoded_once_an_epoch(stepped):
    for seed in range(2):
        decoded, kept = decodes_of_an_epoch(stepped, 0, 30, seed)
        assert (decoded, kept) == (30, 30)  # all of it fits
        plan = cache.choose(30, 768, 3, "", 10.5 * 768 / 1e9)
        assert (plan.hours, plan.block(3)) == (10, 8)
        decoded, kept = decodes_of_an_epoch(stepped, 8, 10.5, seed)
        seams = -(-28 // 8)  # at most so many, between the first pair's block and the last one's
        assert 30 <= decoded <= 30 + 2 * seams and kept == 10
        assert decodes_of_an_epoch(stepped, 0, 10.5, seed)[0] > 40  # what a random order costs with that cache


def test_hours_go_to_a_spawned_process(stepped):
    loader = Hours(stepped, TWO, None, cache_gb=1, threads=2)
    here = loader(hour(5))
    assert len(pickle.dumps(loader)) < 100_000, "what is decoded stays here"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.equal(pool.apply(loader, (hour(5),)), here)


def test_the_fast_way_leaves_what_it_does_not_know_to_xarray(tmp_path, stepped):
    assert None not in plain_arrays(stepped, TWO)
    plain = xr.open_zarr(stepped.path)[["T2M"]].isel(time=slice(0, 6)).load()
    for n, other in enumerate([
        {"chunks": (2, 12, 16)}, {"chunks": (1, 6, 16)}, {"dtype": "float64"}, {"_FillValue": 255.0},
        {"dtype": "int16", "scale_factor": 0.01, "add_offset": 250.0, "_FillValue": -9999},
        {"compressors": [zarr.codecs.GzipCodec()]}, {"shards": (2, 12, 16)}, {"compressors": None}, {},
    ]):  # fmt: skip
        encoding = {"chunks": ONE, "compressors": [COMPRESSION], **other}
        path = tmp_path / f"{n}.zarr"
        plain.drop_encoding().to_zarr(path, zarr_format=3, encoding={"T2M": encoding}, consolidated=False)
        store = Store(path)
        assert (plain_arrays(store, ["T2M"]) == [None]) == (n < 7)
        assert torch.equal(Hours(store, ["T2M"], None)(hour(3)), torch.from_numpy(store.load(hour(3), ["T2M"])))
        read = read_fields(store, plain_arrays(store, ["T2M"]), hour(3), ["T2M"])  # as verification does
        assert np.array_equal(read, store.load(hour(3), ["T2M"]))
    plain.drop_encoding().to_zarr(
        tmp_path / "2.zarr", zarr_format=2, encoding={"T2M": {"chunks": (1, 12, 16)}}, mode="w"
    )
    store = Store(tmp_path / "2.zarr")
    assert None not in plain_arrays(store, ["T2M"])  # zarr's default in version 2 is Blosc too
    assert torch.equal(Hours(store, ["T2M"], None)(hour(3)), torch.from_numpy(plain.T2M.values[3:4]))


@pytest.mark.parametrize("harm", ["cut", "gone", "other", "short", "nan"])
def test_a_harmed_chunk_ends_in_the_usual_line(tmp_path, harm):
    path = write_store(tmp_path / "s.zarr", in_steps, [hour(n) for n in range(8)], ["T2M"])
    store = Store(path)
    loader = Hours(store, ["T2M"], None)
    loader.plan(store.times, 3)
    arrays, chunk = plain_arrays(store, ["T2M"]), path / "T2M/c/3/0/0"
    if harm == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-7])
    elif harm == "gone":
        chunk.unlink()
    elif harm == "short":
        chunk.write_bytes(Blosc().encode(np.zeros(12 * 8, np.float32)))
    elif harm == "other":
        chunk.write_bytes(b"no blosc frame at all, and of some length")
    else:
        field = in_steps("T2M", hour(3))
        field[2, 5] = np.nan
        zarr.open_array(path / "T2M", mode="r+")[3] = field
    loader(hour(2))
    if harm in ("gone", "nan"):
        with pytest.raises(ValueError, match=r"T2M has .* missing or infinite values at 2024-05-20T03.*check_store"):
            loader(hour(3))
        assert np.isnan(read_fields(store, arrays, hour(3), ["T2M"])).any()  # as verification does
    else:
        with pytest.raises(Exception, match=r"cannot be read|decompress"):
            loader(hour(3))
        with pytest.raises(ValueError, match="cannot be read"):
            read_fields(store, arrays, hour(3), ["T2M"])


def test_a_mask_keeps_float32_and_its_cells(tmp_path):
    def holed(name, t):
        return np.where(np.arange(16) < 3, np.nan, in_steps(name, t)).astype(np.float32)

    store = Store(write_store(tmp_path / "s.zarr", holed, [hour(n) for n in range(6)]))
    mask = torch.from_numpy(np.isnan(holed("T2M", hour(0))))[None]
    loader = Hours(store, ["T2M"], mask)
    assert "float32 (some cells are missing)" in loader.plan(store.times, 3).line
    assert np.array_equal(loader(hour(4)).numpy()[0], holed("T2M", hour(4)), equal_nan=True)
    with pytest.raises(ValueError, match="missing"):
        Hours(store, ["T2M"], None)(hour(4))


def test_hours_that_came_in_other_steps_are_counted(tmp_path):
    def odd(name, t):  # one hour of forty, between those that are looked at
        return in_steps(name, t) * np.float32(1.0371 if t == hour(3) else 1)

    store = Store(write_store(tmp_path / "s.zarr", odd, [hour(n) for n in range(40)]))
    loader = Hours(store, ["T2M"], None)
    loader.plan(store.times, 3)
    for t in store.times:
        error = np.abs(loader(t).numpy() - store.load(t, ["T2M"])).max()
        assert error <= (loader.rounded["T2M"] if t == hour(3) else 0)
    assert loader.rounded["T2M"] < 1 / 500


def test_a_pinned_buffer_waits_for_its_transfer():
    """The events of a device, here by hand: a buffer is not written while a transfer may still read it."""

    class Event:
        passed = False

        def record(self):
            self.recorded = True

        def query(self):
            assert self.recorded
            return Event.passed

    pool = Pinned(torch.device("cpu"), Event, pin=False)
    first = hours.Packed(np.full((2, 3, 4), 1, np.int16), *np.float32([[2, 2], [5, 5], [0, 0]]))
    second = hours.Packed(np.full((2, 3, 4), 2, np.int16), *np.float32([[2, 2], [5, 5], [0, 0]]))
    a = pool.take(first)
    pool.used(a)
    b = pool.take(second)
    assert a.values.data_ptr() != b.values.data_ptr() and (a.values == 1).all()
    Event.passed = True
    c = pool.take(second)
    assert c.values.data_ptr() == a.values.data_ptr() and (c.values == 2).all()
    out = torch.empty(2, 3, 4)
    c.into(out)
    assert (out == 9).all()


def test_the_hours_used_last_stay(stepped):
    loader = Hours(stepped, TWO, None)
    loader.plan(stepped.times, 1, cache_gb=2.1 * 768 / 1e9)  # room for two
    loader.decoded = 0
    for n in (0, 1, 0, 2, 0, 2):
        loader(hour(n))
    assert loader.decoded == 3


def test_the_next_task_is_read_while_the_step_runs():
    begun = [threading.Event() for _ in range(4)]

    def read(n):
        begun[n].set()
        return n

    for n, got in read_ahead(read, range(4)):
        assert n == got
        assert n == 3 or begun[n + 1].wait(10)

"""Hours are what xarray reads, normalised; some of them stay in memory; what cannot be weather is refused."""

import threading

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from data.dataset import Hours, read_ahead
from data.normalise import Statistics, normalise
from data.store import Store
from tests.conftest import SEVEN, hour, weather, write_store


def statistics(names) -> Statistics:
    n = len(names)
    return Statistics(tuple(names), torch.arange(n) + 1.0, torch.arange(n) + 2.0, torch.full((n,), 0.5))


def hours(path, names=SEVEN, mask=None, room=0) -> Hours:
    return Hours(Store(path), list(names), statistics(names), mask, room)


def test_every_value_is_that_of_xarray_normalised(seven_store):
    read, plain = hours(seven_store), xr.open_zarr(seven_store)[list(SEVEN)].to_array().transpose("time", ...)
    for n in (0, 31, 59):
        expected = torch.from_numpy(plain[n].values)
        assert torch.equal(read.physical(hour(n)), expected)
        assert torch.equal(read(hour(n)), normalise(expected, statistics(SEVEN)))
        assert read(hour(n)).dtype == torch.float32


def test_hours_stay_while_there_is_room_and_the_others_are_decoded_again(seven_store, monkeypatch):
    size = 4 * 7 * 12 * 16
    read, without = hours(seven_store, room=3 * size + size // 2), hours(seven_store)
    times, decoded, physical = [hour(n) for n in range(5)], [], Hours.physical
    monkeypatch.setattr(Hours, "physical", lambda self, t: decoded.append(t) or physical(self, t))
    first = [read(t).clone() for t in times]
    assert decoded == times and len(read.kept) == 3
    for t, x in zip(times, first, strict=True):
        assert torch.equal(read(t), x) and torch.equal(without(t), x)
    assert [t for t in decoded[5:] if t in times[:3]] == times[:3]  # by `without`
    assert [t for t in decoded[5:] if t in times[3:]] == [times[3]] * 2 + [times[4]] * 2


def test_masked_cells_are_the_mean_and_other_missing_values_are_refused_in_one_line(tmp_path):
    def holed(name, time):
        field = np.where(np.arange(16) < 3, np.nan, weather(name, time))
        field[5, 7] = {hour(2): np.nan, hour(3): np.inf}.get(time, field[5, 7])
        return field.astype(np.float32)

    path = write_store(tmp_path / "s.zarr", holed, [hour(n) for n in range(6)], ("T2M", "U10"))
    mask = (torch.arange(16) < 3).expand(2, 12, 16)
    read = hours(path, ("T2M", "U10"), mask)
    state = read(hour(4))
    assert (state[:, :, :3] == 0).all() and state.isfinite().all() and (state[0, :, 3:] != 0).all()
    assert read.physical(hour(4))[:, :, :3].isnan().all()
    for n in (2, 3):
        with pytest.raises(
            ValueError, match=rf"T2M at 2024-05-20T0{n}:00 has 1 missing or infinite .*check_store"
        ) as e:
            read(hour(n))
        assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="T2M at 2024-05-20T04:00 has 36 missing"):
        hours(path, ("T2M",))(hour(4))


@pytest.mark.parametrize("encoding", [
    {}, {"chunks": (2, 12, 16)}, {"chunks": (1, 6, 16)}, {"dtype": "float64"}, {"compressors": None},
    {"_FillValue": 255.0}, {"compressors": [zarr.codecs.GzipCodec()]}, {"shards": (2, 12, 16)},
    {"dtype": "int16", "scale_factor": 0.01, "add_offset": 250.0, "_FillValue": -9999}, "version 2",
])  # fmt: skip
def test_any_encoding_is_read(encoding, seven_store, tmp_path):
    plain = xr.open_zarr(seven_store)[["T2M"]].isel(time=slice(0, 6)).load().drop_encoding()
    given = {"zarr_format": 2, "encoding": {"T2M": {"chunks": (1, 12, 16)}}}
    if encoding != "version 2":
        given = {"zarr_format": 3, "encoding": {"T2M": {"chunks": (1, 12, 16), **encoding}}}
    plain.to_zarr(tmp_path / "s.zarr", consolidated=False, **given)
    read = hours(tmp_path / "s.zarr", ["T2M"]).physical(hour(3))
    assert (read - torch.from_numpy(plain.T2M.values[3:4])).abs().max() <= (0.01 if "scale_factor" in encoding else 0)


@pytest.mark.parametrize("content", [None, b"no blosc frame at all"])
def test_a_chunk_that_is_cut_off_or_another_file_is_never_read_as_weather(content, tmp_path):
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(4)])
    chunk = path / "T2M/c/3/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-7] if content is None else content)
    assert np.array_equal(Store(path).load(hour(2), ["T2M"])[0], weather("T2M", hour(2)))
    with pytest.raises(ValueError, match="cannot be read"):
        Store(path).load(hour(3), ["T2M"])


def test_reading_ahead_keeps_the_order_and_reads_the_next_while_the_step_runs():
    begun = [threading.Event() for _ in range(4)]

    def read(n):
        begun[n].set()
        return 10 * n

    for n, got in read_ahead(read, range(4)):
        assert got == 10 * n
        assert n == 3 or begun[n + 1].wait(10)


def test_an_error_in_reading_ahead_reaches_the_step_that_asked():
    def read(n):
        if n == 2:
            raise ValueError("hour 2")
        return n

    got = []
    with pytest.raises(ValueError, match="hour 2"):
        got.extend(n for n, _ in read_ahead(read, range(5)))
    assert got == [0, 1]

"""Reading under faults that are real: chunks that go, come back or are cut off, stores that grow or are built anew,
a server that answers 503 or not at all."""

import http.server
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

import fsspec
import numpy as np
import pytest
import xarray as xr
from conftest import hour, small_grid, weather, write_store
from fsspec.spec import AbstractFileSystem

from data import retry
from data.command import run
from data.dataset import Hours
from data.retry import GuardedHours, Replaced, Unreadable
from data.store import Store
from data.write import StoreWriter

NAMES = ["T2M", "U10"]


@pytest.fixture
def path(tmp_path):
    return write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(6)], NAMES)


def right(values, n: int) -> bool:
    return all(np.array_equal(v, weather(name, hour(n))) for v, name in zip(values, NAMES, strict=True))


def guarded(path, patience=0.0) -> GuardedHours:
    return GuardedHours(Store(path), NAMES, None, 0.0, patience)


def test_a_chunk_that_is_gone_is_named_and_never_read_as_its_fill_value(tmp_path):
    fields = np.stack([weather("CAPE", hour(n)) + 1 for n in range(6)])
    times = np.array([hour(n) for n in range(6)])
    data = xr.Dataset({"CAPE": (("time", "y", "x"), fields)}, {"time": times})
    data.to_zarr(tmp_path / "z.zarr", encoding={"CAPE": {"chunks": (1, 12, 16), "fill_value": 0.0}}, zarr_format=3)
    plain, ours = (kind(Store(tmp_path / "z.zarr"), ["CAPE"], None) for kind in (Hours, GuardedHours))
    assert np.array_equal(ours(hour(3))[0], fields[3])
    (tmp_path / "z.zarr" / "CAPE" / "c" / "3" / "0" / "0").unlink()
    ours = GuardedHours.__new__(GuardedHours)  # as it was before the chunk went, with nothing kept
    ours.__dict__.update(plain.__dict__, guard=retry.Guard(plain.store, ["CAPE"], 0.0))
    ours.guard.absent = set()
    assert not plain(hour(3)).any(), "zarr says 0 without a word"
    with pytest.raises(Unreadable, match=r"z\.zarr: 2024-05-20T03:00 cannot be read.*the chunk of CAPE is gone"):
        ours(hour(3))
    assert np.array_equal(ours(hour(2))[0], fields[2])


def test_a_chunk_that_comes_back_is_waited_for(path, capsys):
    hours, chunk = guarded(path, 20), path / "U10" / "c" / "4" / "0" / "0"
    chunk.rename(path / "away")
    threading.Timer(0.3, lambda: (path / "away").rename(chunk)).start()
    assert right(hours(hour(4)), 4)
    assert "note: 2024-05-20T04:00 cannot be read (the chunk of U10 is gone" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut off", "noise", "a folder"])
def test_a_chunk_that_cannot_be_decoded_is_named_after_the_patience(path, damage, monkeypatch):
    hours, chunk = guarded(path, 0.0), path / "U10" / "c" / "4" / "0" / "0"
    raw = chunk.read_bytes()
    if damage == "cut off":
        chunk.write_bytes(raw[: len(raw) // 2])
    elif damage == "noise":
        chunk.write_bytes(np.random.default_rng(0).bytes(len(raw)))
    else:
        chunk.unlink()
        chunk.mkdir()  # for zarr it is not there
    with pytest.raises(Unreadable, match="2024-05-20T04:00 cannot be read"):
        hours(hour(4))
    began = time.monotonic()
    hours.guard.patience = 100
    with pytest.raises(Unreadable):  # at once: it was given up
        hours(hour(4))
    assert time.monotonic() - began < 1 and right(hours(hour(3)), 3)


def test_a_store_that_grows_is_read_on_and_one_that_is_built_anew_is_refused(path, tmp_path, capsys):
    wanted = [hour(n) for n in range(9)]
    hours = guarded(path)
    with StoreWriter(path, NAMES, small_grid(), {"source": "a test"}, None, wanted) as store:
        for t in store.todo:
            store.write(t, {n: weather(n, t) for n in NAMES})
    assert right(hours(hour(2)), 2) and "has grown by 3 hours" in capsys.readouterr().out
    write_store(path, lambda n, t: weather(n, t) + 1, wanted, NAMES)
    with pytest.raises(Replaced, match="another store than when this run began"):
        hours(hour(1))


def test_missing_values_in_a_chunk_that_is_there_are_refused_at_once(path):
    import zarr

    zarr.open_array(path / "T2M", mode="r+")[2, 0, 0] = np.nan
    began = time.monotonic()
    with pytest.raises(ValueError, match="T2M has 1 missing"):
        guarded(path, 60)(hour(2))
    assert time.monotonic() - began < 1


# ---- a remote store: a real server; the client is fsspec over urllib, since no HTTP client is among the packages


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    broken, stalled, asked = 0.0, 0.0, 0  # until when it answers 503, or nothing


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        if time.monotonic() < self.server.stalled:
            time.sleep(1.5)
        if time.monotonic() < self.server.broken:
            return self.send_error(503)
        return super().do_GET()

    def log_message(self, *_):
        pass


class Remote(AbstractFileSystem):
    protocol, cachable = "plainhttp", False

    def cat_file(self, path, start=None, end=None, **_):
        try:
            with urllib.request.urlopen(f"http://{self._strip_protocol(path)}") as answer:
                return answer.read()[start:end]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise FileNotFoundError(path) from None
            raise OSError(f"HTTP {error.code}") from None

    def info(self, path, **_):
        return {"name": path, "size": len(self.cat_file(path)), "type": "file"}

    def exists(self, path, **_):
        try:
            return bool(self.info(path))
        except FileNotFoundError:
            return False


@pytest.fixture
def server(tmp_path):
    fsspec.register_implementation("plainhttp", Remote, clobber=True)
    handler = lambda *a: Handler(*a, directory=str(tmp_path))  # noqa: E731
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_remote_store_that_answers_503_or_stalls_is_asked_again(path, server, monkeypatch, capsys):
    monkeypatch.setattr(retry, "STALL", 0.3)
    hours = guarded(f"plainhttp://127.0.0.1:{server.server_port}/s.zarr", 20)
    assert right(hours(hour(0)), 0)
    server.broken = time.monotonic() + 0.4
    assert right(hours(hour(1)), 1)
    server.stalled = time.monotonic() + 0.4
    assert right(hours(hour(2)), 2)
    said = capsys.readouterr().out
    assert "HTTP 503" in said and "no answer for 0.3 s" in said
    hours.guard.patience, server.broken = 0.0, time.monotonic() + 60
    with pytest.raises(Unreadable, match=r"04:00 cannot be read.*HTTP 503"):
        hours(hour(4))


def test_a_chunk_that_a_remote_store_has_lost_is_named(path, server):
    hours = guarded(f"plainhttp://127.0.0.1:{server.server_port}/s.zarr")
    shutil.rmtree(path / "U10" / "c" / "3")
    with pytest.raises(Unreadable, match="chunk of U10 is gone"):
        hours(hour(3))


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

"""HRRR by byte ranges from a server on this machine that can also fail: real messages, real inventories."""

import struct
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from conftest import hour

from data import build_hrrr
from data.sources import HourUnavailable, archive
from data.sources.archive import ArchiveHours, Transfer, find, parse_index
from data.sources.grib import GribHours
from data.sources.messages import decode, scan
from data.variables import LAND_SEA_MASK, OROGRAPHY, TABLE
from tests.test_build_hrrr import at_lead, messages

pytestmark = pytest.mark.real_data

DAY = "2018-07-22"


def inventory(path, kind="1 hour fcst") -> str:
    """What wgrib2 would write beside a real file: a line for each message, those of unknown names included."""
    data, known, lines, start = path.read_bytes(), {f.offset: f for f in scan(path)}, [], 0
    while start < len(data):
        name, level, f = "XYZ", "unknown level", known.get(start)
        if f:
            name, kind_of_level, height = archive.KNOWN[f.name].grib
            level = archive.LEVELS[kind_of_level][0].format(height)
        run = path.parent.name[5:] + path.name[6:8]
        lines.append(f"{len(lines) + 1}:{start}:d={run}:{name}:{level}:{kind}:\n")
        start += struct.unpack(">Q", data[start + 8 : start + 16])[0]
    return "".join(lines)


@dataclass
class Server:
    """Files by address; `faults` maps an address to what happens to its next byte ranges, one each."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)  # address, Range header
    sent: int = 0  # bytes of GRIB files

    def add(self, path) -> str:
        address = f"/hrrr/{path.parent.name}/conus/{path.name}"
        self.files |= {address: path.read_bytes(), address + ".idx": inventory(path).encode()}
        return address

    def asked(self, ending: str) -> int:
        return sum(address.endswith(ending) for address, _ in self.requests)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802
        site, wanted = self.server.site, self.headers.get("Range", "")
        site.requests.append((self.path, wanted))
        body = site.files.get(self.path)
        fault = site.faults.get(self.path, []) and site.faults[self.path].pop(0)
        status, headers = (200 if body is not None else 404), {}
        if fault.isdigit() if fault else False:
            status, body = int(fault), b"not now"
        elif body is None:
            body = b"no such key"
        elif wanted and fault != "whole":
            first, last = wanted.removeprefix("bytes=").split("-")
            headers["Content-Range"] = f"bytes {first}-{last or len(body) - 1}/{len(body)}"
            status, body = 206, body[int(first) : int(last) + 1 if last else None]
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "ETag": '"1"', **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = fault == "short"
        body = body[: len(body) // 2] if cut else body
        if status == 206:
            site.sent += len(body)
        self.close_connection |= cut
        try:
            self.wfile.write(body)
        except OSError:
            pass  # a client that refuses a whole file hangs up

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(archive, "PAUSE", timedelta(milliseconds=10))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.site, server.handle_error = True, Server(), lambda *_: None
    server.site.url = f"http://127.0.0.1:{server.server_port}/hrrr"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.site
    server.shutdown()
    server.server_close()


@pytest.fixture
def runs(real):
    return [real / "hrrr_grib" / "hrrr.20180722" / f"hrrr.t{n:02d}z.wrfsfcf01.grib2" for n in range(8)]


def options(site, tmp_path, **more):
    return SimpleNamespace(**{"url": site.url, "out": str(tmp_path / "out.zarr"), "variables": [],
                              "forecast_hour": "1"} | more)  # fmt: skip


def load_all(hours) -> tuple[dict, list[str]]:
    """What the builder does with the hours: fields by time, and a line for each hour that is left out."""
    fields, skipped = {}, []
    for time in hours.times:
        try:
            fields[time] = hours.load(time)
        except HourUnavailable as error:
            skipped.append(str(error))
    return fields, skipped


def test_byte_ranges_give_what_the_whole_files_give_bit_for_bit(site, runs, tmp_path):
    for path in runs[:3]:
        site.add(path)
    hours = ArchiveHours(options(site, tmp_path), hour(1, DAY), hour(3, DAY))
    fields, skipped = load_all(hours)
    cfg = SimpleNamespace(path=str(runs[0].parent), variables=[], forecast_hour="1")
    whole = GribHours(cfg, hour(1, DAY), hour(3, DAY))
    assert (hours.times, hours.names, hours.forecast_hour) == (whole.times, whole.names, 1) and not skipped
    for time in whole.times:
        expected = whole.load(time)
        assert expected.keys() == fields[time].keys()
        assert all(np.array_equal(expected[n], fields[time][n], equal_nan=True) for n in expected)
    np.testing.assert_array_equal(hours.grid.latitude, whole.grid.latitude)
    np.testing.assert_array_equal(hours.grid.x, whole.grid.x)
    assert hours.grid.static.keys() == {"orography", "land_sea_mask"}
    np.testing.assert_array_equal(hours.grid.static["orography"], whole.grid.static["orography"])
    assert any("run one hour before" in note for note in hours.notes)

    total = sum(len(body) for address, body in site.files.items() if address.endswith("grib2"))
    assert site.sent < 0.4 * total  # 6 of 52 messages, and the static fields
    assert all(wanted for address, wanted in site.requests if address.endswith("grib2"))  # ranges only
    assert site.asked("grib2") == 3 * len(hours.names) + 2 and site.asked("idx") == 3


def test_the_command_builds_a_store_of_analyses_and_names_the_hour_it_leaves_out(site, runs, tmp_path, command):
    for n, path in enumerate(runs[:4]):
        address = site.add(path).replace("f01", "f00")
        body = path.read_bytes() if n == 2 else b"".join(at_lead(messages(path), 0))  # n 2: f01 by its octets
        site.files[address] = body
        site.files[f"{address}.idx"] = inventory(path, "anl").encode()
    out = tmp_path / "out.zarr"
    arguments = ("--source", "archive", "--url", site.url, "--start", DAY, "--end", f"{DAY}T03", "--out", out)
    code, said, error = command(build_hrrr, *arguments)
    assert code == 0, error
    store = xr.open_zarr(out)
    assert list(store.time.values) == [hour(n, DAY) for n in (0, 1, 3)] and set(store.forecast_hour.values) == {0}
    first = next(f for f in scan(runs[0]) if f.name == "T2M")
    np.testing.assert_array_equal(store.T2M[0], decode(first).astype(np.float32))
    assert f"left out: {DAY}T02:00, {site.url}/hrrr.20180722/conus/hrrr.t02z.wrfsfcf00.grib2" in said
    assert "f00 (analyses)" in said and "wrote 3 hours" in said and site.url in store.attrs["source"]
    assert not (tmp_path / "out.zarr.cache").exists()
    code, said, error = command(build_hrrr, *arguments)  # the same again: nothing to do, and the lost hour is named
    assert code == 0 and "1 hours before the end" in said and "wrote 0 hours" in said, error
    assert list(xr.open_zarr(out).time.values) == [hour(n, DAY) for n in (0, 1, 3)]
    other = ("--start", f"{DAY}T02", "--end", f"{DAY}T02", "--out", tmp_path / "other.zarr")
    code, _, error = command(build_hrrr, *arguments[:4], *other)
    assert code == 2 and "t02z.wrfsfcf00.grib2" in error and not (tmp_path / "other.zarr").exists()


def test_each_fault_of_a_server_is_mended_or_named(site, runs, tmp_path):
    address = [site.add(path) for path in runs]
    del site.files[address[1]], site.files[address[1] + ".idx"]
    site.faults = {address[0]: ["short"], address[2]: ["503", "429"], address[3] + ".idx": ["500"]}
    body = bytearray(site.files[address[4]])
    t2m = next(f for f in scan(runs[4]) if f.name == "T2M")
    body[t2m.offset : t2m.offset + 4] = b"BIRG"
    site.files[address[4]] = bytes(body)
    site.files[address[5] + ".idx"] = site.files[address[6] + ".idx"]  # of another run
    site.files[address[6] + ".idx"] = site.files[address[6] + ".idx"][:1000] + b"\n<html>"

    hours = ArchiveHours(options(site, tmp_path), hour(1, DAY), hour(8, DAY))
    fields, skipped = load_all(hours)
    assert list(fields) == [hour(n, DAY) for n in (1, 3, 4, 8)]
    notes = "\n".join(hours.notes)
    assert f"left out: {DAY}T02:00, " in notes and "t01z.wrfsfcf01.grib2.idx: absent" in notes
    assert "t05z.wrfsfcf01.grib2.idx: got run 2018072206, expected 2018072205" in notes
    assert "t06z.wrfsfcf01.grib2.idx: got '" in notes
    assert len(skipped) == 1 and "t04z.wrfsfcf01.grib2" in skipped[0] and "BIRG" in skipped[0]

    site.files[address[4]] = runs[4].read_bytes()  # mended: the same command fetches that hour and no other
    site.requests.clear()
    again = ArchiveHours(options(site, tmp_path), hour(1, DAY), hour(5, DAY))
    fields, skipped = load_all(again)
    assert len(fields) == 4 and not skipped
    assert {a for a, _ in site.requests if a.endswith("grib2")} == {address[4]}
    again.close()
    assert not (tmp_path / "out.zarr.cache").exists()


def test_messages_that_are_whole_but_not_what_the_inventory_says_are_left_out(site, runs, tmp_path):
    address = [site.add(path) for path in runs[:4]]
    site.files[address[1]] = runs[2].read_bytes()[: len(site.files[address[1]])]  # another run under this name
    body = bytearray(site.files[address[3]])
    cape = next(f for f in scan(runs[3]) if f.name == "CAPE")
    body[cape.offset + 16 + 4] = 99  # Section 1 calls itself 99: the frame is whole, the message is not
    site.files[address[3]] = bytes(body)
    hours = ArchiveHours(options(site, tmp_path), hour(1, DAY), hour(4, DAY))
    fields, skipped = load_all(hours)
    assert list(fields) == [hour(1, DAY), hour(3, DAY)]
    assert len(skipped) == 2 and "t01z" in skipped[0] and "t03z" in skipped[1] and "do not fill" in skipped[1]


def test_a_second_start_fetches_nothing_again(site, runs, tmp_path):
    for path in runs[:3]:
        site.add(path)
    span = hour(1, DAY), hour(3, DAY)
    first = ArchiveHours(options(site, tmp_path), *span)
    load_all(first)
    site.requests.clear()
    second = ArchiveHours(options(site, tmp_path), *span)
    assert len(load_all(second)[0]) == 3 and site.requests == []
    load_all(ArchiveHours(options(site, tmp_path, variables=["T2M"]), *span))  # another choice, the same inventories
    assert site.asked("grib2") == 3 and site.asked("idx") == 0
    assert not list((tmp_path / "out.zarr.cache").rglob("*.partial"))


def test_an_archive_that_no_longer_answers_ends_the_command_instead_of_making_a_gap(site, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "TRIES", 2)
    address = [site.add(path) for path in runs]
    site.faults = {a: ["503"] * 99 for a in address[1:]}
    hours = ArchiveHours(options(site, tmp_path), hour(1, DAY), hour(8, DAY))
    with pytest.raises(ValueError, match=r"url: .*503.*in 2 tries.*Fix: .*same command again") as caught:
        load_all(hours)
    assert not isinstance(caught.value, HourUnavailable)
    with pytest.raises(ValueError, match=r"url: .*error sending request.*Fix"):
        ArchiveHours(options(site, tmp_path, url="http://127.0.0.1:9/hrrr"), hour(1, DAY), hour(8, DAY))


@pytest.mark.parametrize("more, hours, said", [
    ({}, (None, None), "start/end: got none"),
    ({}, (40, 44), "start/end: got no hour .*absent"),
    ({}, (1.25, 1.75), "start/end: got no hour .*no full hour"),
    ({"url": "ftp://x"}, (1, 2), "url: got ftp://x, expected http"),
])  # fmt: skip
def test_options_that_cannot_work_say_so(site, runs, tmp_path, more, hours, said):
    for path in runs[:2]:
        site.add(path)
    span = [None if h is None else hour(h, DAY) for h in hours]
    with pytest.raises(ValueError, match=said + ".*Fix: "):
        ArchiveHours(options(site, tmp_path, **more), *span)


def test_a_server_without_byte_ranges_is_refused_before_a_whole_file_comes(site, runs, tmp_path):
    address = site.add(runs[0])
    site.faults = {address: ["whole"] * 99}
    with pytest.raises(ValueError, match=r"url: got a whole file .*expected a byte range"):
        ArchiveHours(options(site, tmp_path), hour(1, DAY), hour(1, DAY))


@pytest.mark.parametrize("lead, cape, refc, t2m", [
    (0, (63951494, 64995225), (0, 559417), 37484992),
    (8, (74907357, 75731937), (0, None), 45276939),
    (24, (78651598, 79693403), (0, 637071), 48807989),
])  # fmt: skip
def test_genuine_inventories_give_the_fields_at_the_surface_whatever_their_number(real, lead, cape, refc, t2m):
    text = (real / "hrrr_idx" / f"hrrr.t00z.wrfsfcf{lead:02d}.grib2.idx").read_text()
    lines = text.splitlines()
    records = parse_index(text, "a test")
    found = {v.name: find(records, v, lead) for v in (*TABLE, OROGRAPHY, LAND_SEA_MASK)}
    assert found.pop("RAIN") is None, "a sum over hours is not an instantaneous field"
    assert (found["CAPE"].start, found["CAPE"].end) == cape and found["CIN"].start == cape[1]
    assert found["T2M"].start == t2m and found["REFC"].start == 0 and found["REFC"].end == int(lines[1].split(":")[1])
    assert all(record.run == "2025080100" for record in found.values())
    starts = [int(line.split(":")[1]) for line in lines]
    assert all(record.end == starts[starts.index(record.start) + 1] for record in found.values())
    assert all(find(records, v, lead + 1) is None for v in TABLE)  # no other lead time, no mean, no maximum


@pytest.mark.parametrize("text", [
    "", "1:0:d=2018072200:TMP", "1:5:d=2018072200:TMP:surface:anl:", "<html>x</html>",
    "1:0:d=2018072200:A:b:anl:\n2:9:d=2018072200:A:b:anl:\n3:5:d=2018072200:A:b:anl:",
])  # fmt: skip
def test_damaged_inventories_are_refused(text):
    with pytest.raises(HourUnavailable, match=r"file.idx: got .*expected"):
        parse_index(text, "file.idx")


def test_fields_that_share_a_message_share_its_bytes_and_the_last_record_is_open(site, runs):
    text = "1:0:d=2018072200:A:surface:anl:\n2.1:9:d=2018072200:UGRD:x:anl:\n2.2:9:d=2018072200:VGRD:x:anl:"
    assert [(r.start, r.end) for r in parse_index(text, "")] == [(0, 9), (9, None), (9, None)]
    site.add(runs[0])
    path = f"{runs[0].parent.name}/conus/{runs[0].name}"
    records, transfer = parse_index(inventory(runs[0]), ""), Transfer(site.url)
    assert transfer.get(path, (records[-1].start, None)) == runs[0].read_bytes()[records[-1].start :]
    with pytest.raises(HourUnavailable, match="at byte 0 got 121555 bytes of a message of 2987"):
        transfer.get(path, (0, None))  # as the last line of an inventory that is cut short
    for span in ((1, records[0].end), (0, records[0].end - 1)):
        with pytest.raises(HourUnavailable, match=r"at byte [01] got "):
            transfer.get(path, span)


def test_the_command_with_two_processes_equals_the_files_and_names_a_lost_hour(site, runs, real, tmp_path, command):
    for n, path in enumerate(runs[:4]):
        if n != 2:
            site.add(path)
    span = ("--start", hour(1, DAY), "--end", hour(4, DAY), "--forecast_hour", 1)
    fetched, files = tmp_path / "fetched.zarr", tmp_path / "files.zarr"
    code, out, err = command(build_hrrr, "--source", "archive", "--url", site.url, "--out", fetched, *span,
                             "--processes", 2)  # fmt: skip
    assert code == 0 and "wrote 3 hours" in out and "left out: 2018-07-22T03:00" in out, err
    assert command(build_hrrr, "--path", real / "hrrr_grib", "--out", files, *span)[0] == 0
    a, b = xr.open_zarr(fetched).load(), xr.open_zarr(files).load()
    xr.testing.assert_identical(a.drop_attrs(deep=False), b.sel(time=a.time).drop_attrs(deep=False))
    assert not (tmp_path / "fetched.zarr.cache").exists()

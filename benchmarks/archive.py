"""Compare ways to take seven full-CONUS messages an hour out of an HRRR archive: this project's, obstore, Herbie.

    python -m benchmarks.archive [--message FILE.grib2] [--hours 24] [--json benchmarks/results/archive.json]

A server on loopback, a process of its own, has `hours` hours of the bucket's layout: each file holds seven messages (a
real full-CONUS reflectivity message, its parameter octets changed to those of the seven variables) and has its .idx. It
waits `latency` before every answer and twice that for a new connection, as a distant server makes its clients wait.
Every client, a process of its own, fetches the messages by byte range, eight hours at the same time, and decodes them:

    hourcast   data/archive.py (http.client) and gribberish      obstore   get_range and gribberish
    Herbie     FastHerbie.download, then Herbie.xarray (cfgrib, eccodes)

Clients take turns; medians. Then what each makes of a body that ends early, a 503 before the answer, an hour that is
absent and a message with a broken frame. A client that is not installed is left out, saying so:
pip install obstore herbie-data
"""

import json
import multiprocessing
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from data.archive import Transfer, find, parse_index
from data.command import run
from data.grib import decode, scan
from data.variables import TABLE

CLIENTS = {"hourcast": "gribberish", "obstore": "obstore", "Herbie": "herbie"}  # and the package each needs
THREADS = 8  # hours at the same time
DAY = "20221014"
# name, level in the inventory; category, number, surface type and height in the message
MESSAGES = [("REFC", "entire atmosphere", None), ("TMP", "2 m above ground", (0, 0, 103, 2)),
            ("DPT", "2 m above ground", (0, 6, 103, 2)), ("UGRD", "10 m above ground", (2, 2, 103, 10)),
            ("VGRD", "10 m above ground", (2, 3, 103, 10)), ("CAPE", "surface", (7, 6, 1, 0)),
            ("CIN", "surface", (7, 7, 1, 0)), ("VIL", "entire atmosphere", None)]  # fmt: skip  # the last: not wanted
SEARCH = r":(?:REFC:entire atmosphere|(?:TMP|DPT):2 m above|(?:UGRD|VGRD):10 m above|(?:CAPE|CIN):surface)"
FAULTS = ("short", "503", "absent", "frame")


@dataclass
class Config:
    message: str = "../shared/data/hrrr_conus/hrrr.20221014.t01z.wrfsubhf.refc_vbdsf.grib2"  # starts with REFC
    hours: int = 24  # files, at most a day
    latency: float = 0.03  # s before an answer; twice that for a new connection
    repeats: int = 3  # of each client
    json: str = ""  # file for the numbers
    client: str = ""  # internal: be this client
    url: str = ""  # internal: of the server


def main(cfg: Config) -> int:
    if cfg.client:
        return be_client(cfg)
    if not Path(cfg.message).exists():
        raise ValueError(f"{cfg.message}: no such file, expected a GRIB2 file with one field. Fix: --message FILE")
    body, index = an_hour(Path(cfg.message).read_bytes())
    rows: dict[str, dict] = {}
    with Serving(body, index, cfg.latency) as url:
        print(f"{cfg.hours} hours, {len(body) * cfg.hours / 1e6:.0f} MB, {THREADS} at a time, latency {cfg.latency} s")
        runs = {name: [call(name, url, cfg.hours) for _ in range(1)] for name in CLIENTS}
        runs = {name: each for name, each in runs.items() if "missing" not in each[0] or print(each[0]["missing"])}
        for _ in range(cfg.repeats - 1):
            for name, each in runs.items():
                each.append(call(name, url, cfg.hours))
    for name, each in runs.items():
        rows[name] = {k: statistics.median(r[k] for r in each) for k in ("seconds", "cpu_seconds", "peak_mib")}
        rows[name]["sound"] = each[0]["outcome"]
        rows[name] |= {"hours_per_s": cfg.hours / rows[name]["seconds"], "requests": each[0]["requests"]}
        print(f"{name:10s} {rows[name]['hours_per_s']:6.2f} hours/s  CPU {rows[name]['cpu_seconds']:6.2f} s  "
              f"{rows[name]['peak_mib']:5.0f} MiB  {rows[name]['sound']}")  # fmt: skip
    for fault in FAULTS:
        for name in rows:
            with Serving(body, index, 0.0, fault) as url:
                rows[name][fault] = call(name, url, 1)["outcome"]
            print(f"{name:10s} {fault:7s} {rows[name][fault]}")
    if cfg.json:
        Path(cfg.json).parent.mkdir(parents=True, exist_ok=True)
        about = {"hours": cfg.hours, "latency": cfg.latency, "repeats": cfg.repeats, "cores": os.cpu_count()}
        Path(cfg.json).write_text(json.dumps(about | {"clients": rows}, indent=1) + "\n")
        print(f"wrote {cfg.json}")
    return 0


def an_hour(first: bytes) -> tuple[bytes, str]:
    """A file of seven messages and one more, as wanted ones are not a file's last; its inventory, {run} for the run."""
    size = struct.unpack(">Q", first[8:16])[0]
    body, lines = bytearray(), []
    for number, (name, level, octets) in enumerate(MESSAGES, 1):
        message, at = bytearray(first[:size]), 16
        while octets and message[at : at + 4] != b"7777":
            length, section = struct.unpack(">IB", message[at : at + 5])
            if section == 4:
                category, parameter, surface, height = octets
                message[at + 9 : at + 11] = bytes((category, parameter))
                message[at + 22 : at + 28] = struct.pack(">BBI", surface, 0, height)
            at += length
        lines.append(f"{number}:{len(body)}:d={{run}}:{name}:{level}:anl:\n")
        body += message
    return bytes(body), "".join(lines)


# --- the server ---


class Serving:
    """The server, with one fault for the first hour's messages; its address, then its end."""

    def __init__(self, body: bytes, index: str, latency: float, fault: str = ""):
        self.arguments = (body, index, latency, fault)

    def __enter__(self) -> str:
        port = multiprocessing.Value("i", 0)
        self.process = multiprocessing.Process(target=serve, args=(port, *self.arguments), daemon=True)
        self.process.start()
        while not port.value:
            time.sleep(0.01)
        return f"http://127.0.0.1:{port.value}"

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.join()


def serve(port, body: bytes, index: str, latency: float, fault: str) -> None:
    left = {fault: 1} if fault in ("short", "503") else {}
    seen = [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self):
            super().setup()
            time.sleep(2 * latency)

        def do_HEAD(self):  # noqa: N802
            self.do_GET()

        def do_GET(self):  # noqa: N802
            time.sleep(latency)
            seen[0] += 1
            wanted, content, status, headers = self.headers.get("Range", ""), body, 200, {}
            if self.path == "/seen":
                content = str(seen[0] - 1).encode()
            elif self.path.endswith(".idx"):
                content = index.format(run=DAY + self.path.split(".t")[1][:2]).encode()
            elif fault == "frame":
                content = body[:200] + b"XX" + body[202:-4] + b"7X77"
            if fault == "absent" and "hrrr" in self.path:
                status, content, wanted = 404, b"no such key", ""
            elif wanted and self.command == "GET" and left.pop("503", 0):
                status, content, wanted = 503, b"not now", ""
            if wanted:
                first, last = wanted.removeprefix("bytes=").split("-")
                headers["Content-Range"] = f"bytes {first}-{last or len(content) - 1}/{len(content)}"
                status, content = 206, content[int(first) : int(last) + 1 if last else None]
            self.send_response(status)
            for name, value in {"Content-Length": len(content), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "HEAD":
                return
            cut = wanted and left.pop("short", 0)
            self.close_connection |= bool(cut)
            self.wfile.write(content[: len(content) // 2] if cut else content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    port.value = server.server_port
    server.serve_forever()


# --- the clients ---


def call(name: str, url: str, hours: int) -> dict:
    """What a client, in a process of its own, says of its work."""
    command = [sys.executable, "-m", "benchmarks.archive", "--client", name, "--url", url, "--hours", str(hours)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    lines = [line for line in answer.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"outcome": f"ended with {answer.returncode}", "missing": answer.stderr}


def be_client(cfg: Config) -> int:
    try:
        __import__(CLIENTS[cfg.client])
    except ImportError:
        print(json.dumps({"missing": f"{cfg.client}: package {CLIENTS[cfg.client]} is not installed; left out"}))
        return 0
    work = {"hourcast": with_ours, "obstore": with_obstore, "Herbie": with_herbie}[cfg.client]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            fields = work(cfg.url, cfg.hours, Path(folder))
            outcome = "all fields" if fields == 7 * cfg.hours else f"{fields} fields of {7 * cfg.hours}, no error"
        except Exception as error:
            message = " ".join(str(error).split()).replace(f"{folder}/", "")
            outcome = f"{type(error).__name__}: {message[:90]}"
    seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    requests = int(Transfer(cfg.url).file("seen"))
    print(json.dumps({"outcome": outcome, "seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime,
                      "peak_mib": usage.ru_maxrss / 1024, "requests": requests}))  # fmt: skip
    return 0


def file_of(hour: int) -> str:
    return f"hrrr.{DAY}/conus/hrrr.t{hour:02d}z.wrfsfcf00.grib2"


def by_ranges(hours: int, folder: Path, text, message) -> int:
    """Fetch the messages that the inventories list, eight hours at a time, and decode each hour as it comes."""

    def fetch(hour: int) -> Path:
        records = parse_index(text(file_of(hour) + ".idx"), file_of(hour))
        parts = [message(file_of(hour), r.start, r.end) for v in TABLE if (r := find(records, v, 0))]
        path = folder / f"{hour}.grib2"
        path.write_bytes(b"".join(parts))
        return path

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(decode(f).ndim == 2 for path in pool.map(fetch, range(hours)) for f in scan(path))


def with_ours(url: str, hours: int, folder: Path) -> int:
    transfer = Transfer(url)
    return by_ranges(hours, folder, transfer.text, transfer.message)


def with_obstore(url: str, hours: int, folder: Path) -> int:
    import obstore

    store = obstore.store.HTTPStore.from_url(url, client_options={"allow_http": True})

    def message(path: str, start: int, end: int | None) -> bytes:
        stop = end or obstore.head(store, path)["size"]
        return bytes(obstore.get_range(store, path, start=start, end=stop))

    return by_ranges(hours, folder, lambda path: bytes(obstore.get(store, path).bytes()).decode(), message)


def with_herbie(url: str, hours: int, folder: Path) -> int:
    import herbie.models
    import pandas as pd
    from herbie import FastHerbie

    original = herbie.models.hrrr.template

    def template(self):
        original(self)
        self.SOURCES = {"aws": f"{url}/hrrr.{self.date:%Y%m%d}/conus/hrrr.t{self.date:%H}z.wrfsfcf00.grib2"}

    herbie.models.hrrr.template = template
    dates = pd.date_range(f"{DAY[:4]}-{DAY[4:6]}-{DAY[6:]}", periods=hours, freq="h")
    fast = FastHerbie(dates, model="hrrr", fxx=[0], save_dir=folder, max_threads=THREADS, verbose=False)
    fast.download(SEARCH, max_threads=THREADS, verbose=False)
    fields = 0
    for one in fast.file_exists:
        found = one.xarray(SEARCH, remove_grib=False)
        for dataset in found if isinstance(found, list) else [found]:
            fields += sum(dataset[n].load().ndim == 2 for n in dataset.data_vars if n != "gribfile_projection")
    return fields


if __name__ == "__main__":
    run(Config, main, __doc__)

"""Compare clients for byte ranges of an archive: this project's, urllib and obstore, against a server on loopback.

    python -m benchmarks.archive [--hours 24] [--latency 0.03] [--json archive.json]

The server is a process of its own. It waits `latency` before every answer and twice that for a new connection,
as a distant HTTPS server makes its clients wait. Each hour is 7 ranges of GRIB-framed bytes. Prints a table: MB/s,
seconds, CPU seconds of the client; then what each client makes of an answer that ends early and of a 503.
"""

import json
import multiprocessing
import resource
import struct
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from data.archive import Transfer
from data.command import run

SIZES = [560_000, 1_900_000, 1_900_000, 2_400_000, 2_400_000, 1_050_000, 1_100_000]  # bytes, as HRRR's seven


@dataclass
class Config:
    hours: int = 24  # files, 7 ranges each
    threads: int = 8  # files at the same time
    latency: float = 0.03  # s before an answer; twice that for a new connection
    json: str = ""  # file for the numbers


def message(size: int) -> bytes:
    return b"GRIB\0\0\0\2" + struct.pack(">Q", size) + bytes(size - 20) + b"7777"


def serve(port, latency: float) -> None:
    body, broken = b"".join(message(size) for size in SIZES), {"/short": "short", "/busy": "busy"}

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
            first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
            part, fault = memoryview(body)[first : last + 1], broken.pop(self.path, "")
            self.send_response(503 if fault == "busy" else 206)
            self.send_header("Content-Length", len(part))
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            self.end_headers()
            self.close_connection |= fault == "short"
            self.wfile.write(part[: len(part) // 2] if fault == "short" else part)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    port.value = server.server_port
    server.serve_forever()


def clients(base: str) -> dict:
    """{name: fetch(path, start, end) -> bytes}"""
    ours = Transfer(base)

    def with_urllib(path, start, end):
        request = urllib.request.Request(f"{base}/{path}", headers={"Range": f"bytes={start}-{end - 1}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    found = {"hourcast (http.client)": ours.message, "urllib": with_urllib}
    try:
        import obstore

        store = obstore.store.HTTPStore.from_url(base, client_options={"allow_http": True})
        found["obstore"] = lambda path, start, end: bytes(obstore.get_range(store, path, start=start, end=end))
    except ImportError:
        print("obstore is not installed and left out: pip install obstore")
    return found


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(cfg: Config) -> None:
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(port, cfg.latency), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    base, total = f"http://127.0.0.1:{port.value}", sum(SIZES) * cfg.hours / 1e6
    starts = [sum(SIZES[:i]) for i in range(len(SIZES))]
    rows = {}
    print(f"{cfg.hours} files, {total:.0f} MB, {cfg.threads} threads, latency {cfg.latency} s")
    for name, fetch in clients(base).items():

        def hour(n, fetch=fetch):
            return sum(len(fetch(f"{n}.grib2", a, a + size)) for a, size in zip(starts, SIZES, strict=True))

        began, used = time.perf_counter(), cpu()
        with ThreadPoolExecutor(cfg.threads) as pool:
            assert sum(pool.map(hour, range(cfg.hours))) == sum(SIZES) * cfg.hours
        seconds = time.perf_counter() - began
        rows[name] = {"mb_per_s": total / seconds, "seconds": seconds, "cpu_seconds": cpu() - used}
        print(f"{name:24s} {total / seconds:7.1f} MB/s  {seconds:6.2f} s  CPU {rows[name]['cpu_seconds']:5.2f} s")
    server.terminate()
    for fault in ("short", "busy"):
        for name in rows:
            fresh = multiprocessing.Process(target=serve, args=(port, 0.0), daemon=True)
            port.value = 0
            fresh.start()
            while not port.value:
                time.sleep(0.01)
            try:
                size = len(clients(f"http://127.0.0.1:{port.value}")[name](fault, 0, SIZES[0]))
                rows[name][fault] = "mended" if size == SIZES[0] else f"{size} bytes of {SIZES[0]} and no error"
            except Exception as error:
                rows[name][fault] = f"{type(error).__name__}: {' '.join(str(error).split())[:60]}"
            print(f"{name:24s} {fault:6s} {rows[name][fault]}")
            fresh.terminate()
    if cfg.json:
        Path(cfg.json).write_text(json.dumps({**vars(cfg), "clients": rows}, indent=1))
        print(f"wrote {cfg.json}")


if __name__ == "__main__":
    run(Config, main, __doc__)

"""Take single GRIB2 messages out of NOAA's public archive by byte range: inventories, transfers, retries.

An inventory (`FILE.idx`, written by wgrib2) lists where each message of FILE begins; a message ends where the
next one begins, the last one with the file. Messages are found by their parameter and level in words, never
by number: CAPE at the surface is number 105 in an analysis and 108 in a forecast.

The client is Python's http.client with connections that stay open. benchmarks/archive.py, fetching and decoding
full-CONUS hours from loopback with 30 ms latency on two cores: 5.9 hours/s, 4.4 s of CPU, 156 MiB; with
obstore 5.9, 4.4 s, 175 MiB, and it gives up where a body ends early, so that the retries below would be
needed all the same; Herbie 2.0, 10.2 s, 448 MiB.
"""

import http.client
import os
import random
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from data.variables import Variable

TRIES = 6  # requests for one range before it is given up
PAUSE = 0.5  # s before the first repetition; doubled each time, times a random 0.5 to 1
LONGEST_PAUSE = 60.0  # s, also for a server's Retry-After
TIMEOUT = 30.0  # s without a byte from the server
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may change
ABSENT = (403, 404, 410)  # S3 answers 403 for a missing object where listing is not allowed
LEVELS = {"height above ground": ("{:g} m above ground",), "ground or water surface": ("surface",),
          "entire atmosphere": ("entire atmosphere", "entire atmosphere (considered as a single layer)")}  # fmt: skip


class HourUnavailable(ValueError):
    """One hour cannot be had: the message names its file and the reason. The hours around it may be sound."""

    again = True  # whether a later try may have it


class Absent(HourUnavailable):
    """The archive has no such file."""

    again = False


class Unreachable(HourUnavailable):
    """No whole answer in TRIES tries: the network or the server, not the file."""


class _TryAgain(Exception):
    def __init__(self, reason: str, after: float = 0.0):
        super().__init__(reason)
        self.after = after  # s that the server asked for


# --- inventories ---


@dataclass(frozen=True, slots=True)
class Record:
    """One line of an inventory."""

    start: int  # byte of the message's first octet
    end: int | None  # byte after its last; None: the end of the file
    run: str  # YYYYMMDDHH
    name: str  # NOAA's abbreviation
    level: str
    kind: str  # "anl", "1 hour fcst", "0-1 hour acc fcst", ...


def parse_index(text: str, where: str) -> list[Record]:
    """The records of an inventory; HourUnavailable, naming `where`, for text that is not a whole one."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split(":", 6)
        start, run = parts[1:3] if len(parts) == 7 else ("", "")
        if not (start.isdigit() and run.startswith("d=") and run[2:].isdigit()):
            got = f"{line[:60]!r} in line {number}"
            raise HourUnavailable(f"{where}: got {got}, expected n:byte:d=YYYYMMDDHH:parameter:level:time:")
        # what follows the time ("ens mean", "prob > 5") makes another field of it
        rows.append((int(start), run[2:], parts[3], parts[4], parts[5] + parts[6]))
    starts = sorted({row[0] for row in rows})  # several fields of one message share a line's byte
    if not rows or starts[0] != 0 or starts != list(dict.fromkeys(row[0] for row in rows)):
        raise HourUnavailable(f"{where}: got {len(rows)} lines whose bytes do not rise from 0, expected an inventory")
    ends = dict(zip(starts, [*starts[1:], None], strict=True))
    return [Record(start, ends[start], *rest) for start, *rest in rows]


def find(records: list[Record], variable: Variable, lead: int) -> Record | None:
    """The instantaneous field of a variable at a lead time of 0 or more hours, or None where there is none."""
    name, level_type, level = variable.grib
    levels = [text.format(level) for text in LEVELS[level_type]]
    kind = f"{lead} hour fcst" if lead else "anl"
    return next((r for r in records if r.name == name and r.level in levels and r.kind == kind), None)


# --- transfers ---


class Transfer:
    """Byte ranges below one address: http://, https:// or s3:// (public buckets). Threads may share it.

    `requests` and `received` (bytes) count what came. Raises ValueError for an address that cannot work;
    Absent, Unreachable or HourUnavailable for a single file. `stop` ends all waiting for another try. `option`
    is what messages call the address. Sent to another process, it arrives as a new one with the same address.
    """

    def __init__(self, base: str, option: str = "url"):
        self.base, self.option = base.rstrip("/"), option
        self.url = urllib.parse.urlsplit(_public(self.base))
        if self.url.scheme not in ("http", "https") or not self.url.hostname:
            raise ValueError(f"{option}: got {base}, expected http://, https:// or s3://bucket. "
                             f"Fix: --{option}, or --source grib --path FOLDER for files that are here")  # fmt: skip
        proxy = urllib.request.getproxies().get(self.url.scheme)  # https_proxy, no_proxy of the environment
        direct = not proxy or urllib.request.proxy_bypass(self.url.netloc)
        self.proxy = None if direct else urllib.parse.urlsplit(proxy)
        self.requests = self.received = 0
        self.stopped = threading.Event()
        self.idle: list[http.client.HTTPConnection] = []  # open ones; append and pop are atomic
        self.count = threading.Lock()

    def __reduce__(self):
        return Transfer, (self.base, self.option)

    def stop(self) -> None:
        self.stopped.set()
        self.rest()

    def rest(self) -> None:
        """Close the connections that wait for use. Done before a fork, whose processes would share them."""
        while self.idle:
            self.idle.pop().close()

    def text(self, path: str) -> str:
        """A whole small file."""
        return self.file(path).decode("ascii", "replace")

    def file(self, path: str, fault_of: Callable[[bytes], str] = lambda body: "") -> bytes:
        """A whole small file's bytes, asked for again while `fault_of(bytes)` says what is wrong with them."""
        return self._get(path, None, fault_of)

    def message(self, path: str, start: int, end: int | None) -> bytes:
        """One GRIB2 message, bytes start to end (exclusive; None: of the file), whole by its own Section 0."""
        return self._get(path, (start, end), _framing)

    def _get(self, path: str, span: tuple[int, int | None] | None, fault_of: Callable[[bytes], str]) -> bytes:
        """The bytes, after as many tries as it takes; `fault_of(body)` says what is wrong with them, or ""."""
        for attempt in range(TRIES):
            after, kind = 0.0, HourUnavailable
            try:
                body = self._once(path, span)
                fault = fault_of(body)
                if not fault:
                    return body
            except _TryAgain as error:
                fault, after, kind = str(error), error.after, Unreachable
            # jitter: threads that failed together do not come back together
            pause = min(PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1)
            if attempt + 1 == TRIES or self.stopped.wait(max(after, pause)):
                break
        where = f" at byte {span[0]}" if span else ""
        raise kind(f"{self.base}/{path}:{where} got {fault} in {attempt + 1} tries, expected a whole answer")

    def _once(self, path: str, span: tuple[int, int | None] | None) -> bytes:
        """One request; _TryAgain for what another may mend. Only a connection without fault is used again."""
        headers = {"Accept-Encoding": "identity"}
        if span:
            headers["Range"] = f"bytes={span[0]}-{'' if span[1] is None else span[1] - 1}"
        target = f"{self.url.path}/{urllib.parse.quote(path)}"
        if self.proxy and self.url.scheme == "http":
            target = f"http://{self.url.netloc}{target}"
        connection = self.idle.pop() if self.idle else self._connect()
        reusable = False
        try:
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            self._refuse(answer, path, span)
            head = answer.read(16)
            rest = len(head) + (answer.length or 0)
            if span and head[:4] == b"GRIB" and answer.length and (whole := int.from_bytes(head[8:])) != rest:
                # an inventory cut short, say: its last line would fetch all the rest of the file
                raise HourUnavailable(f"{self.base}/{path}: at byte {span[0]} got {rest} bytes of a message of {whole}")
            body = head + answer.read()  # IncompleteRead where it is shorter than announced
            reusable = not answer.will_close
        except (OSError, http.client.HTTPException) as error:  # cut short, refused, reset, timed out
            raise _TryAgain(f"{type(error).__name__} ({error})") from None
        finally:
            self.idle.append(connection) if reusable else connection.close()
        with self.count:
            self.requests, self.received = self.requests + 1, self.received + len(body)
        return body

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        to = self.proxy or self.url
        connection = kind(to.hostname, to.port, timeout=TIMEOUT)
        if self.proxy and self.url.scheme == "https":
            connection.set_tunnel(self.url.hostname, self.url.port or 443)
        return connection

    def _refuse(self, answer: http.client.HTTPResponse, path: str, span: tuple[int, int | None] | None) -> None:
        """Raise for an answer that is not the bytes asked for, before its body is read."""
        file, status, length = f"{self.base}/{path}", answer.status, answer.headers.get("Content-Length")
        if status in AGAIN:
            after = answer.headers.get("Retry-After", "")
            raise _TryAgain(f"HTTP {status}", min(float(after), LONGEST_PAUSE) if after.isdigit() else 0.0)
        if status in ABSENT:
            raise Absent(f"{file}: absent (HTTP {status})")
        if status != (206 if span else 200):  # 200 for a range would be the whole file
            if status == 416:
                raise HourUnavailable(f"{file}: got an end before byte {span[0]}, expected a file as long as its index")
            to = f" to {answer.headers['Location']}" if "Location" in answer.headers else ""
            expected = "206, a byte range" if span else "200"
            raise ValueError(f"{self.option}: got HTTP {status}{to} for {file}, expected {expected}. "
                             f"Fix: --{self.option} ADDRESS")  # fmt: skip
        expected = str(span[1] - span[0]) if span and span[1] else length
        if length not in (None, expected):
            raise HourUnavailable(f"{file}: at byte {span[0]} got {length} bytes, expected {expected} as in the index")


def _framing(body: bytes) -> str:
    """What is wrong with the frame of a GRIB2 message, or ""."""
    if body[:4] == b"GRIB" and body[-4:] == b"7777" and int.from_bytes(body[8:16]) == len(body) >= 20:
        return ""
    return f"{len(body)} bytes from {body[:4]!r} to {body[-4:]!r}, not one message from GRIB to 7777,"


def _public(base: str) -> str:
    """s3://bucket/prefix as a public bucket's address; AWS_ENDPOINT_URL names another server, as in AWS's tools."""
    scheme, _, rest = base.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        return base
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    return f"{endpoint.rstrip('/')}/{rest}" if endpoint else f"https://{bucket}.s3.amazonaws.com/{prefix}".rstrip("/")

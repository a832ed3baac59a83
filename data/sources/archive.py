"""The hours of NOAA's public HRRR archive between two times: single GRIB2 messages, taken by byte range.

Layout: URL/hrrr.YYYYMMDD/conus/hrrr.tHHz.wrfsfcfFF.grib2 and its inventory .idx (written by wgrib2). First the
inventories are fetched; then, some hours ahead of the writing, the messages of the wanted variables. OUT.cache/ keeps
both until the store is finished, so that nothing is fetched twice.

Messages are found by their parameter and level in words, never by number: CAPE at the surface is number 105 in an
analysis and 108 in a forecast. An hour that the archive lacks, or whose messages are damaged in every try, is left out
and named. If the archive no longer answers, the command ends: a network that fails is no gap in the record.
"""

import hashlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from data.command import fault, refuse_file_above
from data.metadata import replace
from data.sources import HOUR, HourUnavailable, listed, need, refuse_unknown
from data.sources.grib import OneGrid
from data.sources.messages import decode, import_eccodes, scan
from data.times import show
from data.variables import STATIC, TABLE, Variable

TRIES = 6  # requests for one range before it is given up
PAUSE = timedelta(seconds=0.5)  # before the first repetition; doubled each time, with a random part
LONGEST_PAUSE = timedelta(seconds=60)
TIMEOUT = timedelta(seconds=30)  # without a byte from the server
AHEAD = 8  # hours fetched at the same time, one thread each
TRIED = 24  # hours tried for the grid
LEVELS = {"height above ground": ("{:g} m above ground",), "ground or water surface": ("surface",),
          "entire atmosphere": ("entire atmosphere", "entire atmosphere (considered as a single layer)")}  # fmt: skip
KNOWN = {v.name: v for v in (*TABLE, *STATIC)}


class ArchiveHours(OneGrid):
    """The hours first to last of the archive at cfg.url; `load` fetches and decodes one. ValueError for options that
    cannot work, for an archive without any of the hours and for one that does not answer."""

    together = AHEAD

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        super().__init__()
        if first is None or last is None:
            expected, fix = "both with --source archive", "--start 2024-05-20 --end 2024-05-21T23"
            raise fault("start/end", "none", expected, fix)
        import_eccodes()  # before anything is fetched
        refuse_unknown(cfg.variables)
        refuse_file_above(cfg.out, "out")
        self.transfer = Transfer(cfg.url)
        self.source = f"HRRR GRIB2 messages from {self.transfer.base}"
        self.forecast_hour = 0 if cfg.forecast_hour == "auto" else int(cfg.forecast_hour)
        self.notes = ["each hour is the 1-hour forecast of the run one hour before it"] * (self.forecast_hour == 1)
        # a folder for each archive: files of the same name need not be the same
        self.cache = Path(f"{cfg.out}.cache") / hashlib.sha256(self.transfer.base.encode()).hexdigest()[:8]
        self.paths: dict[np.datetime64, str] = {}
        self.coming: dict[np.datetime64, Future] = {}  # files under way
        self.choose({self.forecast_hour: self._inventories(first, last)}, cfg)
        size = sum(r.end - r.start for t in self.times for n in self.names if (r := self.hours[t][n]).end) / 1e9
        self.notes.append(f"{size:.3g} GB to fetch, kept in {self.cache.parent} until the store is finished")
        self._locate()

    def __getstate__(self) -> dict:
        return {**vars(self), "coming": {}}  # threads stay where they are

    def expect(self, times: list[np.datetime64]) -> None:
        self.coming = {t: begin(self._fetch, t) for t in times}

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        file = self.coming.pop(time).result() if time in self.coming else self._fetch(time)
        return self._values(time, file, self.names)

    def close(self) -> None:
        shutil.rmtree(self.cache.parent, ignore_errors=True)

    # --- what there is ---

    def _inventories(self, first: np.datetime64, last: np.datetime64) -> dict[np.datetime64, dict]:
        """{valid time: {name: record}} of the hours whose inventory can be had."""
        whole = first.astype("datetime64[h]").astype("datetime64[ns]")
        asked = list(np.arange(whole + HOUR * (whole < first), last + np.timedelta64(1, "ns"), HOUR))
        found, lost, coming = {}, [], {}
        for n, time in enumerate(tqdm(asked, desc="inventories", unit="h", disable=None)):
            # the first alone: it tells whether anything answers
            for t in asked[n : n + AHEAD] if n else asked[:1]:
                coming[t] = coming.get(t) or begin(self._inventory, t)
            try:
                found[time] = coming[time].result()
            except HourUnavailable as error:
                lost.append(f"left out: {show(time)}, {error}")
        if not found:
            got = f"no hour from {show(first)} to {show(last)} ({(lost or ['no full hour between them'])[0]})"
            raise fault("start/end", got, "one or more", "--start, --end or --url")
        self.notes += listed(lost)
        return found

    def _inventory(self, time: np.datetime64) -> dict[str, "Record"]:
        """The records of one hour, from the cache if it has them."""
        run = str((time - HOUR * self.forecast_hour).astype("datetime64[h]")).replace("-", "").replace("T", "")
        path = f"hrrr.{run[:8]}/conus/hrrr.t{run[8:]}z.wrfsfcf{self.forecast_hour:02d}.grib2"
        kept = self.cache / f"{path}.idx"
        data = kept.read_bytes() if kept.exists() else self.transfer.get(f"{path}.idx")
        records = parse_index(data.decode("ascii", "replace"), f"{self.transfer.base}/{path}.idx")
        if others := {r.run for r in records} - {run}:
            raise HourUnavailable(f"{self.transfer.base}/{path}.idx: got run {min(others)}, expected {run}")
        replace(kept, data)
        self.paths[time] = path
        found = {name: find(records, v, self.forecast_hour) for name, v in KNOWN.items()}
        return {name: record for name, record in found.items() if record}

    def _locate(self) -> None:
        """Fill `grid` and its static fields from the first hour that can be had."""
        for time in self.times[:TRIED]:
            static = [v.name for v in STATIC if v.name in self.hours[time]]
            try:
                self._values(time, self._fetch(time), self.names)
                found = self._values(time, self._fetch(time, static), static)
            except HourUnavailable as error:
                why = error
                continue
            self.grid.static = {n: values for n, values in found.items() if not np.isnan(values).any()}
            gone = [v.name for v in STATIC if v.name not in self.grid.static]
            self.notes += [f"{name} is not stored: not in {self.paths[time]}, or not in every cell" for name in gone]
            return
        raise fault("start/end", f"none of the first {TRIED} hours whole ({why})", "one", "--start later")

    # --- what an hour holds ---

    def _fetch(self, time: np.datetime64, names: list[str] | None = None) -> Path:
        """A file with the messages of the named fields (default: those to store) of one hour and nothing else."""
        records = [self.hours[time][name] for name in (self.names if names is None else names)]
        spans = sorted({(r.start, r.end) for r in records}, key=lambda span: span[0])
        chosen = hashlib.sha256(repr(spans).encode()).hexdigest()[:8]  # another choice, another file
        kept = self.cache / f"{self.paths[time]}.{chosen}"
        if not kept.exists():
            replace(kept, b"".join(self.transfer.get(self.paths[time], span) for span in spans))
        return kept

    def _values(self, time: np.datetime64, file: Path, names: list[str]) -> dict[str, np.ndarray]:
        """The named fields of a fetched file, each found by its own octets; HourUnavailable for any fault."""
        out: dict[str, np.ndarray] = {}
        try:
            fields = scan(file) if names else []
            for name in names:
                right = (f for f in fields if f.name == name and f.valid_time == time)
                found = next((f for f in right if f.lead_time == HOUR * self.forecast_hour), None)
                if found is None:
                    raise ValueError(f"got no {name} for {show(time)} where the inventory has it, expected one")
                self.accept(found)
                out[name] = decode(found)
        except ValueError as error:
            file.unlink(missing_ok=True)  # the next attempt fetches it again
            raise HourUnavailable(f"{self.transfer.base}/{self.paths[time]}: {error}") from None
        return out


def begin(work: Callable, time: np.datetime64) -> Future:
    """work(time) in a daemon thread: Ctrl-C ends the command at once, not after the transfers under way."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(work(time))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


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
    """The instantaneous field of a variable at a lead time of 0 or more hours, or None if there is none."""
    if variable.grib is None:
        return None
    name, level_type, level = variable.grib
    levels = [text.format(level) for text in LEVELS[level_type]]
    kind = f"{lead} hour fcst" if lead else "anl"
    return next((r for r in records if r.name == name and r.level in levels and r.kind == kind), None)


# --- transfers ---


class Transfer:
    """Files and byte ranges below one address, http:// or https://, by obstore, which tries again as long as that may
    help and resumes an answer that breaks off. Threads may share it. Proxies come from the environment. ValueError for
    an address that cannot work or does not answer; HourUnavailable for a file."""

    def __init__(self, base: str):
        self.base = base.rstrip("/")
        parts = urlsplit(self.base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise fault("url", base, "http:// or https://", "--url, or --source grib --path FOLDER for local files")
        self.store = need("obstore").store.HTTPStore.from_url(
            self.base,
            client_options={"allow_http": True, "read_timeout": TIMEOUT, "timeout": 20 * TIMEOUT},
            retry_config={"max_retries": TRIES - 1, "backoff": {"init_backoff": PAUSE, "max_backoff": LONGEST_PAUSE,
                                                                "base": 2}},
        )  # fmt: skip

    def get(self, path: str, span: tuple[int, int | None] | None = None) -> bytes:
        """A whole file; or, with `span`, one GRIB message (its first byte, and the byte after its last or None for the
        end of the file), whole by its own Section 0."""
        file, errors = f"{self.base}/{path}", need("obstore").exceptions
        wanted = {} if span is None else {"range": {"offset": span[0]} if span[1] is None else span}
        try:
            answer = self.store.get(path, options=wanted)
            size = answer.range[1] - answer.range[0]
            body = b""
            for part in answer.stream(min_chunk_size=16):
                body += part
                if span and body[:4] == b"GRIB" and int.from_bytes(body[8:16]) != size:
                    # an inventory cut short, say: its last line would fetch all the rest of the file
                    whole = int.from_bytes(body[8:16])
                    raise HourUnavailable(f"{file}: at byte {span[0]} got {size} bytes of a message of {whole}")
        except (FileNotFoundError, errors.PermissionDeniedError):  # S3 says the latter if listing is not allowed
            raise HourUnavailable(f"{file}: absent") from None
        except errors.NotSupportedError:
            raise fault("url", f"a whole file for a part of {file}", "a byte range", "--url ADDRESS") from None
        except errors.BaseError as error:
            text = str(error).splitlines()[0]
            if " 416 " in text:
                raise HourUnavailable(f"{file}: ends before byte {span[0]}, where its index has a message") from None
            fix = "check the network and --url, then the same command again"
            raise fault("url", text, f"a whole answer in {TRIES} tries", fix) from None
        if span and (body[:4] != b"GRIB" or body[-4:] != b"7777"):
            got = f"{len(body)} bytes from {body[:4]!r} to {body[-4:]!r}"
            raise HourUnavailable(f"{file}: at byte {span[0]} got {got}, expected a message from GRIB to 7777")
        return body

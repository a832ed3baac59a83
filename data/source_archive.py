"""The hours of NOAA's public HRRR archive between two times, for data/build_hrrr.py.

    python -m data.build_hrrr --source archive --start 2024-05-20 --end 2024-05-21T23 --out may.zarr

Layout: URL/hrrr.YYYYMMDD/conus/hrrr.tHHz.wrfsfcfFF.grib2 and its .idx, or the same without conus/. First pass:
the inventories, about 10 kB an hour. Then, some hours ahead of the writing, the byte ranges of the wanted
messages: about 10 MB of an hour's 150. What came is kept in OUT.cache/ until the store is finished, so that
the same command goes on after an interruption without fetching anything twice.

An hour that the archive does not have, or whose messages are damaged in every try, is left out and named. Where
the archive no longer answers the command ends instead: a network that fails at night is no gap in the record.
"""

import hashlib
import importlib.util
import os
import shutil
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.archive import Absent, HourUnavailable, Record, Transfer, Unreachable, find, parse_index
from data.command import nearest, refuse_file_above
from data.grib import decode, locate, scan
from data.grid import Grid, same_grid
from data.source_grib import KINDS, listed, refuse_unknown
from data.times import show
from data.variables import STATIC, TABLE, lookup

HOUR = np.timedelta64(1, "h")
AHEAD = 8  # hours fetched at the same time, each in a thread of its own
TRIED = 24  # hours tried for the grid
SILENT = 3  # hours in a row without an answer, after which the archive counts as out of reach
LAYOUTS = ("hrrr.{day}/conus/", "hrrr.{day}/")
KNOWN = {v.name: v for v in (*TABLE, *STATIC)}


class FetchedHours:
    """What sources over a network share: fetching ahead, the cache OUT.cache/, hours that cannot be had.

    A subclass calls `_connect` first and `transfer.rest` last in its constructor and has `_inventory(time)`. It may be
    sent to other processes: each loads hours of its own, told beforehand by `expect`. `close` is for the first one.
    """

    transfer: Transfer | None = None

    def _connect(self, address: str, option: str, out: str) -> None:
        refuse_file_above(out, "out")
        self.transfer = Transfer(address, option)
        # a folder for each archive: files of the same name need not be the same
        self.cache = Path(f"{out}.cache") / hashlib.sha256(self.transfer.base.encode()).hexdigest()[:8]
        self.silent = SILENT - 1  # hours in a row without an answer; the very first must be answered
        self.failed: set[np.datetime64] = set()  # hours that could not be had, though the archive may have them
        self.coming: dict[tuple[str, np.datetime64], Future] = {}
        self.ahead: list[np.datetime64] | None = None  # hours that will be loaded; None: all of `times`

    def __getstate__(self) -> dict:
        return {k: {} if k == "coming" else v for k, v in self.__dict__.items()}  # threads stay where they are

    def expect(self, times: list[np.datetime64]) -> None:
        """Say which hours `load` will be asked for next: no others are fetched ahead, another process may have them."""
        self.ahead = sorted(times)
        if self.transfer:
            self.coming = {(work, t): f for (work, t), f in self.coming.items() if t in set(times)}

    def close(self, failed: bool | None = None) -> list[str]:
        """Remove OUT.cache/ where all that the archive has was had; else lines that say what is left to do.

        failed: whether `load` raised HourUnavailable with `again` for any hour, in any process; None: as seen here.
        """
        self.transfer.stop()
        # an hour that failed here before the loading began was tried once more by `load`, if it has an inventory
        before = self.failed if failed is None else self.failed - set(self.hours)
        if failed or before:
            return self._keep_cache()
        shutil.rmtree(self.cache, ignore_errors=True)
        if self.cache.parent.is_dir() and not any(self.cache.parent.iterdir()):
            self.cache.parent.rmdir()
        return []

    def _inventories(self, first: np.datetime64, last: np.datetime64) -> dict[np.datetime64, dict]:
        """{valid time: what `_inventory` gives} of the hours whose inventory can be had."""
        whole = first.astype("datetime64[h]").astype("datetime64[ns]")
        asked = list(np.arange(whole + HOUR * (whole < first), last + np.timedelta64(1, "ns"), HOUR))
        found, absent, faulty = {}, [], []
        for time in tqdm(asked, desc="inventories", unit="h", disable=None):
            try:
                # the first alone: it tells the layout, and whether anything answers
                found[time] = self._take("_inventory", asked, time, AHEAD if time > asked[0] else 1)
            except HourUnavailable as error:
                (absent if isinstance(error, Absent) else faulty).append(f"left out: {show(time)}, {error}")
        if not found:
            raise ValueError(f"start/end: got no hour from {show(first)} to {show(last)} "
                             f"({(faulty + absent + ['no full hour between them'])[0]}), expected one or more. "
                             f"Fix: --start, --end or --{self.transfer.option}")  # fmt: skip
        self.notes += [*listed(absent), *listed(faulty)]
        return found

    def _take(self, work: str, times: list[np.datetime64], time: np.datetime64, ahead: int):
        """self.work(time), while the hours after it are under way; ValueError once the archive no longer answers."""
        at = bisect_right(times, time)
        for t in (time, *times[at : at + ahead - 1]):
            if (work, t) not in self.coming:
                self.coming[work, t] = begin(getattr(self, work), t)
        try:
            answer = self.coming.pop((work, time)).result()
        except Unreachable as error:
            self.silent += 1
            self.failed.add(time)
            if self.silent < SILENT:
                raise
            option = self.transfer.option
            raise ValueError(f"{option}: {error}. Fix: check the network and --{option}, then give the same command "
                             f"again; what came is kept in {self.cache.parent}") from None  # fmt: skip
        except HourUnavailable as error:
            self.silent = 0
            if error.again:
                self.failed.add(time)
            raise
        self.silent = 0
        self.failed.discard(time)
        return answer


class ArchiveHours(FetchedHours):
    """The hours first to last of the archive at cfg.url; `load` fetches and decodes one.

    Attributes: times (sorted, ns), names, forecast_hour (0 or 1), grid, source, notes. Raises ValueError
    for options that cannot work, for an archive without any of the hours and for one that does not answer; `load`
    raises HourUnavailable for an hour that is to be left out. Call `close` when the store is finished.
    """

    def __init__(self, cfg, first: np.datetime64 | None, last: np.datetime64 | None):
        if first is None or last is None:
            raise ValueError("start/end: got none, expected both with --source archive. "
                             "Fix: --start 2024-05-20 --end 2024-05-21T23")  # fmt: skip
        if importlib.util.find_spec("gribberish") is None:
            raise ValueError(
                "GRIB: got no package gribberish, expected it. Fix: .venv/bin/python -m pip install 'gribberish>=0.30'"
            )
        refuse_unknown(cfg.variables)
        self._connect(cfg.url, "url", cfg.out)
        self.source = f"HRRR GRIB2 messages from {self.transfer.base}"
        self.forecast_hour = int(cfg.forecast_hour == "1")  # auto: analyses
        self.notes = ["each hour is the 1-hour forecast of the run one hour before it"] * self.forecast_hour
        self.layouts = LAYOUTS  # narrowed to the one that is found
        self.paths: dict[np.datetime64, str] = {}
        self.grid: Grid | None = None
        self.sections: set[bytes] = set()  # Sections 3 that were found to be that grid
        try:
            self.hours = self._inventories(first, last)
            self.names = self._names([lookup(n).name for n in cfg.variables])
            self.times = sorted(self.hours)
            records = [r for one in self.hours.values() for n, r in one.items() if n in self.names]
            size = sum(r.end - r.start for r in records if r.end) / 1e9
            self.notes.append(f"{size:.3g} GB to fetch, kept in {self.cache.parent} until the store is finished")
            self._locate()
        except BaseException:
            self.transfer.stop()
            raise
        self.transfer.rest()

    def load(self, time: np.datetime64) -> dict[str, np.ndarray]:
        """One hour: {name: (y, x) in table units}, NaN where the file has no value."""
        times = self.times if self.ahead is None else self.ahead
        return self._values(time, self._take("_fetch", times, time, AHEAD), self.names)

    def _keep_cache(self) -> list[str]:
        return [f"{self.cache.parent} is kept: --replace True builds anew and fetches only the hours that failed"]

    # --- what there is ---

    def _inventory(self, time: np.datetime64) -> dict[str, Record]:
        """The records of one hour, from the cache where it has them."""
        run = str((time - HOUR * self.forecast_hour).astype("datetime64[h]")).replace("-", "").replace("T", "")
        for layout in sorted(self.layouts, key=lambda text: not (self.cache / text.format(day=run[:8])).is_dir()):
            path = f"{layout.format(day=run[:8])}hrrr.t{run[8:]}z.wrfsfcf{self.forecast_hour:02d}.grib2"
            kept = self.cache / f"{path}.idx"
            try:
                text = kept.read_text() if kept.exists() else self.transfer.text(f"{path}.idx")
            except Absent as error:
                absent = error
                continue
            records = parse_index(text, f"{self.transfer.base}/{path}.idx")
            if others := {r.run for r in records} - {run}:
                raise HourUnavailable(f"{self.transfer.base}/{path}.idx: got run {min(others)}, expected {run}")
            if not kept.exists():
                keep(kept, [text.encode()])
            self.layouts, self.paths[time] = (layout,), path
            found = {name: find(records, v, self.forecast_hour) for name, v in KNOWN.items()}
            return {name: record for name, record in found.items() if record}
        raise absent

    def _names(self, wanted: list[str]) -> list[str]:
        """The variables to store, in the table's order; the hours that lack one are left out and noted."""
        listing = Counter(name for records in self.hours.values() for name in records)
        count = {v.name: listing[v.name] for v in TABLE}
        for name in wanted:
            if not count[name]:
                some = [n for n in count if count[n]]
                raise ValueError(f"variables: got {name}, which no inventory of {KINDS[self.forecast_hour]} lists, "
                                 f"expected some of {' '.join(some)}. Nearest: {nearest(name, some)}. "
                                 "Fix: name others with --variables")  # fmt: skip
        names = [n for n in count if (n in wanted if wanted else count[n] * 2 > len(self.hours))]
        absent = [f"{n} ({count[n]} of {len(self.hours)} hours)" for n in count if n not in names]
        if absent and not wanted:
            self.notes.append(f"not in most hours, so not stored: {', '.join(absent)}")
        lacking = {t: [n for n in names if n not in records] for t, records in self.hours.items()}
        self.notes += listed([f"left out: {show(t)} lacks {' '.join(n)}" for t, n in lacking.items() if n])
        self.hours = {t: records for t, records in self.hours.items() if not lacking[t]}
        if not names or not self.hours:
            raise ValueError("variables: got no hour with all of them, expected one or more "
                             f"({'; '.join(self.notes[-2:])}). Fix: --variables")  # fmt: skip
        return names

    def _locate(self) -> None:
        """Fill `grid` and its static fields from the first hour that can be had."""
        for time in self.times[:TRIED]:
            static = [v.name for v in STATIC if v.name in self.hours[time]]
            try:
                self._values(time, self._take("_fetch", self.times, time, 1), self.names)
                found = self._values(time, self._fetch(time, static), static)
            except HourUnavailable as error:
                fault = error
                continue
            self.grid.static = {n: values for n, values in found.items() if not np.isnan(values).any()}
            gone = [v.name for v in STATIC if v.name not in self.grid.static]
            self.notes += [f"{name} is not stored: not in {self.paths[time]}, or not in every cell" for name in gone]
            if {"U10", "V10"} & set(self.names) and not self.one.winds_follow_grid:
                self.notes.append("winds point east and north, not along the grid's x and y as in HRRR")
            return
        raise ValueError(f"start/end: got none of the first {TRIED} hours whole ({fault}). Fix: --start later")

    # --- what an hour holds ---

    def _fetch(self, time: np.datetime64, names: list[str] | None = None) -> Path:
        """A file with the messages of the named fields (default: those to store) of one hour and nothing else."""
        records = [self.hours[time][name] for name in (self.names if names is None else names)]
        spans = sorted({(r.start, r.end) for r in records}, key=lambda span: span[0])
        chosen = hashlib.sha256(repr(spans).encode()).hexdigest()[:8]  # another choice, another file
        kept = self.cache / f"{self.paths[time]}.{chosen}"
        if not kept.exists():
            keep(kept, (self.transfer.message(self.paths[time], *span) for span in spans))
        return kept

    def _values(self, time: np.datetime64, file: Path, names: list[str]) -> dict[str, np.ndarray]:
        """The named fields of a fetched file, each found by its own octets; HourUnavailable for any fault."""
        out, lead = {}, HOUR * self.forecast_hour
        try:
            fields = [f for f in scan(file) if f.valid_time == time and f.lead_time == lead] if names else []
            for name in names:
                found = next((f for f in fields if f.matches(KNOWN[name])), None)
                if found is None:
                    raise ValueError(f"got no {name} for {show(time)} where the inventory has it, expected one")
                if self.grid is None:
                    self.one, self.grid = found, locate(found)
                elif found.grid_section not in self.sections and (
                    not same_grid(self.grid, locate(found)) or found.winds_follow_grid != self.one.winds_follow_grid
                ):
                    raise ValueError("got another grid than that of the first hour, expected one grid")
                self.sections.add(found.grid_section)
                out[name] = decode(found)
        except ValueError as error:
            file.unlink(missing_ok=True)  # the next attempt fetches it again
            self.failed.add(time)
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


def keep(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file, part by part, that is either whole or not there; ValueError where the disk refuses."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.writelines(parts)
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"out: cannot write {path} ({error.strerror}). Fix: free the disk, or another --out") from None

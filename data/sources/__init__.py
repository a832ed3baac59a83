"""What `python -m data.build_hrrr --source` chooses, and what all sources share."""

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.command import fault, nearest
from data.grid import Grid
from data.times import show
from data.variables import STATIC, TABLE, known, lookup

HOUR = np.timedelta64(1, "h")
KINDS = {0: "f00 (analyses)", 1: "f01 (1-hour forecasts)"}
LISTED = 20  # lines of a list that are printed before "and N more"


class HourUnavailable(ValueError):
    """One hour cannot be had: the message names its file and the reason. The hours around it may be sound."""


class Source:
    """The hours of a source: made of (cfg, first, last), the command's constants and the first and last wanted time.

    A constructor sets the attributes below and raises ValueError (got, expected, fix) for a path, option or content
    that cannot work. A source can be pickled. Each has `load(time)`, which gives one hour as {name: (y, x) in table
    units}, NaN where the source has no value, and may raise HourUnavailable for an hour that is to be left out.
    """

    source: str  # one line for the store's attribute
    times: list[np.datetime64]  # sorted valid times, ns
    forecast_hour: int  # 0 analyses, 1 1-hour forecasts
    names: list[str]  # variables, as they are stored
    grid: Grid  # rows south to north
    notes: list[str]  # lines to print before the work; the report repeats "turned: ", "converted: " and "left out: "
    described: dict[str, dict] = {}  # noqa: RUF012  # further attributes of variables, such as wind_reference
    together = 1  # hours in a row that one process should get, because they are decoded or fetched together
    cache_bytes = 0  # memory of what is read ahead, in all processes together

    def expect(self, times: list[np.datetime64]) -> None:
        """Take note of the hours that will be loaded next."""

    def share(self, processes: int) -> None:
        """Divide the memory for what is read ahead."""

    def close(self) -> None:
        """Clean up when the store is finished."""

    def choose(self, fields: dict[int, dict[np.datetime64, dict]], cfg) -> None:
        """Set forecast_hour, names, times and hours ({time: {name: what the source keeps}}) from what there is of each
        kind: the kind that cfg asks for or that has more hours, and its variables that cfg asks for or that more than
        half of the hours have. Hours that lack one are left out and noted. A variable that only the other kind has
        comes from there, with the attribute forecast_hour, unless cfg asks for one kind."""
        wanted = {lookup(n).name for n in cfg.variables}
        fields = {k: {t: held for t, held in hours.items() if held} for k, hours in fields.items()}
        whole = {k: sum(wanted <= held.keys() for held in hours.values()) for k, hours in fields.items()}
        kind = max(sorted(fields), key=lambda k: (whole[k], len(fields[k])))
        if cfg.forecast_hour != "auto":
            kind = int(cfg.forecast_hour)
        others = [k for k in fields if k != kind and fields[k]]
        if not fields[kind]:
            expected = " or ".join(f"{len(fields[k])} hours of {kind_of(k)}" for k in others) or "some"
            fix = f"--forecast_hour {others[0]}" if others else "a source that has them"
            raise fault("forecast_hour", f"no hour of {kind_of(kind)}", expected, fix)
        self.notes += [f"{kind_of(kind)} chosen, {len(fields[kind])} hours; left out: {len(fields[k])} hours of "
                       f"{kind_of(k)}. The other: --forecast_hour {k}" for k in others]  # fmt: skip
        self.forecast_hour, hours = kind, dict(sorted(fields[kind].items()))
        count = Counter(name for held in hours.values() for name in held)
        for k in others if cfg.forecast_hour == "auto" else []:
            more = Counter(name for t in hours for name in fields[k].get(t, {}))
            for name in (n for n, m in more.items() if not count[n] and (n in wanted or 2 * m > len(hours))):
                count[name], self.described = more[name], self.described | {name: {"forecast_hour": k}}
                self.notes.append(f"{name} is taken from {kind_of(k)}; its attribute forecast_hour says so")
                for t, held in hours.items():
                    held |= {n: place for n, place in fields[k].get(t, {}).items() if n == name}
        every = [v.name for v in TABLE]
        every += sorted(count.keys() - {v.name for v in (*TABLE, *STATIC)})
        for name in wanted - count.keys():
            expected = f"some of {' '.join(n for n in every if n in count)}. Nearest: {nearest(name, count)}"
            raise fault("variables", f"{name}, which no hour of {kind_of(kind)} has", expected, "name others")
        self.names = [n for n in every if (n in wanted if wanted else count[n] * 2 > len(hours))]
        absent = [f"{n} ({count[n]} of {len(hours)} hours)" for n in every if n not in self.names]
        if absent and not wanted:
            self.notes.append(f"not in most hours, so not stored: {', '.join(absent)}")
        lacking = {t: [n for n in self.names if n not in held] for t, held in hours.items()}
        self.hours = {t: held for t, held in hours.items() if self.names and not lacking[t]}
        self.times = list(self.hours)
        self.notes += listed([f"left out: {show(t)} lacks {' '.join(n)}" for t, n in lacking.items() if n])
        if not self.hours:
            got = f"no hour that has {' '.join(self.names) or 'any'} together ({'; '.join(self.notes[-2:])})"
            raise fault("variables", got, "one", "fewer --variables")

    def refuse_contradictions(self, twice: list[tuple], read: Callable, path: Callable) -> None:
        """Two fields for one hour and variable must be equal: else there is no telling which one is right.

        twice: (time, name, place that is used, another place); read(name, place) gives a field, path(place) its file.
        """
        twice = [(t, n, a, b) for t, n, a, b in twice if self.hours.get(t, {}).get(n) == a and n in self.names]
        for time, name, a, b in twice:
            if not np.array_equal(read(name, a), read(name, b), equal_nan=True):
                got, expected = f"different {name} for {show(time)}", "each hour once or equal values"
                where = " and ".join(dict.fromkeys(map(str, (path(a), path(b)))))
                raise fault(where, got, expected, "remove one of them")
        if twice:
            self.notes.append(f"{len(twice)} fields occur twice with equal values, the first is used; left out: "
                              f"{counted({path(b) for *_, b in twice})}")  # fmt: skip


def kind_of(lead: int) -> str:
    """A lead time in hours, in words."""
    return KINDS.get(lead, f"f{lead:02d} ({lead}-hour forecasts)")


def listed(lines: list[str]) -> list[str]:
    """The first lines of a list, and how many more there are."""
    more = len(lines) - LISTED
    return lines if more <= 0 else [*lines[:LISTED], f"and {more} more like these"]


def counted(paths) -> str:
    """ "3 files (the first)" for a message."""
    return f"{len(paths)} file{'s' * (len(paths) > 1)} ({min(paths)}{' ...' * (len(paths) > 1)})"


def outside(time: np.datetime64, first: np.datetime64 | None, last: np.datetime64 | None) -> bool:
    """Whether a time is before the first or after the last wanted one."""
    return (first is not None and time < first) or (last is not None and time > last)


def need(package: str):
    """The module of a package that one source alone needs; ValueError if it is not installed."""
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError) as error:  # RuntimeError: eccodes without its library
        fix = f".venv/bin/python -m pip install {package}"
        raise fault("source", f"no package {package} ({error})", "it to be installed", fix) from None


def refuse_missing_path(path: str, expected: str) -> None:
    """ValueError for a local path that does not exist."""
    if "://" not in path and not Path(path).exists():
        raise fault("path", f"{path}, which does not exist", expected, "--path with one that is there")


def refuse_unknown(variables: list[str]) -> None:
    """ValueError for a wanted variable that the table does not know."""
    names = [v.name for v in TABLE]
    for name in variables:
        if not known(name):
            expected = f"names of data/variables.py. Nearest: {nearest(name, names)}"
            raise fault("variables", repr(name), expected, f"--variables {' '.join(names)}")

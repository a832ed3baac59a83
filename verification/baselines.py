"""What a forecast is compared with in one case: the truth beside it in time, and simple baselines."""

from functools import lru_cache

import numpy as np

from data.times import show, show_duration
from data.variables import lookup
from verification.climate import estimate
from verification.extrapolation import extrapolate, reach_of
from verification.inputs import NONE, Fields, scored_cells, training_hours

FRAMES = 3  # at most this many fields, one step apart, show extrapolation the motion
DAY = np.timedelta64(24, "h")


class References:
    """Comparisons of the cases of one forecast store.

    fields: what to read from; step: timedelta64 of the model; spacing: m; split: the parts of the record, of which the
    climatology may see the training part only; climate: what it is read from, None for `fields`; strip: cells along
    the edge that are left out, because boundary data gave them. `notes` says what there is.
    """

    def __init__(
        self, fields: Fields, step: np.timedelta64, spacing: float, split: dict, climate: Fields | None = None,
        strip: int = 0,
    ):  # fmt: skip
        self.fields, self.init_times, self.leads, self.step = fields, fields.init_times, fields.leads, step
        self.reach, self.inner = reach_of(step, spacing), (slice(strip, -strip or None),) * 2
        end = None if climate is None else self.init_times.min()  # of hours that are named for this
        climate = climate or fields
        self.climatology = estimate(training_hours(climate.store.times, split, end), climate.read_truth)
        days = f"not available: {climate.store.path} has no hour of the training period. Name a store with --climate"
        if self.climatology:
            days = f"mean by hour of day over {self.climatology.days} days of {climate.store.path}"
        self.notes = [f"climatology: {days}"]
        self.radar = [n for n in fields.names if lookup(n).name == "REFC"]
        without = sum(not self._frame_times(t) for t in self.init_times)
        if self.radar and without:
            self.notes.append(
                f"extrapolation: not available for {without} of {len(self.init_times)} initial times, the truth store "
                f"lacks the field {show_duration(step)} before"
            )
        self._moved = lru_cache(maxsize=1)(self._extrapolate)

    def case(
        self, i: int, j: int, name: str, other: Fields | None = None
    ) -> tuple[dict[str, np.ndarray | None], np.ndarray | None]:
        """The fields of `score_case` for the i-th initial and j-th lead time, without the strip, and the cells to
        score; `other` is another forecast that takes the place of ours. ValueError if forecast and truth are not
        missing in the same cells."""
        init, lead, source = self.init_times[i], self.leads[j], other or self.fields
        valid = init + lead
        forecast, analysis = source.forecast(*source.index(init, lead))[name], self.fields.analysis(i)[name]
        truth = self.fields.truth(valid)[name]
        scored = scored_cells(f"{name}, initial time {show(init)}, valid {show(valid)}", forecast, analysis, truth)
        before = source.index(init, lead - self.step)
        climate = self.climatology
        others = {
            "yesterday": self.fields.truth(yesterday_time(valid, lead)).get(name),
            "climatology": climate.at(name, valid) if climate else None,
            "damped": climate.damped(name, analysis, init, lead) if climate else None,
            "extrapolation": self.extrapolated(i, name, lead),
            "truth_before": self.fields.truth(valid - self.step).get(name),
            "truth_after": self.fields.truth(valid + self.step).get(name),
            "forecast_before": source.forecast(*before)[name] if before else None,
        }
        for key, field in others.items():  # one that lacks a cell that is scored is of no use
            if field is not None and not np.isfinite(field if scored is None else field[scored]).all():
                others[key] = None
        fields = {"forecast": forecast, "truth": truth, "persistence": analysis} | others
        fields = {k: None if x is None else x[self.inner] for k, x in fields.items()}
        return fields, None if scored is None else scored[self.inner]

    def extrapolated(self, i: int, name: str, lead: np.timedelta64) -> np.ndarray | None:
        """Extrapolation (y, x) from the i-th initial time; None for variables other than reflectivity, without an
        earlier field in the truth store, and for leads that are not whole steps."""
        moved = self._moved(i).get(name)
        return moved[int(lead // self.step) - 1] if moved is not None and lead % self.step == NONE else None

    def _frame_times(self, init: np.datetime64) -> list[np.datetime64]:
        """Times of the latest unbroken run of fields that ends at the initial time, oldest first; empty under two."""
        times = [init]
        while len(times) < FRAMES and self.fields.store.has(times[0] - self.step):
            times.insert(0, times[0] - self.step)
        return times if len(times) > 1 and self.fields.store.has(init) else []

    def _extrapolate(self, i: int) -> dict[str, np.ndarray]:
        """Extrapolation of reflectivity from one initial time, (steps, y, x) by name; {} without an earlier field."""
        times = self._frame_times(self.init_times[i])
        steps = int(self.leads.max() // self.step)
        if not times or not steps:
            return {}
        frames = {n: np.stack([self.fields.truth(t)[n] for t in times]) for n in self.radar}
        return {n: extrapolate(x, steps, self.reach) for n, x in frames.items()}


def yesterday_time(valid_time: np.datetime64, lead_time: np.timedelta64) -> np.datetime64:
    """The same hour on the last day that was known at the initial time: valid time - 24 h x ceil(lead / 24 h)."""
    return valid_time + (-lead_time // DAY) * DAY  # floor of a negative number: 25 h goes two days back

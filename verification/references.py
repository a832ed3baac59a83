"""What a forecast is compared with in one case: the truth beside it in time, and forecasts that cost nothing."""

from functools import lru_cache

import numpy as np

from data.times import show, show_duration
from data.variables import lookup
from verification.baselines import same_hour_yesterday
from verification.climate import estimate
from verification.extrapolation import extrapolate
from verification.inputs import NONE, Fields, scored_cells, training_hours, usable

FRAMES = 3  # at most this many fields, one step apart, tell extrapolation the motion


class References:
    """Comparisons of the cases of one forecast store.

    fields: what to read from; init_times, leads: the forecast's coordinates; step: timedelta64 of the model;
    split: the parts of the record, of which the climate may see the training part only. `notes` says what there is.
    """

    def __init__(self, fields: Fields, init_times: np.ndarray, leads: np.ndarray, step: np.timedelta64, split: dict):
        self.fields, self.init_times, self.leads, self.step = fields, init_times, leads, step
        self.position = {int(lead): j for j, lead in enumerate(leads.astype("timedelta64[ns]").astype("int64"))}
        hours = training_hours(fields.store.times, split)
        self.climate = estimate(hours, fields.read_truth, leads[leads > NONE], step)
        told = f"climate and correlation from {self.climate.hours} training hours" if self.climate else (
            "not available, the truth store has not two hours of the training period"
        )  # fmt: skip
        self.notes = [f"damped persistence: {told}"]
        self.radar = [n for n in fields.names if lookup(n).name == "REFC"]
        without = sum(not self._frame_times(t) for t in init_times)
        if self.radar and without:
            self.notes.append(
                f"extrapolation: not available for {without} of {len(init_times)} initial times, the truth store lacks "
                f"the field {show_duration(step)} before"
            )
        self._moved = lru_cache(maxsize=1)(self._move_echoes)

    def case(self, i: int, j: int, name: str) -> tuple[dict[str, np.ndarray | None], np.ndarray | None]:
        """The fields of `score_case` for the i-th initial and j-th lead time, and the cells to score.

        ValueError where forecast and truth are not missing in the same cells."""
        init, lead = self.init_times[i], self.leads[j]
        valid, truth_at = init + lead, self.fields.truth
        forecast = self.fields.forecast(i, j)[name]
        analysis = self.fields.forecast(i, self.position[0])[name]
        truth = truth_at(valid)[name]
        what = f"{name}, initial time {show(init)}, valid {show(valid)}"
        scored = scored_cells(what, forecast, analysis, truth)
        before = self.position.get(int((lead - self.step) / np.timedelta64(1, "ns")))
        fields = {
            "forecast": forecast,
            "truth": truth,
            "analysis": analysis,
            "yesterday": same_hour_yesterday(lambda time: truth_at(time).get(name), valid, lead, scored),
            "damped": self.climate.damped(name, analysis, lead) if self.climate else None,
            "extrapolation": self.extrapolated(i, name, lead),
            "truth_before": usable(truth_at(valid - self.step).get(name), scored),
            "truth_after": usable(truth_at(valid + self.step).get(name), scored),
            "forecast_before": None if before is None else usable(self.fields.forecast(i, before)[name], scored),
        }
        return fields, scored

    def extrapolated(self, i: int, name: str, lead: np.timedelta64) -> np.ndarray | None:
        """Extrapolation (y, x) from the i-th initial time; None for other variables than reflectivity, where the
        truth store lacks an earlier field, and for leads that are not whole steps."""
        moved = self._moved(i).get(name)
        return moved[int(lead // self.step) - 1] if moved is not None and lead % self.step == NONE else None

    def _frame_times(self, init: np.datetime64) -> list[np.datetime64]:
        """Times of the latest unbroken run of fields that ends at the initial time, oldest first; empty under two."""
        times = [init]
        while len(times) < FRAMES and self.fields.store.has(times[0] - self.step):
            times.insert(0, times[0] - self.step)
        return times if len(times) > 1 and self.fields.store.has(init) else []

    def _move_echoes(self, i: int) -> dict[str, np.ndarray]:
        """Extrapolation of reflectivity from one initial time, (steps, y, x) by name; {} without an earlier field."""
        times = self._frame_times(self.init_times[i])
        steps = int(self.leads.max() // self.step)
        if not times or not steps:
            return {}
        return {n: extrapolate(np.stack([self.fields.truth(t)[n] for t in times]), steps) for n in self.radar}

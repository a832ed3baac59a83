"""One case (initial time, lead time, variable) to sums, and sums over cases.

A forecast and its baselines go through the same `case_sums`, so that they are compared like with like.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.normalise import transform
from verification import lines, objects, scores, spectra


@dataclass(frozen=True)
class Measure:
    """How a variable is scored."""

    spacing: tuple[float, float] = (1.0, 1.0)  # (dy, dx), one unit
    thresholds: tuple[float, ...] = ()  # events "at least this much", in the variable's unit; empty: none
    windows: tuple[int, ...] = ()  # FSS windows, cells (odd)
    cell: float = 1.0  # width of a cell in the unit in which windows are named, km
    name: str = ""  # the variable
    std: float | None = None  # standard deviation in training, in the transformed space; None: not known


def score_case(fields: dict[str, np.ndarray | None], scored, measure: Measure) -> dict[str, dict]:
    """All sums of one case, by what is compared with the truth; what is not there is left out.

    `fields`, each (y, x): forecast, truth, analysis; and where there is one: yesterday, damped, extrapolation;
    truth_before and truth_after (the truth one step earlier and later) and forecast_before (the forecast one step
    earlier). `scored` (y, x) bool or None for all cells.
    """
    f, t = fields["forecast"], fields["truth"]
    there = {k for k, v in fields.items() if v is not None}
    sums = {
        "forecast": case_sums(f, t, scored, measure, detail=True),
        "persistence": case_sums(fields["analysis"], t, scored, measure),
        "truth": {"moments": scores.moments(t, scored)},
    }
    beside = {k: sums["forecast"][k] for k in ("cases", "errors", "events")}
    for baseline in ("yesterday", "damped"):
        if baseline in there:
            sums[baseline] = case_sums(fields[baseline], t, scored, measure, structure=False)
            sums[f"forecast_beside_{baseline}"] = {k: beside[k] for k in ("cases", "errors")}
    if "extrapolation" in there:
        sums |= _against_extrapolation(fields, scored, measure, beside)
    if {"truth_before", "truth_after"} <= there:
        early, late = (scores.error_sums(f, fields[k], scored) for k in ("truth_before", "truth_after"))
        sums["timing"] = {"cases": 1, "early": early, "late": late, "at": sums["forecast"]["errors"]}
    if {"forecast_before", "truth_before"} <= there:
        changes = (f - fields["forecast_before"], t - fields["truth_before"])
        sums["change"] = dict(
            zip(("forecast", "truth"), (scores.moments(c, scored) for c in changes), strict=True), cases=1
        )
    return sums


def _against_extrapolation(fields, scored, measure: Measure, beside: dict) -> dict[str, dict]:
    """Sums of extrapolation and of the forecast over the cells where extrapolation has a value."""
    x = fields["extrapolation"]
    known = np.isfinite(x) if scored is None else np.isfinite(x) & scored
    if not known.any():
        return {}
    if known.sum() == (known.size if scored is None else scored.sum()):
        known = scored
    else:
        beside = case_sums(fields["forecast"], fields["truth"], known, measure, spectrum=False)
    extrapolated = case_sums(x, fields["truth"], known, measure, spectrum=False)
    return {"extrapolation": extrapolated, "forecast_beside_extrapolation": beside}


def case_sums(forecast, truth, scored, measure: Measure, structure=True, spectrum=True, detail=False) -> dict:
    """The sums of one case of (y, x) fields; without `structure` the errors only, with `detail` also what is asked
    of the forecast alone: modes of the spectrum, errors by place, normalised error, storm objects."""
    sums: dict = {"cases": 1, "errors": scores.error_sums(forecast, truth, scored)}
    if structure and spectrum:
        sums["spectrum"] = spectrum = spectra.spectrum_sums(forecast, truth, measure.spacing, modes=detail)
        if detail:
            modes = None if spectrum is None else spectrum.pop("modes")
            tile = tuple(map(spectra.tile_side, np.shape(forecast)))
            sums["lines"] = None if modes is None else lines.line_sums(modes)
            sums["rings"] = None if modes is None else spectra.ring_sums(modes, tile, measure.spacing)
    if structure:
        sums["events"] = {
            f"{t:g}": {
                "table": scores.contingency(forecast, truth, t, scored),
                "fss": {
                    f"{w * measure.cell:g}": scores.fss_sums(forecast, truth, t, w, scored) for w in measure.windows
                },
            }
            for t in measure.thresholds
        }
    if detail:
        error = np.asarray(forecast) - np.asarray(truth)
        sums["edge"], sums["phase"] = lines.edge_sums(error, scored), lines.phase_sums(error, scored)
        if measure.thresholds:
            sums["objects"] = objects.object_sums(forecast, truth, scored)
        if measure.std:
            moved = [transform(torch.as_tensor(x), measure.name) / measure.std for x in (forecast, truth)]
            sums["normalised"] = scores.error_sums(*moved, scored)
    return sums


def add(total, case):
    """The sum of two results of `score_case`, key by key; None (not available) stays None."""
    if total is None or case is None:
        return None
    if isinstance(total, dict):
        assert total.keys() == case.keys(), (total.keys(), case.keys())
        return {k: add(total[k], case[k]) for k in total}
    if isinstance(total, list):
        return [add(a, b) for a, b in zip(total, case, strict=True)]
    return total + case


def add_case(total: dict, case: dict) -> None:
    """Add the sums of a case to `total`, in place; a comparison that the case lacks keeps fewer cases."""
    for k, v in case.items():
        total[k] = add(total[k], v) if k in total else v

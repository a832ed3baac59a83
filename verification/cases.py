"""One case (initial time, lead time, variable) to sums, sums over cases, and these to the scores of scores.json.

A forecast and its baselines go through the same `case_sums`, so that they are compared like with like.
"""

from dataclasses import dataclass

import numpy as np
import torch

from data.normalise import transform
from verification import scores, spectra

# each baseline with what is asked of it beside its errors
BASELINES = {"persistence": ("spectrum", "events"), "yesterday": (), "climatology": (), "extrapolation": ("events",)}
TABLE_SCORES = ("csi", "pod", "far", "frequency_bias", "ets")
DRAWS = 1000  # of the bootstrap
INTERVAL = (0.05, 0.95)  # quantiles of a 90 % interval


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
    """All sums of one case, by what is compared with the truth.

    `fields`, each (y, x), None if it is not available: forecast, truth, BASELINES, truth_before and truth_after (the
    truth one step earlier and later) and forecast_before (the forecast one step earlier). `scored` (y, x) bool or
    None for all cells. A baseline that not every case has keeps the forecast's sums over its own cases beside it.
    """
    fields = {k: v for k, v in fields.items() if v is not None}
    f, t = fields["forecast"], fields["truth"]
    own = case_sums(f, t, scored, measure, ("spectrum", "events", "detail"))
    sums = {"forecast": own, "truth": scores.moments(t, scored)}
    for baseline in fields.keys() & BASELINES.keys():
        sums[baseline] = case_sums(fields[baseline], t, scored, measure, BASELINES[baseline])
        sums[f"beside_{baseline}"] = {k: own[k] for k in ("errors", "events")}
    if {"truth_before", "truth_after"} <= fields.keys():
        early, late = (scores.error_sums(f, fields[k], scored) for k in ("truth_before", "truth_after"))
        sums["timing"] = {"early": early, "late": late, "timing": own["errors"]}
    if {"forecast_before", "truth_before"} <= fields.keys():
        changes = {"forecast": f - fields["forecast_before"], "truth": t - fields["truth_before"]}
        sums["change"] = {k: scores.moments(change, scored) for k, change in changes.items()}
    return sums


def case_sums(forecast, truth, scored, measure: Measure, parts=("spectrum", "events")) -> dict:
    """The sums of one case of (y, x) fields: errors and `parts`; "detail" is what is asked of the forecast alone."""
    sums: dict = {"cases": 1, "errors": scores.error_sums(forecast, truth, scored), "events": {}}
    if "spectrum" in parts:
        sums["spectrum"] = spectra.spectrum_sums(forecast, truth, measure.spacing, "detail" in parts)
    if "events" in parts:
        for t in measure.thresholds:
            sizes = {f"{w * measure.cell:g}": w for w in measure.windows}
            sums["events"][f"{t:g}"] = {
                "table": scores.contingency(forecast, truth, t, scored),
                "fss": {km: scores.fss_sums(forecast, truth, t, w, scored) for km, w in sizes.items()},
            }
    if "detail" in parts:
        sums["edge"] = scores.edge_sums(forecast, truth, scored)
        if measure.std:
            scaled = [transform(torch.as_tensor(x), measure.name) / measure.std for x in (forecast, truth)]
            sums["normalised"] = scores.error_sums(*scaled, scored)
    return sums


def add(total, case):
    """The sum of two dicts of sums, key by key."""
    if isinstance(total, dict):
        assert total.keys() == case.keys(), (total.keys(), case.keys())
        return {k: add(total[k], case[k]) for k in total}
    return total + case


def add_case(total: dict, case: dict) -> None:
    """Add a result of `score_case` to `total`, in place; a comparison that the case lacks keeps fewer cases."""
    for k, v in case.items():
        total[k] = add(total[k], v) if k in total else v


def skill_interval(days: dict[str, tuple[float, float]]) -> list[float] | None:
    """The 90 % interval of 1 - RMSE / RMSE of persistence, from {day: (squared error, squared error of persistence)},
    both summed over the same cells and cases of that day of initial time.

    The bootstrap draws days, because the forecasts of one day share their weather, and the same draws every time.
    None if there is one day only or persistence is perfect.
    """
    sums = np.array(list(days.values()))
    if len(sums) < 2 or not (sums[:, 1] > 0).any():
        return None
    draws = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS)
    error, reference = (draws @ sums).T
    skill = 1 - np.sqrt(error[reference > 0] / reference[reference > 0])
    return [float(v) for v in np.quantile(skill, INTERVAL)]


def summary(totals: dict, measure: Measure, days: dict, clipped: float | None = None) -> dict:
    """The scores of one variable and lead time; None or NaN for what is not available.

    `totals` holds summed results of `score_case`, `days` the squared errors by day for the bootstrap, `clipped` the
    mean share of cells outside the physical bounds before clipping.
    """
    forecast, errors, std = totals["forecast"], totals["forecast"]["errors"], scores.pooled_std(totals["truth"])
    out = {
        "n_cases": forecast["cases"],
        "rmse": scores.rmse(errors),
        "mae": scores.mae(errors),
        "bias": scores.bias(errors),
        "normalised_rmse": scores.rmse(forecast["normalised"]) if "normalised" in forecast else None,
        "skill_interval": skill_interval(days),
    }
    skills = {}
    for baseline in BASELINES:
        there = baseline in totals
        reference = scores.rmse(totals[baseline]["errors"]) if there else None
        skill = scores.skill(scores.rmse(totals[f"beside_{baseline}"]["errors"]), reference) if there else None
        out[f"n_cases_{baseline}"], out[f"{baseline}_rmse"] = totals[baseline]["cases"] if there else 0, reference
        out["skill" if baseline == "persistence" else f"skill_{baseline}"] = skill
        if there and np.isfinite(skill):
            skills[baseline] = skill
    best = min(skills, key=skills.get, default=None)  # over the best baseline the skill is least
    out |= {"best_skill": skills.get(best), "best_baseline": best}

    edge, interior = (np.sqrt(scores.ratio(*band)) for band in forecast["edge"])
    out |= {
        "std_ratio": scores.std_ratio(errors),
        "drift": scores.ratio(out["bias"], std),
        "truth_std": std,
        "clipped_share": clipped,
        "edge_rmse": float(edge),
        "interior_rmse": float(interior),
    }
    timing, change = totals.get("timing"), totals.get("change")
    out |= {f"{k}_rmse": scores.rmse(timing[k]) if timing else None for k in ("timing", "early", "late")}
    stds = [scores.pooled_std(change[k]) for k in ("forecast", "truth")] if change else [0.0, 0.0]
    out["change_std_ratio"] = scores.ratio(*stds)

    spectrum = forecast["spectrum"]
    by_band = {
        "power_ratio": spectra.power_ratio(spectrum["bands"]),
        "coherence": spectra.coherence(spectrum["bands"]),
        "persistence_coherence": spectra.coherence(totals["persistence"]["spectrum"]["bands"]),
    }
    out |= {k: dict(zip(spectra.BAND_NAMES, v, strict=True)) for k, v in by_band.items()}
    out["effective_resolution_km"] = spectra.effective_resolution(spectrum["rings"]) * measure.cell
    out["line_index"] = dict(zip(map(str, spectra.PERIODS), spectra.line_index(spectrum["lines"]), strict=True))
    sources = {"forecast": "{}", "persistence": "persistence_{}", "extrapolation": "extrapolation_{}"}
    for source, form in (sources | {"beside_extrapolation": "{}_beside_extrapolation"}).items():
        for t, event in totals.get(source, {"events": {}})["events"].items():
            found = {name: getattr(scores, name)(event["table"]) for name in TABLE_SCORES}
            found["fss"] = {w: scores.fss(s) for w, s in event["fss"].items()}
            for name, value in found.items():
                out.setdefault(form.format(name), {})[t] = value
    return out

"""One case (initial time, lead time, variable) to sums, sums over days, and these to the scores of scores.json.

A forecast and its baselines go through the same `case_sums`, so that they are compared like with like. The sums of
each day are kept: a bootstrap over days gives every score an interval.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from verification import scores, spectra

# each baseline with what is asked of it beside its errors
BASELINES = {
    "persistence": ("spectrum", "events"), "yesterday": (), "climatology": (), "damped": (),
    "extrapolation": ("events",),
}  # fmt: skip
TABLE_SCORES = ("csi", "pod", "far", "frequency_bias", "ets")
DRAWS = 500  # of the bootstrap
FEWEST_DAYS = 3  # with fewer there is no interval: two days do not show chance
INTERVAL = (0.05, 0.95)  # quantiles of a 90 % interval
# Student's t at 95 % by 1 / degrees of freedom: with few blocks the draws vary less than the weather does
STUDENT = (0.0, 0.1, 0.2, 1 / 3, 0.5, 1.0), (1.645, 1.812, 2.015, 2.353, 2.920, 6.314)


@dataclass(frozen=True)
class Measure:
    """How a variable is scored."""

    spacing: tuple[float, float] = (1.0, 1.0)  # (dy, dx), one unit
    thresholds: tuple[float, ...] = ()  # events "at least this much", in the variable's unit; empty: none
    windows: tuple[int, ...] = ()  # FSS windows, cells (odd)
    cell: float = 1.0  # width of a cell in the unit in which windows are named, km


def score_case(fields: dict[str, np.ndarray | None], scored, measure: Measure, clipped: float | None = None) -> dict:
    """All sums of one case, by what is compared with the truth.

    `fields`, each (y, x), None if it is not available: forecast, truth, BASELINES, truth_before and truth_after (the
    truth one step earlier and later) and forecast_before (the forecast one step earlier). `scored` (y, x) bool or
    None for all cells; `clipped` the share of cells outside the physical bounds before clipping, None if not known. A
    baseline that not every case has keeps the forecast's sums over its own cases beside it.
    """
    fields = {k: v for k, v in fields.items() if v is not None}
    f, t = fields["forecast"], fields["truth"]
    normal = fields.get("climatology", np.mean(t if scored is None else t[scored], dtype=np.float64))
    sums = {"forecast": case_sums(f, t, normal, scored, measure, detail=True), "truth": scores.moments(t, scored)}
    for baseline, parts in BASELINES.items():
        if baseline in fields:
            sums[baseline] = case_sums(fields[baseline], t, normal, scored, measure, parts)
            sums[f"beside_{baseline}"] = {k: sums["forecast"][k] for k in ("errors", "anomalies", "events")}
    if {"truth_before", "truth_after"} <= fields.keys():
        early, late = (scores.error_sums(f, fields[k], scored) for k in ("truth_before", "truth_after"))
        sums["timing"] = {"early": early, "late": late, "timing": sums["forecast"]["errors"]}
    if {"forecast_before", "truth_before"} <= fields.keys():
        changes = {"forecast": f - fields["forecast_before"], "truth": t - fields["truth_before"]}
        sums["change"] = {k: scores.moments(change, scored) for k, change in changes.items()}
    if clipped is not None and np.isfinite(clipped):
        sums["clipped"] = {"share": float(clipped), "cases": 1}
    return sums


def case_sums(forecast, truth, normal, scored, measure: Measure, parts=("spectrum", "events"), detail=False) -> dict:
    """The sums of one case of (y, x) fields: errors, departures from `normal`, and `parts`; `detail` adds to the
    spectrum what is asked of the forecast alone."""
    sums: dict = {"cases": 1, "errors": scores.error_sums(forecast, truth, scored), "events": {}}
    sums["anomalies"] = scores.anomaly_sums(forecast, truth, normal, scored)
    if "spectrum" in parts:
        sums["spectrum"] = spectra.spectrum_sums(forecast, truth, measure.spacing, detail)
    if "events" in parts:
        for t in measure.thresholds:
            sizes = {f"{w * measure.cell:g}": w for w in measure.windows}
            sums["events"][f"{t:g}"] = {
                "table": scores.contingency(forecast, truth, t, scored),
                "fss": {km: scores.fss_sums(forecast, truth, t, w, scored) for km, w in sizes.items()},
            }
    return sums


def add(total, case):
    """The sum of two dicts of sums, key by key; one that lacks a comparison counts fewer cases there."""
    if isinstance(total, dict):
        return total | {k: add(total[k], v) if k in total else v for k, v in case.items()}
    return total + case


# ---- the bootstrap


def resample(days: list, weights: np.ndarray):
    """Sums over days, (draws, ...) in place of each number: `days` holds one dict of sums a day, `weights` (draws,
    days) how often each day counts."""
    there = [d for d in days if d is not None]
    if isinstance(there[0], dict):
        keys = dict.fromkeys(k for d in there for k in d)
        return {k: resample([None if d is None else d.get(k) for d in days], weights) for k in keys}
    zero = np.zeros_like(there[0], dtype=np.float64)
    stack = np.stack(np.broadcast_arrays(*(zero if d is None else d for d in days)))
    return np.tensordot(weights, stack, 1)


@lru_cache(maxsize=8)
def block_weights(days: int) -> np.ndarray:
    """(1 + DRAWS, days): the days as they are, and draws of blocks of consecutive days, the same every time.

    A block is about as many days long as there are blocks, because the forecasts of one day share their weather and
    those of days in a row much of it. The last day is followed by the first (Politis and Romano 1992).
    """
    out = np.ones((1 + DRAWS if days > 1 else 1, days))
    if days > 1:
        length = block_length(days)
        starts = np.random.default_rng(0).integers(days, size=(DRAWS, -(-days // length)))
        drawn = ((starts[..., None] + np.arange(length)) % days).reshape(DRAWS, -1)[:, :days]
        out[1:] = 0.0
        np.add.at(out, (1 + np.arange(DRAWS)[:, None], drawn), 1.0)
    return out


def block_length(days: int) -> int:
    return min(days - 1, int(np.ceil(np.sqrt(days))))


def interval(values: np.ndarray, days: int) -> list[float] | None:
    """The 90 % interval of a score from its value and its draws, (1 + DRAWS,); None for fewer than
    FEWEST_DAYS, or if the score is not defined in most draws.

    The quantiles are moved away from the value by what a t distribution and the mean over few blocks ask for.
    """
    value, draws = values[0], values[1:][np.isfinite(values[1:])]
    if days < FEWEST_DAYS or len(draws) <= DRAWS / 2 or not np.isfinite(value):
        return None
    blocks = days / block_length(days)
    freedom = max(blocks - 1, 1.0)
    wider = np.interp(1 / freedom, *STUDENT) / STUDENT[1][0] * np.sqrt(blocks / freedom)
    low, high = np.quantile(draws, INTERVAL)
    return [float(value - wider * max(value - low, 0.0)), float(value + wider * max(high - value, 0.0))]


# ---- scores


def summary(days: list[dict], measure: Measure) -> dict:
    """The scores of one variable and lead time from its sums day by day, in order: (1 + DRAWS,) arrays, the value and
    its draws; None for what is not available."""
    totals = resample(days, block_weights(len(days)))
    forecast, errors, std = totals["forecast"], totals["forecast"]["errors"], scores.pooled_std(totals["truth"])
    out = {
        "n_cases": int(forecast["cases"][0]), "n_days": len(days), "rmse": scores.rmse(errors),
        "mae": scores.mae(errors), "bias": scores.bias(errors),
        "anomaly_correlation": scores.correlation(forecast["anomalies"]),
    }  # fmt: skip
    skills, gains = {}, {}
    for baseline in BASELINES:
        there = baseline in totals
        out[f"n_cases_{baseline}"] = int(totals[baseline]["cases"][0]) if there else 0
        out[f"{baseline}_rmse"] = reference = scores.rmse(totals[baseline]["errors"]) if there else None
        beside = totals.get(f"beside_{baseline}")
        skill = scores.skill(scores.rmse(beside["errors"]), reference) if there else None
        out["skill" if baseline == "persistence" else f"skill_{baseline}"] = skill
        if there and np.isfinite(skill[0]):
            skills[baseline] = skill
            own, other = (scores.correlation(s["anomalies"]) for s in (beside, totals[baseline]))
            gains[baseline] = own - np.where(np.isfinite(other), other, 0.0)  # a baseline at the climatology has none
    best = min(skills, key=lambda b: skills[b][0], default=None)  # over the best baseline the skill is least
    out |= {"best_skill": skills.get(best), "best_baseline": best}
    out["correlation_gain"] = min(gains.values(), key=lambda g: g[0], default=None)  # over the best baseline
    for name in [k for k in out if "skill" in k]:
        out[f"{name}_interval"] = None if out[name] is None else interval(out[name], len(days))

    clipped, timing, change = (totals.get(k) for k in ("clipped", "timing", "change"))
    out |= {
        "std_ratio": scores.std_ratio(errors),
        "drift": scores.ratio(out["bias"], std),
        "truth_std": std,
        "clipped_share": scores.ratio(clipped["share"], clipped["cases"]) if clipped else None,
    }
    out |= {f"{k}_rmse": scores.rmse(timing[k]) if timing else None for k in ("timing", "early", "late")}
    stds = (scores.pooled_std(change[k]) for k in ("forecast", "truth")) if change else ()
    out["change_std_ratio"] = scores.ratio(*stds) if change else None

    spectrum = forecast["spectrum"]
    by_band = {
        "power_ratio": spectra.power_ratio(spectrum["bands"]),
        "coherence": spectra.coherence(spectrum["bands"]),
        "persistence_coherence": spectra.coherence(totals["persistence"]["spectrum"]["bands"]),
    }
    out |= {k: dict(zip(spectra.BAND_NAMES, v.T, strict=True)) for k, v in by_band.items()}
    out["effective_resolution_km"] = spectra.effective_resolution(spectrum["rings"][0]) * measure.cell
    out["line_index"] = dict(zip(map(str, spectra.PERIODS), spectra.line_index(spectrum["lines"]).T, strict=True))
    sources = {"forecast": "{}", "persistence": "persistence_{}", "extrapolation": "extrapolation_{}"}
    for source, form in (sources | {"beside_extrapolation": "{}_beside_extrapolation"}).items():
        for t, event in totals.get(source, {"events": {}})["events"].items():
            values = {name: getattr(scores, name)(event["table"]) for name in TABLE_SCORES}
            values["fss"] = {w: scores.fss(s) for w, s in event["fss"].items()}
            for name, value in values.items():
                out.setdefault(form.format(name), {})[t] = value
    return out


def values_of(entry):
    """The values of a `summary` without their draws, as JSON holds them: None for what is not finite."""
    if isinstance(entry, dict):
        return {k: values_of(v) for k, v in entry.items()}
    if isinstance(entry, np.ndarray | float):
        value = float(np.ravel(entry)[0])
        return value if np.isfinite(value) else None
    return entry

"""Sums over cases to the scores of one variable and lead time, as they stand in scores.json."""

import numpy as np

from verification import lines, objects, scores, spectra
from verification.bootstrap import skill_interval
from verification.cases import Measure

BASELINES = ("yesterday", "damped", "extrapolation")  # beside persistence, which every case has
TABLE_SCORES = ("csi", "pod", "far", "frequency_bias", "ets")


def summary(totals: dict, measure: Measure, days: dict, clipped: float | None = None) -> dict:
    """The scores of one variable and lead time; None or NaN for what is not available.

    `totals` holds summed results of `score_case`, `days` the squared errors by day for the bootstrap, `clipped` the
    mean share of cells outside the physical bounds before clipping.
    """
    forecast, persistence, truth = totals["forecast"], totals["persistence"], totals["truth"]["moments"]
    errors = forecast["errors"]
    error, reference = scores.rmse(errors), scores.rmse(persistence["errors"])
    out = {
        "n_cases": forecast["cases"],
        "rmse": error,
        "mae": scores.mae(errors),
        "bias": scores.bias(errors),
        "normalised_rmse": scores.rmse(forecast["normalised"]) if "normalised" in forecast else None,
        "persistence_rmse": reference,
        "skill": scores.skill(error, reference),
        "skill_interval": skill_interval(days),
    }
    for baseline in BASELINES:  # each compared over the cases where it exists, which may be fewer
        out |= _against(totals, baseline)
    out |= {
        "std_ratio": scores.std_ratio(errors),
        "drift": scores.drift(errors, truth),
        "truth_std": scores.pooled_std(truth),
        "clipped_share": clipped,
    }
    out |= _in_time(totals) | _in_space(forecast, persistence, measure)
    out |= lines.edge_scores(forecast["edge"])
    out["phase_spread"] = lines.phase_spread(forecast["phase"], error)
    if forecast["events"]:
        out |= _events(totals)
        out["objects"] = objects.object_scores(forecast["objects"], forecast["cases"], measure.cell**2)
    return out


def _against(totals: dict, baseline: str) -> dict:
    if baseline not in totals:
        return {f"n_cases_{baseline}": 0, f"{baseline}_rmse": None, f"skill_{baseline}": None}
    reference = scores.rmse(totals[baseline]["errors"])
    beside = scores.rmse(totals[f"forecast_beside_{baseline}"]["errors"])
    return {
        f"n_cases_{baseline}": totals[baseline]["cases"],
        f"{baseline}_rmse": reference,
        f"skill_{baseline}": scores.skill(beside, reference),
    }


def _in_time(totals: dict) -> dict:
    """Is it on time, and does it move? RMSE against the truth one step earlier and later beside that at the valid
    time over the same cases, and the standard deviation of the change over one step against the truth's."""
    out = dict.fromkeys(("timing_rmse", "early_rmse", "late_rmse", "change_std_ratio"))
    if timing := totals.get("timing"):
        out |= {"timing_rmse": scores.rmse(timing["at"])}
        out |= {f"{k}_rmse": scores.rmse(timing[k]) for k in ("early", "late")}
    if change := totals.get("change"):
        spread = scores.pooled_std(change["truth"])
        out["change_std_ratio"] = scores.pooled_std(change["forecast"]) / spread if spread else np.nan
    return out


def _in_space(forecast: dict, persistence: dict, measure: Measure) -> dict:
    """Power and coherence by band, effective resolution, line index."""
    names, sums = spectra.band_names(), forecast["spectrum"]
    shortest = spectra.effective_resolution(forecast["rings"])
    return {
        "power_ratio": dict(zip(names, spectra.power_ratio(sums), strict=True)),
        "coherence": dict(zip(names, spectra.coherence(sums), strict=True)),
        "persistence_coherence": dict(zip(names, spectra.coherence(persistence["spectrum"]), strict=True)),
        "effective_resolution_km": None if shortest is None else shortest * measure.cell,
        "line_index": lines.line_index(forecast["lines"]),
    }


def _events(totals: dict) -> dict:
    """Scores of events for the forecast, and with the prefixes persistence_ and extrapolation_ for those; the FSS and
    CSI of the forecast over the cases and cells of extrapolation end in _beside_extrapolation."""
    out = {}
    sources = [("", "forecast"), ("persistence_", "persistence"), ("extrapolation_", "extrapolation")]
    for prefix, source in sources:
        if source in totals:
            for score in TABLE_SCORES:
                of = getattr(scores, score)
                out[prefix + score] = {t: of(e["table"]) for t, e in totals[source]["events"].items()}
            out[prefix + "fss"] = _fss(totals[source])
    if "extrapolation" in totals:
        beside = totals["forecast_beside_extrapolation"]
        out["fss_beside_extrapolation"] = _fss(beside)
        out["csi_beside_extrapolation"] = {t: scores.csi(e["table"]) for t, e in beside["events"].items()}
    return out


def _fss(sums: dict) -> dict:
    return {t: {w: scores.fss(s) for w, s in e["fss"].items()} for t, e in sums["events"].items()}

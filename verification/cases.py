"""One case (initial time, lead time, variable) to sums, sums over cases, and sums to the scores of a table.

A forecast and its baselines go through the same `case_sums`, so that they are compared like with like.
"""

from dataclasses import dataclass

from verification import scores, spectra


@dataclass(frozen=True)
class Measure:
    """How a variable is scored."""

    spacing: tuple[float, float] = (1.0, 1.0)  # (dy, dx), one unit
    thresholds: tuple[float, ...] = ()  # events "at least this much", in the variable's unit; empty: none
    windows: tuple[int, ...] = ()  # FSS windows, cells (odd)
    cell: float = 1.0  # width of a cell in the unit in which windows are named


def case_sums(forecast, truth, scored, measure: Measure, structure: bool = True) -> dict:
    """Every sum of one case of (y, x) fields; without `structure` the errors only."""
    sums: dict = {"cases": 1, "errors": scores.error_sums(forecast, truth, scored)}
    if structure:
        sums["spectrum"] = spectra.spectrum_sums(forecast, truth, measure.spacing)
        sums["events"] = {
            f"{t:g}": {
                "table": scores.contingency(forecast, truth, t, scored),
                "fss": {
                    f"{w * measure.cell:g}": scores.fss_sums(forecast, truth, t, w, scored) for w in measure.windows
                },
            }
            for t in measure.thresholds
        }
    return sums


def add(total, case):
    """The sum of two results of `case_sums`, key by key; None (not available) stays None."""
    if total is None or case is None:
        return None
    if isinstance(total, dict):
        assert total.keys() == case.keys(), (total.keys(), case.keys())
        return {k: add(total[k], case[k]) for k in total}
    if isinstance(total, list):
        return [add(a, b) for a, b in zip(total, case, strict=True)]
    return total + case


def summary(totals: dict) -> dict:
    """The scores of one variable and lead time.

    `totals` holds summed `case_sums` under "forecast" and "persistence" and, over the cases where the
    same hour of the day before exists, errors only, under "yesterday" and "forecast_beside_yesterday".
    """
    forecast, persistence, yesterday = totals["forecast"], totals["persistence"], totals.get("yesterday")
    error, reference = scores.rmse(forecast["errors"]), scores.rmse(persistence["errors"])
    out = {
        "n_cases": forecast["cases"],
        "rmse": error,
        "mae": scores.mae(forecast["errors"]),
        "bias": scores.bias(forecast["errors"]),
        "persistence_rmse": reference,
        "skill": scores.skill(error, reference),
        "n_cases_yesterday": yesterday["cases"] if yesterday else 0,
        "yesterday_rmse": scores.rmse(yesterday["errors"]) if yesterday else None,
        "skill_yesterday": None,
        "std_ratio": scores.std_ratio(forecast["errors"]),
        "drift": scores.drift(forecast["errors"]),
    }
    if yesterday:  # compared over the same cases, which may be fewer
        beside = scores.rmse(totals["forecast_beside_yesterday"]["errors"])
        out["skill_yesterday"] = scores.skill(beside, out["yesterday_rmse"])
    names = spectra.band_names()
    out["power_ratio"] = dict(zip(names, spectra.power_ratio(forecast["spectrum"]), strict=True))
    out["coherence"] = dict(zip(names, spectra.coherence(forecast["spectrum"]), strict=True))
    out["persistence_coherence"] = dict(zip(names, spectra.coherence(persistence["spectrum"]), strict=True))
    if forecast["events"]:
        for name in ("csi", "pod", "far", "frequency_bias", "ets"):
            score = getattr(scores, name)
            out[name] = {t: score(e["table"]) for t, e in forecast["events"].items()}
        for prefix, source in (("", forecast), ("persistence_", persistence)):
            out[prefix + "fss"] = {
                t: {w: scores.fss(sums) for w, sums in e["fss"].items()} for t, e in source["events"].items()
            }
        out["persistence_csi"] = {t: scores.csi(e["table"]) for t, e in persistence["events"].items()}
    return out

"""Score a forecast store against the truth and against simple baselines.

    python verify_forecast.py --forecast runs/hrrr/forecast.zarr --zarr data/hrrr.zarr --out runs/hrrr/scores.json

    python verify_forecast.py ... --against hrrr_forecast.zarr     # another model's beside it, on the same cases

Prints RMSE and skill by lead time beside those of the baselines, the reflectivity scores and a certificate, which also
goes into the attributes of the forecast store. Writes scores.json and, beside it, skill_by_lead.png, spectra.png and
maps_<VARIABLE>.png for two variables. Truth is looked up by timestamp; leads without truth are skipped and counted.
Forecast stores of other models have dimensions init_time and lead_time, or time and prediction_timedelta (WeatherBench
2), or time and step (cfgrib). The strip along the edge that boundary data gave is left out.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from data.command import fault, paced, refuse_file_above, run
from data.grid import read_grid
from data.metadata import replace
from data.store import Store
from data.times import show
from data.variables import lookup
from plotting.curves import without_skill
from plotting.maps import forecast_panels
from plotting.scores import few_leads, number, signed, skill_by_lead, spectra
from training.log import read_log
from verification import inputs
from verification.baselines import References
from verification.cases import BASELINES, add, score_case, summary, values_of
from verification.certificate import LEADS, certificate, certificate_text, known_hours
from verification.inputs import HOUR, lead_key
from verification.spectra import BAND_NAMES, BANDS


# -------------------------------------------------------------------------------------------------
@dataclass
class Config:
    """Constants; every one can be given on the command line."""

    forecast: str = "runs/hrrr/forecast.zarr"  # forecast store to score, ours or another model's
    zarr: str = "data/hrrr.zarr"  # store that holds the truth
    out: str = "runs/hrrr/scores.json"  # file to write; the figures go beside it
    climate: str = ""  # store whose training hours give the climatology; empty: the store with the truth
    against: str = ""  # forecast store of another model, scored beside it on the same cases and cells
    variables: list[str] = field(default_factory=list)  # variables to score; none named: all of the forecast's
    figures: bool = True  # draw the figures


USUAL_SPACING = (3000.0, 3000.0)  # m, if neither store has coordinates
MAPPED = ("REFC", "T2M")  # variables drawn as maps, in the table's names; the first two where these are absent
MAPPED_LEADS = (1, 3, 6, 24)  # h
MOVED = np.timedelta64(3, "h")  # last lead at which maps show extrapolation; later most has come from outside
# -------------------------------------------------------------------------------------------------


def main(cfg: Config) -> None:
    # What there is to score; everything is checked before anything is written.
    if Path(cfg.out).is_dir():
        raise ValueError(f"out: got {cfg.out}, a folder, expected a file to write. Fix: --out scores.json")
    refuse_file_above(Path(cfg.out).parent, "out")
    store = Store(cfg.zarr)
    forecast, names = inputs.open_on(cfg.forecast, cfg.variables, store)
    other = None
    if cfg.against:
        dataset, found = inputs.open_on(cfg.against, names if cfg.variables else [], store)
        theirs = {lookup(n).name: n for n in found}
        names = [n for n in names if lookup(n).name in theirs]
        if not names:
            raise fault(cfg.against, f"the variables {' '.join(found)}", "one of the forecast's", "name another store")
        dataset = dataset[[theirs[lookup(n).name] for n in names]]
        other = inputs.Fields(dataset.rename(dict(zip(dataset.data_vars, names, strict=True))), store, names)
    fields = inputs.Fields(forecast, store, names)
    init_times, leads = fields.init_times, fields.leads
    cases, skipped = inputs.find_cases(fields)
    split = json.loads(forecast.attrs.get("split") or "{}")
    outside = inputs.outside_test(init_times, split)
    boundary = str(forecast.attrs.get("boundary") or "")
    strip = inputs.strip_of(cfg.forecast, forecast, store.grid.shape)
    if other:
        strip = max(strip, inputs.strip_of(cfg.against, dataset, store.grid.shape))
    known_spacing = read_grid(forecast, forecast[names[0]].dims[2:]).spacing or store.grid.spacing
    spacing = known_spacing or USUAL_SPACING
    shape = tuple(n - 2 * strip for n in store.grid.shape)
    measures = {name: inputs.measure_of(name, spacing, shape) for name in names}
    cell_km = measures[names[0]].cell
    own = "split" in forecast.attrs  # another model knows what enters its domain, and its store is not ours to change
    known = known_hours(spacing, store.grid.shape, bool(boundary) or not own)
    print(f"scoring {cfg.forecast} against {cfg.zarr}: {', '.join(names)}")
    print(f"initial times: {len(init_times)}, {show(init_times.min())} to {show(init_times.max())}; ", end="")
    print(f"{len(cases)} cases; {skipped} skipped: no analysis at that time")
    if strip:
        print(f"scores exclude the {strip} outermost rows and columns, which the boundary data drew")
    if other:
        cases = [(i, j) for i, j in cases if other.index(init_times[i], leads[j])]
        if not cases:
            raise fault(cfg.against, "no initial and lead time of the forecast", "some", "forecast from the same hours")
        print(f"beside {cfg.against}: {len(cases)} cases that both have")
    if outside:
        where = " to ".join(split["test"]) if "test" in split else "not known"
        print(f"outside test ({where}): {len(outside)} of the initial times, {', '.join(show(t) for t in outside)}")
    why = ": later ones need boundary data" if known < LEADS[-1] else ""
    print(f"the certificate judges leads up to {known:.3g} h{why}")
    if known_spacing is None:
        print(f"no coordinates: widths and wavelengths as for {cell_km:g} km")
    logs = [p for folder in list(Path(cfg.forecast).parents)[:2] if (p := folder / "log.jsonl").is_file()]
    unproven = [n for n in without_skill(read_log(logs[0], 10**9)) if n in names] if logs else []
    if unproven:
        print(f"warning: {', '.join(unproven)}: validation skill not shown; treat its forecast as persistence")
    climate = None
    if cfg.climate:
        climate = inputs.Fields(forecast, Store(cfg.climate), names)
        inputs.check_grid(cfg.forecast, store.grid, cfg.climate, climate.store.grid)
    references = References(fields, inputs.step_of(forecast), float(np.mean(spacing)), split, climate, strip)
    print("\n".join(references.notes))

    # Sums over the cases of each day of initial time; one valid time in memory at a time.
    leads_scored = [lead_key(leads[j]) for j in sorted({j for _, j in cases})]
    days, beside = ({n: {lead: {} for lead in leads_scored} for n in names} for _ in range(2))
    clipped = inputs.clipped_shares(forecast, names)
    for i, j in paced(cases, "scoring", len(cases), "case"):
        lead, day = lead_key(leads[j]), str(init_times[i].astype("datetime64[D]"))
        for name, measure in measures.items():
            sums = score_case(*references.case(i, j, name), measure, clipped[name][i, j])
            days[name][lead][day] = add(days[name][lead].get(day, {}), sums)
            if other:
                sums = score_case(*references.case(i, j, name, other), measure)
                beside[name][lead][day] = add(beside[name][lead].get(day, {}), sums)

    # Scores and certificate.
    entries, theirs = (
        {n: {lead: summary([by_day[d] for d in sorted(by_day)], measures[n]) for lead, by_day in by_lead.items()}
         for n, by_lead in sums.items()}
        for sums in ((days, beside) if other else (days, {}))
    )  # fmt: skip
    lines, notes = certificate(entries, known)
    scores = values_of(entries)
    result = {
        "split": split,
        "boundary": boundary,
        "boundary_width": strip,
        "known_hours": known,
        "init_times": [show(t) for t in init_times],
        "outside_test": [show(t) for t in outside],
        "skipped_without_truth": skipped,
        "validation_skill_not_shown": unproven,
        "bands_km": {n: [b * cell_km for b in band] for n, band in zip(BAND_NAMES, BANDS, strict=True)},
        "baselines": references.notes,
        "scores": scores,
        "against": {"forecast": cfg.against, "scores": values_of(theirs)} if other else None,
        "certificate": lines,
        "certificate_notes": notes,
    }  # fmt: skip

    # The file first: nothing that happens to the screen can lose it.
    out = Path(cfg.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace(out, json.dumps(result, indent=1, allow_nan=False) + "\n")
    if other:
        print("\n" + against_table(scores, result["against"]["scores"], cfg.against))
    for name, by_lead in scores.items():
        print("\n" + error_table(name, by_lead))
        if measures[name].thresholds:
            print("\n" + event_table(name, by_lead))
    print("\n" + certificate_text(lines, notes))
    print(f"\nwrote {out}")
    if own:
        print(write_certificate(cfg.forecast, result))
    if cfg.figures:
        draw(out.parent, forecast, names, result, references)


def write_certificate(store: str, result: dict) -> str:
    """Put the certificate into the attributes of the forecast store, as JSON text, so that it travels with the
    forecast; returns a line to print."""
    table = {
        "certificate": "certificate",
        "certificate_notes": "certificate_notes",
        "init_times": "certificate_init_times",
    }
    if "://" in store:
        return f"note: the certificate was not written into {store}, which is not on this machine"
    try:
        group = zarr.open_group(store, mode="r+")  # knows its consolidated metadata and writes them again
        group.attrs.update({name: json.dumps(result[key]) for key, name in table.items()})
    except (OSError, ValueError, TypeError) as error:
        return f"note: the certificate was not written into {store} ({type(error).__name__}: {error})"
    return f"wrote the certificate into the attributes of {store}"


# ---- printed tables


def error_table(name: str, by_lead: dict) -> str:
    """RMSE of the forecast and of every baseline, skill over persistence and over the best baseline with its 90 %
    interval: a row per lead time."""
    title = f"{name} ({lookup(name).units})" if lookup(name).units else name
    lines = [f"{title}: RMSE of the forecast and of the baselines; skill over persistence and the best one (90 %)"]
    lines.append("  lead h forecast" + "".join(f"{b[:9]:>10}" for b in BASELINES) + "  skill  over the best baseline")
    for lead in few_leads(by_lead):
        entry = by_lead[lead]
        errors = [number(entry[f"{b}_rmse"]) for b in BASELINES]
        between = entry["best_skill_interval"]
        interval = " ({} to {})".format(*map(signed, between)) if between else ""
        best = f"{signed(entry['best_skill'])}{interval} {entry['best_baseline'] or ''}"
        cells = "".join(f"{e:>10}" for e in errors) + f"{signed(entry['skill']):>7}  {best}"
        lines.append(f"{float(lead):>8.4g}{number(entry['rmse']):>9}{cells}".rstrip())
    return "\n".join(lines)


def against_table(scores: dict, theirs: dict, path: str) -> str:
    """RMSE and skill over the best baseline of the forecast and of another model's: a row per variable and lead."""
    lines = [f"beside {path}, on the same cases and cells: RMSE and skill over the best baseline",
             "variable    lead h     RMSE    theirs    skill   theirs"]  # fmt: skip
    for name, by_lead in scores.items():
        for lead in few_leads(by_lead):
            pair = [by_lead[lead], theirs[name][lead]]
            rmse, skill = ([form(e[k]) for e in pair] for k, form in (("rmse", number), ("best_skill", signed)))
            lines.append(f"{name:<10}{float(lead):>8.4g}{rmse[0]:>9}{rmse[1]:>10}{skill[0]:>9}{skill[1]:>9}")
    return "\n".join(lines)


def event_table(name: str, by_lead: dict) -> str:
    """CSI with that of persistence in brackets, and frequency bias, by threshold: a row per lead time."""
    thresholds = list(next(iter(by_lead.values()))["csi"])
    lines = ["  lead h " + "".join(f"|{f'at least {t} {lookup(name).units}':^26}" for t in thresholds)]
    lines.append("         " + "| CSI (persistence)   bias " * len(thresholds))
    for lead in few_leads(by_lead):
        csi, reference, bias = (by_lead[lead][k] for k in ("csi", "persistence_csi", "frequency_bias"))
        cells = (f"|{f'{number(csi[t])} ({number(reference[t])})':>16} {number(bias[t]):>8} " for t in thresholds)
        lines.append(f"{float(lead):>8.4g} " + "".join(cells))
    return "\n".join(lines)


def draw(folder: Path, forecast: xr.Dataset, names: list[str], result: dict, references: References) -> None:
    """Write the figures; the maps show the initial time with the highest mean of the first mapped variable."""
    figures = {"skill_by_lead": skill_by_lead(result), "spectra": spectra(result)}
    mapped = [n for n in names if lookup(n).name in MAPPED] or names[:2]
    hours = [h for h in MAPPED_LEADS if h * HOUR in forecast["lead_time"].values]
    leads = [h * HOUR for h in hours] or list(forecast["lead_time"].values[1:5])
    amount = [np.nanmean(forecast[mapped[0]].variable[i, 0].values) for i in range(forecast.sizes["init_time"])]
    i = int(np.argmax(amount))
    init_time = forecast["init_time"].values[i]
    forecast = references.fields.in_units(forecast[mapped].isel(init_time=[i]))
    for n in mapped:
        truth = lambda t, n=n: references.fields.truth(t).get(n)  # noqa: E731
        moved = lambda lead, n=n: references.extrapolated(i, n, lead) if lead <= MOVED else None  # noqa: E731
        moving = lookup(n).name == "REFC"
        figures[f"maps_{n}"] = forecast_panels(forecast, truth, n, leads, init_time, moved if moving else None)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=120)
        print(f"wrote {folder / name}.png")


if __name__ == "__main__":
    run(Config, main, __doc__)

"""1 h skill of our UNet and of its peers after equal seconds of training on the synthetic storms.

Trained and scored as a run of benchmarks/ablation.py: its reference set without mirrors, pairs only, as many optimizer
steps as fit into the budget, the last averaged weights on 12 start times of weather of another seed.
"""

import statistics as stats
from pathlib import Path

import torch

from benchmarks import ablation, ablation_score
from benchmarks.ablation_choices import Choice
from benchmarks.peer_rows import Row, patches, table, trial
from data.store import Store
from data.synthetic_storms import one_thread


def skills(cfg, rows: dict[str, Row], device: torch.device) -> tuple[tuple[int, int], dict]:
    """The grid and, by row, one result a seed, with the 1 h skill (1 - RMSE / RMSE of persistence) by variable. cfg:
    benchmarks.peers.Config."""
    setup, out = ablation_score.STORES["demo"], {n: [] for n in rows}
    budget = ablation.Config(budget=cfg.skill_seconds, clock="wall" if device.type == "cuda" else "cpu", work=cfg.work)
    paths = ablation_score.make_store("demo", Path(cfg.work), Path())
    shape = Store(paths[0]).grid.shape
    with one_thread():
        settings = trial(cfg, rows, shape, device)
        for seed in cfg.skill_seeds:
            for n, row in rows.items():
                changes = {"base_features": cfg.base_features, "flip": False}
                if row.kind != "ours" and not cfg.muon:
                    changes["muon_lr"] = 0.0
                choice = Choice(row.text, changes, tuple(patches(cfg, row, settings[n])), rollout_parts=0)
                result = ablation.make_run(budget, choice, "demo", paths, seed)
                out[n].append(
                    {"seed": seed, "setting": str(settings[n]), "budget": cfg.skill_seconds, **figures(result)}
                )
                print(f"{n}, seed {seed}: {ablation.outcome(result, setup.leads)}", flush=True)
    show(rows, out, cfg.skill_seconds)
    return shape, out


def figures(result: dict) -> dict:
    """What is kept of a run: its 1 h skill and the size of its training, or why it failed."""
    if "failed" in result:
        return {"failed": result["failed"]}
    skill = {name: s["skill"] for name, s in result["scores"]["1"].items()}
    known = [v for v in skill.values() if v is not None]
    return {"skill": skill, "mean": sum(known) / len(known),
            **{k: result[k] for k in ("samples", "steps", "seconds", "seconds_per_sample")}}  # fmt: skip


def show(rows: dict[str, Row], runs: dict[str, list[dict]], budget: float) -> None:
    """A line for each row: means over its seeds."""
    names = next((list(r["skill"]) for every in runs.values() for r in every if "skill" in r), [])
    lines = []
    for n, every in runs.items():
        good = [r for r in every if "skill" in r]
        if not good:
            lines.append([rows[n].text, f"failed: {every[0]['failed']}"])
            continue
        means = [stats.mean(r["mean"] for r in good), *(stats.mean(r["skill"][v] for r in good) for v in names)]
        samples = f"{stats.mean(r['samples'] for r in good):.0f}"
        lines.append([rows[n].text, str(len(good)), samples, *(f"{m:+.3f}" for m in means)])
    table(f"1 h skill on other weather after {budget:g} s of training", ["", "seeds", "samples", "mean", *names], lines)

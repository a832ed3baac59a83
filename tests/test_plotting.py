"""Curves of training and scores: what is drawn is what was given, also where something is missing."""

import pytest

from plotting.curves import loss_curves
from plotting.scores import skill_by_lead, spectra


def record(epoch: int) -> dict:
    return {
        "epoch": epoch, "step": 10 * epoch, "loss": 1.0 / epoch, "terms": {"l1": 0.5 / epoch, "mse": 0.3 / epoch},
        "lr": 1e-3 / epoch, "grad_norm": 1.0, "skill": {"REFC": -9.0 / epoch, "T2M": 0.2}, "samples_per_s": 9.0,
        "data_wait": 0.1, "peak_memory_bytes": 8e8,
    }  # fmt: skip


def draw(figure):
    """Lay the figure out and render it, so that whatever cannot be drawn fails here."""
    figure.canvas.draw()
    return figure


@pytest.mark.parametrize("epochs", [1, 200])
def test_loss_curves_hold_every_record_and_show_the_newest_skill(epochs):
    figure = draw(loss_curves([record(e + 1) for e in range(epochs)]))
    loss, skill, *_ = figure.axes
    lines = {line.get_label(): line for line in loss.lines}
    assert list(lines) == ["loss", "l1", "mse"] and len(lines["l1"].get_xdata()) == epochs
    assert skill.get_ylim()[0] < -9.0 / epochs and skill.get_ylim()[1] > 0.2
    assert epochs == 1 or skill.get_ylim()[0] > -2  # the first epochs do not flatten the rest


def test_loss_curves_tolerate_missing_keys_and_undefined_numbers():
    draw(loss_curves([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4, "skill": {"T2M": float("nan")}}]))
    with_rollout = [record(1) | {"rollout_skill": {"REFC": 0.1}, "grad_norm": None}]
    assert "dotted: roll-out" in [line.get_label() for line in draw(loss_curves(with_rollout)).axes[1].lines]


def scores_of(**more) -> dict:
    bands = {"2-5": 0.5, "5-10": 0.9, "20-67": None}
    entry = {"skill": 0.3, "skill_yesterday": None, "power_ratio": bands, "coherence": bands}
    return {"scores": {"T2M": {"24": entry | more, "3": entry | more | {"skill": 0.6}}}, "bands_km": {"2-5": [6, 15]}}


def test_skill_is_drawn_in_the_order_of_the_lead_times():
    line = draw(skill_by_lead(scores_of())).axes[0].lines[1]
    assert list(line.get_xdata()) == [3, 24] and list(line.get_ydata()) == [0.6, 0.3]


def test_variables_with_events_get_their_own_row():
    by_threshold = {t: 0.5 for t in ("20", "40")}
    fss = {t: {"9": 0.2, "33": 0.7} for t in ("20", "40")}
    keys = {"csi": by_threshold, "persistence_csi": by_threshold, "frequency_bias": by_threshold}
    figure = draw(skill_by_lead(scores_of(**keys, fss=fss, persistence_fss=fss)))
    skill, yesterday, csi, fss, bias, legend = figure.axes
    assert list(fss.lines[0].get_ydata()) == [0.7, 0.7] and fss.get_title() == "T2M: FSS over 33 km"
    assert [t.get_text() for t in legend.get_legend().get_texts()] == ["at least 20 K", "at least 40 K", "persistence"]
    assert not legend.axison and skill.get_title() == "skill against persistence" and yesterday.lines and csi.lines
    assert bias.get_ylim() == (0, 2)


def test_extrapolation_is_drawn_where_there_is_any_and_the_interval_is_shaded():
    by_threshold = {"20": 0.5}
    keys = {f"{o}csi": by_threshold for o in ("", "persistence_", "extrapolation_")} | {"frequency_bias": by_threshold}
    keys |= {f"{o}fss": {"20": {"33": 0.4}} for o in ("", "persistence_", "extrapolation_")}
    keys |= {"skill_extrapolation": 0.2, "skill_damped": 0.1, "skill_interval": [0.1, 0.5]}
    axes = draw(skill_by_lead(scores_of(**keys))).axes
    assert [a.get_title() for a in axes[2:4]] == ["skill against damped persistence", "skill against extrapolation"]
    assert len(axes[0].collections) == 1 and [line.get_linestyle() for line in axes[4].lines] == ["-", ":", "--"]
    assert [t.get_text() for t in axes[7].get_legend().get_texts()][1:] == ["persistence", "extrapolation"]


def test_leads_shorter_than_two_hours_are_told_in_minutes():
    bands = {"2-5": 0.5}
    entry = {"skill": 0.3, "power_ratio": bands, "coherence": bands}
    scores = {"scores": {"dbz": {str(5 * n / 60): entry for n in range(1, 7)}}}
    axes = draw(skill_by_lead(scores)).axes[0]
    assert axes.get_xlabel() == "lead time (min)"
    assert [t.get_text() for t in axes.get_xticklabels() if t.get_text() in ("5", "10", "30")] == ["5", "10", "30"]
    assert draw(spectra(scores)).axes[1].get_xlabel() == "lead time (min)"


def test_every_variable_has_a_colour_and_a_marker_of_its_own():
    entry = {"skill": 0.3, "power_ratio": {"2-5": 0.5}, "coherence": {"2-5": 0.5}}
    lines = skill_by_lead({"scores": {f"v{n}": {"1": entry, "2": entry} for n in range(7)}}).axes[0].lines[1:]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 7


def test_spectra_leave_out_bands_that_are_not_available_and_say_so_where_none_is():
    ratio = draw(spectra(scores_of())).axes[0]
    assert [line.get_label() for line in ratio.lines[1:]] == ["6-15 km", "5-10 grid lengths"]
    nothing = {"power_ratio": {"2-5": None}, "coherence": {"2-5": None}}
    assert draw(spectra(scores_of(**nothing))).axes[0].texts[0].get_text() == "not available"

"""Curves of training and scores: what is drawn is what was given, also if something is missing."""

import math

import pytest

from plotting.curves import headline, loss_curves, save_loss_curves, without_skill
from plotting.scores import skill_by_lead, spectra


def record(epoch: int, **more) -> dict:
    return {
        "epoch": epoch, "step": 10 * epoch, "loss": 1.0 / epoch, "terms": {"l1": 0.5 / epoch, "mse": 0.3 / epoch},
        "lr": 1e-3, "grad_norm": 1.0, "skill": {"REFC": -9.0 / epoch, "T2M": 0.2}, "score": 0.1 * epoch,
        "samples_per_s": 9.0, "data_wait": 0.1, "peak_memory_bytes": 8e8,
    } | more  # fmt: skip


def draw(figure):
    """Lay the figure out and render it, so that whatever cannot be drawn fails here."""
    figure.canvas.draw()
    return figure


def lines_of(axes) -> dict:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines if not line.get_label().startswith("_")}


# ---- training
@pytest.mark.parametrize("epochs", [1, 200])
def test_loss_curves_hold_every_record(epochs):
    loss, skill = draw(loss_curves([record(e + 1) for e in range(epochs)])).axes
    assert list(lines_of(loss)) == ["loss", "l1", "mse"] and list(lines_of(skill))[:2] == ["REFC", "T2M"]
    assert lines_of(loss)["loss"] == [1.0 / (e + 1) for e in range(epochs)]
    assert skill.get_ylim()[0] < -9.0 / epochs and skill.get_ylim()[1] > 0.2
    assert epochs == 1 or skill.get_ylim()[0] > -2  # the first epochs do not flatten the rest


def test_the_roll_out_epochs_are_marked():
    records = [record(5), record(10), record(15, own_forecasts=True), record(20, own_forecasts=True)]
    for axes in draw(loss_curves(records)).axes:
        area = next(p for p in axes.patches if p.get_label() == "roll-out epochs")
        assert (area.get_x(), area.get_x() + area.get_width()) == (10, 20)
    assert not any(axes.patches for axes in loss_curves(records[:2]).axes)


@pytest.mark.parametrize(
    "lost",
    [
        {"loss": None, "grad_norm": None, "terms": {}},
        {"skill": {}, "score": None},
        {"skill": {"T2M": math.nan}},
        {"skill": {r"$\frac{a$": 0.1}},  # a name that looks like a formula
    ],
)
def test_what_a_record_lacks_is_left_out(lost, tmp_path):
    draw(loss_curves([record(5), record(10, **lost)]))
    draw(loss_curves([{"epoch": 1}]))
    save_loss_curves([record(5, **lost)], tmp_path / "c.png")
    assert [p.name for p in tmp_path.iterdir()] == ["c.png"]


def test_the_headline_says_which_epoch_best_pt_has():
    assert headline([record(5), record(10)]) == "epoch 10, loss 0.100, score +1.000"
    drawn = headline([record(5, score=0.4), record(10, score=0.2)])
    assert drawn == "epoch 10, loss 0.100, score +0.200, best.pt +0.400 of epoch 5 (grey line)"
    assert headline([{"epoch": 3, "loss": math.nan}]) == "epoch 3"
    # best.pt has a roll-out epoch as soon as there is one, however high the score before
    own = [record(15, score=0.3, own_forecasts=True), record(20, score=0.1, own_forecasts=True)]
    assert headline([record(5, score=0.4), *own]).endswith("best.pt +0.300 of epoch 15 (grey line)")


def test_variables_without_skill_are_those_of_the_best_validation():
    best = record(15, score=0.3, own_forecasts=True, skill={"A": 0.1, "B": 0.0, "C": -0.2, "D": None})
    assert without_skill([record(5, score=0.9), best, record(20, score=0.2, own_forecasts=True)]) == ["B", "C"]
    assert without_skill([]) == without_skill([{"epoch": 1}]) == []


# ---- scores
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
    skill, climatology, csi, fss, bias, legend = figure.axes
    assert list(fss.lines[0].get_ydata()) == [0.7, 0.7] and fss.get_title() == "T2M: FSS over 33 km"
    assert [t.get_text() for t in legend.get_legend().get_texts()] == ["at least 20 K", "at least 40 K", "persistence"]
    assert not legend.axison and skill.get_title() == "skill against persistence" and csi.lines
    assert climatology.get_title() == "skill against climatology by hour of day" and bias.get_ylim() == (0, 2)


def test_every_baseline_that_there_is_has_a_panel_and_the_interval_is_shaded():
    by_threshold = {"20": 0.5}
    keys = {f"{o}csi": by_threshold for o in ("", "persistence_", "extrapolation_")} | {"frequency_bias": by_threshold}
    keys |= {f"{o}fss": {"20": {"33": 0.4}} for o in ("", "persistence_", "extrapolation_")}
    keys |= {"skill_extrapolation": 0.2, "skill_climatology": 0.1, "skill_interval": [0.1, 0.5]}
    axes = draw(skill_by_lead(scores_of(**keys))).axes
    titles = [a.get_title().removeprefix("skill against ") for a in axes[:3]]
    assert titles == ["persistence", "climatology by hour of day", "extrapolation"]
    assert list(axes[1].lines[1].get_ydata()) == [0.1, 0.1]
    assert len(axes[0].collections) == 1 and [line.get_linestyle() for line in axes[3].lines] == ["-", ":", "--"]
    assert [t.get_text() for t in axes[6].get_legend().get_texts()][1:] == ["persistence", "extrapolation"]


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


def test_spectra_leave_out_bands_that_are_not_available_and_say_so_if_none_is():
    ratio = draw(spectra(scores_of())).axes[0]
    assert [line.get_label() for line in ratio.lines[1:]] == ["6-15 km", "5-10 grid lengths"]
    nothing = {"power_ratio": {"2-5": None}, "coherence": {"2-5": None}}
    assert draw(spectra(scores_of(**nothing))).axes[0].texts[0].get_text() == "not available"

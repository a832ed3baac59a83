"""Curves of training and scores: what is drawn is what was given, also if something is missing."""

import math

import pytest

from plotting.colours import line_styles
from plotting.curves import headline, loss_curves, save_loss_curves, without_skill
from plotting.scores import skill_by_lead, spectra
from tests.test_maps import draw


def record(epoch: int, **more) -> dict:
    skill = {"REFC": -9.0 / epoch, "T2M": 0.2}
    return {"epoch": epoch, "step": 10 * epoch, "loss": 1.0 / epoch, "skill": skill, "score": 0.1 * epoch} | more


def lines_of(axes) -> dict:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines if not line.get_label().startswith("_")}


# ---- training
@pytest.mark.parametrize("epochs", [1, 200])
def test_loss_curves_hold_every_record(epochs):
    loss, skill = draw(loss_curves([record(e + 1) for e in range(epochs)])).axes
    assert list(loss.lines[0].get_ydata()) == [1.0 / (e + 1) for e in range(epochs)]
    assert list(lines_of(skill))[:2] == ["REFC", "T2M"] and "loss of persistence, same lead" in loss.get_ylabel()
    assert skill.get_ylim()[0] < -9.0 / epochs and skill.get_ylim()[1] > 0.2
    assert epochs == 1 or skill.get_ylim()[0] > -2  # the first epochs do not flatten the rest


def test_a_record_without_skill_gives_a_point_of_loss_alone():
    loss, skill = draw(loss_curves([record(3), {"epoch": 4, "loss": 0.6}, record(6)])).axes
    assert list(loss.lines[0].get_xdata()) == [3, 4, 6] and list(skill.lines[1].get_xdata()) == [3, 6]


def test_the_roll_out_epochs_are_marked():
    records = [record(5), record(10), record(15, own_forecasts=True), record(20, own_forecasts=True)]
    figure = draw(loss_curves(records))
    for area in (axes.patches[0] for axes in figure.axes):
        assert (area.get_x(), area.get_x() + area.get_width()) == (10, 20)
    assert "roll-out training" in [t.get_text() for t in figure.legends[0].get_texts()]
    assert not any(axes.patches for axes in loss_curves(records[:2]).axes)


@pytest.mark.parametrize(
    "lost",
    [
        {"loss": None},
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
    assert drawn == "epoch 10, loss 0.100, score +0.200, best.pt +0.400 of epoch 5 (dotted line)"
    assert headline([{"epoch": 3, "loss": math.nan}]) == "epoch 3"
    # best.pt has a roll-out epoch as soon as there is one, however high the score before
    own = [record(15, score=0.3, own_forecasts=True), record(20, score=0.1, own_forecasts=True)]
    assert headline([record(5, score=0.4), *own]).endswith("best.pt +0.300 of epoch 15 (dotted line)")


def test_variables_without_skill_are_those_of_the_best_validation():
    best = record(15, score=0.3, own_forecasts=True, skill={"A": 0.1, "B": 0.0, "C": -0.2, "D": None})
    assert without_skill([record(5, score=0.9), best, record(20, score=0.2, own_forecasts=True)]) == ["B", "C"]
    assert without_skill([]) == without_skill([{"epoch": 1}]) == []


# ---- scores
def scores_of(**more) -> dict:
    bands = {"2-5": 0.5, "5-10": 0.9, "20-67": None}
    entry = {"best_skill": 0.3, "skill": 0.4, "skill_yesterday": None, "power_ratio": bands, "coherence": bands}
    table = {"24": entry | more, "3": entry | more | {"best_skill": 0.6}}
    return {"scores": {"T2M": table}, "bands_km": {"2-5": [6, 15]}}


def test_skill_is_drawn_in_the_order_of_the_lead_times():
    for figure in (skill_by_lead(scores_of()), skill_by_lead(scores_of(), best_only=True)):
        line = draw(figure).axes[0].lines[1]
        assert list(line.get_xdata()) == [3, 24] and list(line.get_ydata()) == [0.6, 0.3]
        assert figure.axes[0].get_title() == "skill against the best baseline"
    assert len(figure.axes) == 1


def test_each_baseline_has_a_panel_and_each_variable_with_events_a_row():
    by_threshold, fss = {"20": 0.5, "40": 0.5}, {t: {"9": 0.2, "33": 0.7} for t in ("20", "40")}
    keys = {f"{o}csi": by_threshold for o in ("", "persistence_", "extrapolation_")} | {"frequency_bias": by_threshold}
    keys |= {f"{o}fss": fss for o in ("", "persistence_", "extrapolation_")}
    keys |= {"skill_extrapolation": 0.2, "skill_climatology": 0.1}
    keys |= {"skill_interval": [0.1, 0.5], "best_skill_interval": [-0.1, 0.5]}
    best, persistence, climatology, extrapolation, csi, fss, bias, legend = draw(skill_by_lead(scores_of(**keys))).axes
    titles = [a.get_title().removeprefix("skill against ") for a in (best, persistence, climatology, extrapolation)]
    assert titles == ["the best baseline", "persistence", "climatology by hour of day", "extrapolation"]
    assert list(climatology.lines[1].get_ydata()) == [0.1, 0.1]
    assert list(best.lines[2].get_xdata()) == [3, 24] and list(persistence.lines[2].get_xdata()) == []  # open markers
    assert list(fss.lines[0].get_ydata()) == [0.7, 0.7] and fss.get_title() == "T2M: FSS over 33 km"
    assert [line.get_linestyle() for line in csi.lines] == ["-", ":", "--"] * 2 and bias.get_ylim() == (0, 2)
    texts = [t.get_text() for t in legend.get_legend().get_texts()]
    assert texts == ["at least 20 K", "at least 40 K", "persistence", "extrapolation"] and not legend.axison


def test_leads_shorter_than_two_hours_are_told_in_minutes():
    entry = {"skill": 0.3, "power_ratio": {"2-5": 0.5}, "coherence": {"2-5": 0.5}}
    scores = {"scores": {"dbz": {str(5 * n / 60): entry for n in range(1, 7)}}}
    axes = draw(skill_by_lead(scores)).axes[0]
    assert axes.get_xlabel() == "lead time (min)"
    assert [t.get_text() for t in axes.get_xticklabels() if t.get_text() in ("5", "10", "30")] == ["5", "10", "30"]
    assert draw(spectra(scores)).axes[1].get_xlabel() == "lead time (min)"


def test_a_variable_has_a_colour_and_a_marker_of_its_own_in_every_figure():
    names = ["v0", "CAPE", "T2M", "v1", "u10", "v2", "v3"]
    styles = line_styles(names)
    assert len({s["color"] for s in styles.values()}) == len({s["marker"] for s in styles.values()}) == 7
    assert line_styles(["U10"])["U10"] == styles["u10"] and line_styles([str(n) for n in range(20)])
    curve = loss_curves([record(1)]).axes[1].lines[2]
    skill = skill_by_lead(scores_of()).axes[0].lines[1]
    assert curve.get_label() == skill.get_label() == "T2M" and curve.get_color() == skill.get_color()


def test_spectra_leave_out_bands_that_are_not_available_and_say_so_if_none_is():
    ratio = draw(spectra(scores_of())).axes[0]
    assert [line.get_label() for line in ratio.lines[1:]] == ["6-15 km", "5-10 cells"]
    for bands in ({"2-5": None}, {}):
        axes = draw(spectra(scores_of(power_ratio=bands, coherence=bands))).axes
        assert axes[0].texts[0].get_text() == "not available"

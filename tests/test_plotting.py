"""Figures: what is drawn is what was given, the right way up, also where something is missing."""

import numpy as np
import pytest
import xarray as xr

from data.metadata import coordinates_of
from plotting.curves import loss_curves
from plotting.maps import forecast_panels
from plotting.scores import skill_by_lead, spectra
from tests.conftest import hour, small_grid

HOUR = np.timedelta64(1, "h")
LEADS = [1 * HOUR, 3 * HOUR]


def record(epoch: int) -> dict:
    return {
        "epoch": epoch, "step": 10 * epoch, "loss": 1.0 / epoch, "terms": {"l1": 0.5 / epoch, "mse": 0.3 / epoch},
        "lr": 1e-3 / epoch, "grad_norm": 1.0, "skill": {"REFC": -9.0 / epoch, "T2M": 0.2}, "samples_per_s": 9.0,
        "data_wait": 0.1, "peak_memory_bytes": 8e8,
    }  # fmt: skip


def forecast_of(value, name: str = "T2M", flip: bool = False, coordinates: bool = True) -> xr.Dataset:
    """One forecast of 3 h; value(lead in hours) gives a (12, 16) field, stored north to south with `flip`."""
    grid = small_grid()
    leads = np.arange(4) * HOUR
    fields = np.stack([value(h) for h in range(4)])[None].astype(np.float32)
    dataset = xr.Dataset(
        {name: (("init_time", "lead_time", "y", "x"), fields)},
        {"init_time": [hour(0)], "lead_time": leads.astype("timedelta64[ns]")}
        | (coordinates_of(grid) if coordinates else {}),
    )
    return dataset.isel(y=slice(None, None, -1)) if flip else dataset


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


@pytest.mark.parametrize(("flip", "coordinates"), [(False, True), (True, True), (False, False)])
def test_maps_have_north_up_whatever_the_order_of_the_rows(flip, coordinates):
    northward = np.broadcast_to(np.arange(12.0)[:, None], (12, 16))  # larger to the north
    forecast = forecast_of(lambda h: northward, flip=flip, coordinates=coordinates)
    figure = draw(forecast_panels(forecast, lambda time: None, "T2M", LEADS))
    image = figure.axes[1].images[0]
    rows = image.get_array()[:, 0]
    top = rows[0] if image.origin == "upper" else rows[-1]
    left, right, bottom, upper = image.get_extent()
    assert top == 11 and upper > bottom and right > left
    if coordinates:
        assert figure.axes[-3].get_xlabel() == "x (km)" and (right - left) == pytest.approx(16 * 3)
        assert figure.axes[4].get_ylabel().startswith("+3 h, valid 2024-05-20 03:00")


def test_maps_show_truth_forecast_persistence_and_error_on_one_scale():
    forecast = forecast_of(lambda h: np.full((12, 16), 280.0 + h) + np.arange(16) / 16)
    hours = np.array([hour(n) for n in range(4)])
    fields = forecast["T2M"].values[0] - 2
    truth = xr.Dataset({"T2M": (("time", "y", "x"), fields)}, {"time": hours})
    panels = draw(forecast_panels(forecast, truth, "T2M", LEADS)).axes[:8]
    images = [axes.images[0] for axes in panels]
    assert np.array_equal(images[4].get_array(), fields[3]) and np.all(images[7].get_array() == 2)
    assert np.array_equal(images[6].get_array(), forecast["T2M"].values[0, 0])
    assert len({id(image.norm) for image in images if image not in (images[3], images[7])}) == 1


def test_reflectivity_can_stand_beside_its_extrapolation_instead_of_the_error():
    forecast = forecast_of(lambda h: np.full((12, 16), 20.0 + h), "REFC")
    moved = lambda lead: np.full((12, 16), 44.0) if lead == HOUR else None  # noqa: E731
    panels = draw(forecast_panels(forecast, lambda t: None, "REFC", LEADS, extrapolation=moved)).axes
    assert panels[3].get_title() == "extrapolation" and np.all(panels[3].images[0].get_array() == 44)
    assert panels[3].images[0].norm is panels[1].images[0].norm and len(panels) == 9  # one colour bar
    assert panels[7].texts[0].get_text() == "no extrapolation" and panels[4].texts[0].get_text() == "no truth"


def test_reflectivity_below_the_lowest_step_is_white_and_masked_cells_are_grey():
    field = np.full((12, 16), 52.0)
    field[0], field[1] = 0.0, np.nan
    image = (
        draw(forecast_panels(forecast_of(lambda h: field, "REFC"), lambda t: field, "REFC", LEADS)).axes[1].images[0]
    )
    colours = image.cmap(image.norm(image.get_array()))
    assert np.all(colours[0, 0] == 1) and colours[1, 0, 3] == 0
    assert colours[5, 5, 0] > 0.9 > 0.4 > colours[5, 5, 1]  # red


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
    assert len(figure.axes) == 5 and list(figure.axes[3].lines[0].get_ydata()) == [0.7, 0.7]


def test_extrapolation_is_drawn_where_there_is_any_and_the_interval_is_shaded():
    by_threshold = {"20": 0.5}
    keys = {f"{o}csi": by_threshold for o in ("", "persistence_", "extrapolation_")} | {"frequency_bias": by_threshold}
    keys |= {f"{o}fss": {"20": {"33": 0.4}} for o in ("", "persistence_", "extrapolation_")}
    keys |= {"skill_extrapolation": 0.2, "skill_damped": 0.1, "skill_interval": [0.1, 0.5]}
    axes = draw(skill_by_lead(scores_of(**keys))).axes
    assert [a.get_title() for a in axes[2:4]] == ["skill against damped persistence", "skill against extrapolation"]
    assert len(axes[0].collections) == 1 and len(axes[4].lines) == 3 and "dashed: extrapolation" in axes[4].get_title()


def test_spectra_leave_out_bands_that_are_not_available_and_say_so_where_none_is():
    ratio = draw(spectra(scores_of())).axes[0]
    assert [line.get_label() for line in ratio.lines[1:]] == ["6-15 km", "5-10 grid lengths"]
    nothing = {"power_ratio": {"2-5": None}, "coherence": {"2-5": None}}
    assert draw(spectra(scores_of(**nothing))).axes[0].texts[0].get_text() == "not available"

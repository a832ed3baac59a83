"""The curves of a run: every number is drawn or left out, and TensorBoard sees each point once."""

import builtins
import math

import pytest

from plotting.curves import add_events, headline, loss_curves, save_loss_curves, scalars

PANELS = ["loss", "skill", "newest", "rate", "norm", "speed"]


def record(epoch: int, **more) -> dict:
    return {
        "epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch, "terms": {"l1": 0.5, "mse": 0.3}, "lr": 1e-3,
        "grad_norm": 1.5, "skill": {"REFC": 0.3, "T2M": -0.7}, "rollout_skill": {"REFC": 0.2, "T2M": None},
        "rollout_hours": 6.0, "score": 0.1 * epoch, "samples_per_s": 9.0, "data_wait": 0.25,
        "peak_memory_bytes": 8e8, "alarm": "", "split": {"gap_hours": 24.0, "train": ["a", "b"]},
    } | more  # fmt: skip


def panels(records) -> dict:
    figure = loss_curves(records)
    figure.canvas.draw()
    return dict(zip(PANELS, figure.axes, strict=True))


def test_each_quantity_has_a_panel_with_every_validation():
    drawn = panels([record(e) for e in (5, 10, 15)])
    for name, values in {
        "rate": [1e-3] * 3,
        "norm": [1.5] * 3,
        "speed": [9.0] * 3,
        "loss": [1 / 5, 1 / 10, 1 / 15],
    }.items():
        assert list(drawn[name].lines[0].get_xdata()) == [5, 10, 15]
        assert list(drawn[name].lines[0].get_ydata()) == values
    assert "25% of the time waiting" in drawn["speed"].texts[0].get_text()
    assert "0.80 GB" in drawn["speed"].texts[0].get_text()


def test_the_newest_skill_stands_there_in_figures():
    texts = [t.get_text() for t in panels([record(5), record(10)])["newest"].texts]
    assert texts == ["+0.30", "-0.70", "+0.20"]  # an undefined one is left out, a bad one is written in full


def test_the_headline_says_which_epoch_best_pt_has():
    assert headline([record(5), record(10)]) == "epoch 10, loss 0.100, mean skill +1.000"
    told = headline([record(5, score=0.4), record(10, score=0.2)])
    assert told == "epoch 10, loss 0.100, mean skill +0.200, best.pt +0.400 of epoch 5 (grey line)"
    assert headline([{"epoch": 3, "loss": math.nan}]) == "epoch 3"
    # best.pt has an epoch on its own forecasts as soon as there is one, however high the score before
    own = [record(15, score=0.3, own_forecasts=True), record(20, score=0.1, own_forecasts=True)]
    told = headline([record(5, score=0.4), record(10, score=0.2), *own])
    assert told.endswith("mean skill +0.100, best.pt +0.300 of epoch 15 (grey line)")


@pytest.mark.parametrize("lost", [{"loss": None, "grad_norm": None, "terms": {}}, {"skill": {}, "rollout_skill": {}}])
def test_what_a_record_lacks_is_left_out(lost):
    panels([record(5), record(10, **lost)])
    panels([record(5, **lost)])


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path):
    save_loss_curves([record(5, skill={r"$\frac{a$": 0.1}, rollout_skill={})], tmp_path / "c.png")
    assert [p.name for p in tmp_path.iterdir()] == ["c.png"]


def test_scalars_are_the_finite_numbers_of_a_record():
    found = scalars(record(2, grad_norm=math.inf))
    assert found["skill/T2M"] == -0.7 and found["terms/l1"] == 0.5 and found["split/gap_hours"] == 24.0
    assert not {"grad_norm", "rollout_skill/T2M", "alarm", "split/train"} & set(found)


def test_a_point_that_is_logged_twice_is_seen_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for e, loss in ((5, 0.5), (10, 0.9), (10, 0.4)):  # interrupted after epoch 10, which was done again
        assert add_events(record(e, loss=loss), tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    seen = [(s.step, round(s.value, 6)) for s in events.Scalars("loss")]
    assert seen == [(50, 0.5), (100, 0.4)]


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    original = builtins.__import__

    def refused(name, *more):
        if "tensorboard" in name:
            raise ImportError(name)
        return original(name, *more)

    monkeypatch.setattr(builtins, "__import__", refused)
    assert add_events(record(5), tmp_path) is False and not list(tmp_path.iterdir())

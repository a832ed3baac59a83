"""Constants are checked before the first step, and a resumed run has those it began with."""

from dataclasses import dataclass, field, replace

import pytest

from training.constants import check_constants, check_data, check_resume


@dataclass
class Config:
    epochs: int = 200
    lr: float = 1e-3
    loss_weights: tuple[float, ...] = (0.4, 0.3)
    noise: float = field(default_factory=lambda: 0.05)
    run_dir: str = "runs/a"


RANGES = {"epochs": (1, 1000), "lr": (1e-8, 1.0), "loss_weights": (0, 10), "noise": (0, 5)}


def test_constants_in_their_range_pass_with_both_limits():
    check_constants(Config(), RANGES)
    check_constants(Config(1, 1.0, (0, 10), 0), RANGES)


@pytest.mark.parametrize("constants, message", [
    ({"epochs": 0}, "epochs: got 0, expected at least 1. Fix: --epochs 200"),
    ({"epochs": 10**400}, f"epochs: got {10**400}, expected at most 1000. Fix: --epochs 200"),
    ({"lr": 0.0}, "lr: got 0.0, expected at least 1e-08. Fix: --lr 0.001"),
    ({"lr": float("nan")}, "lr: got nan, expected a finite number. Fix: --lr 0.001"),
    ({"lr": float("inf")}, "lr: got inf, expected a finite number. Fix: --lr 0.001"),
    ({"noise": -1}, "noise: got -1, expected at least 0. Fix: --noise 0.05"),
    ({"loss_weights": (0.4, -0.3)}, "loss_weights: got -0.3, expected at least 0. Fix: --loss_weights 0.4 0.3"),
    ({"loss_weights": {"l1": 11}}, "loss_weights: got 11, expected at most 10. Fix: --loss_weights 0.4 0.3"),
])  # fmt: skip
def test_a_constant_out_of_range_is_named_with_its_default_as_the_fix(constants, message):
    with pytest.raises(ValueError) as error:
        check_constants(replace(Config(), **constants), RANGES)
    assert str(error.value) == message


def test_a_constant_without_a_default_is_fixed_by_the_nearest_limit():
    @dataclass
    class Bare:
        lead: int

    with pytest.raises(ValueError, match=r"lead: got 50, expected at most 24\. Fix: --lead 24"):
        check_constants(Bare(50), {"lead": (1, 24)})


def test_a_resumed_run_has_the_constants_it_began_with(tmp_path):
    before = {"lr": 0.01, "seed": 0, "epochs": 5, "variables": ["T2M", "U10"], "boundary": "", "removed": 1}
    same = before | {"epochs": 9, "added": 2}
    del same["removed"]
    check_resume(same, before, {"epochs"}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="epochs: got 9, expected 5"):
        check_resume(same, before, set(), tmp_path / "last.pt")
    with pytest.raises(ValueError) as error:
        check_resume(same | {"lr": 0.1, "variables": ["T2M"], "boundary": "b.zarr"}, before, {"epochs"}, "a/last.pt")
    assert str(error.value) == (
        "lr: got 0.1, expected 0.01; variables: got ['T2M'], expected ['T2M', 'U10']; boundary: got 'b.zarr', "
        "expected '' as in a/last.pt. Fix: --lr 0.01 --variables T2M U10 --boundary '' to resume this run, "
        "or another --run_dir for a new one"
    )


def test_a_resumed_run_has_the_data_it_began_with():
    before = {"variables": ["T2M"], "grid": [12, 16], "pairs": {"train": 30}}
    check_data(dict(before), before, "s.zarr")
    for key, other in (("variables", ["U10"]), ("grid", [12, 17]), ("pairs", {"train": 31})):
        with pytest.raises(ValueError, match=rf"s\.zarr: got {key} .* as when this run began. Fix: use the same store"):
            check_data(before | {key: other}, before, "s.zarr")

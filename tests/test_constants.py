"""A resumed run has the constants it began with; tests/test_bad_input.py tries each outside its range."""

import pytest

from training.constants import check_resume


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

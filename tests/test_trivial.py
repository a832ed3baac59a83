"""The faults of benchmarks.trivial are what they are called, and it tells a certificate that does not see them."""

import numpy as np
import pytest

from benchmarks import trivial
from tests.conftest import hour, small_grid, weather, write_store
from verification.spectra import power_ratio, spectrum_sums


def test_noise_has_waves_of_two_to_five_cells_alone_and_blur_takes_these_away():
    noise = trivial.fine_noise(np.random.default_rng(0), 2, (64, 64))
    assert noise.shape == (2, 64, 64) and noise.std(axis=(1, 2)) == pytest.approx([1, 1])
    power = spectrum_sums(noise[0], noise[0], (1.0, 1.0))["bands"][1, :3]
    assert power[0] > 0.9 * power.sum()
    field = np.random.default_rng(1).normal(size=(1, 64, 64))
    blurred = trivial.blur(field, 1.5)
    ratio = power_ratio(spectrum_sums(blurred[0], field[0], (1.0, 1.0))["bands"])
    assert ratio[0] < 0.1 and 0.4 < ratio[2] < 0.8
    assert trivial.blur(np.full((1, 9, 9), 3.0), 1.5) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("names_it", "lines", "sound"),
    [
        ("sharp", {"sharp: power": "FAIL", "alive": "PASS"}, True),
        ("sharp", {"sharp: power": "UNDECIDED", "alive": "FAIL"}, False),
        ("", {"sharp: power": "UNDECIDED", "alive": "PASS"}, True),
        ("", {"sharp: power": "n/a", "alive": "PASS"}, False),
    ],
)
def test_a_row_is_sound_if_the_line_that_names_the_fault_fails(names_it, lines, sound):
    assert trivial.sound({"forecast": "x", "names_it": names_it, "lines": lines}) == sound


def test_a_record_without_a_week_before_its_test_hours_is_refused(tmp_path, command):
    store = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(120)], ("T2M",), small_grid())
    dates = ("--train_end", "2024-05-21T00", "--val_end", "2024-05-22T00")
    code, _, error = command(trivial, "--zarr", store, *dates)
    assert code == 2 and "a week before" in error and error.count("\n") == 1

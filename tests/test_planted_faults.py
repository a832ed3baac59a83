"""The certificate finds a fault that was put there, on the line that names it, and passes the same forecast without.

The truth is 64 x 64 cells: a temperature of red noise that moves, lives and warms by day, and showers that move, grow
and decay. The sound forecast is that truth with small errors of the same texture.
"""

import json
import warnings

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter

import verify_forecast
from data.forecast_store import ForecastWriter
from tests.conftest import hour, small_grid, write_store

N, HOURS = 64, 200
INITS = (32, 55, 74, 100, 127, 148, 171)  # of seven days, at seven hours of the day
LEADS = (0, 1, 2, 3, 5, 6, 11, 12, 23, 24)
NAMES = ("REFC", "T2M")
CHECKER = np.indices((N, N)).sum(0) % 2 * 2.0 - 1.0
K = np.hypot(np.fft.fftfreq(2 * N)[:, None], np.fft.fftfreq(2 * N)[None])


def red_noise(rng) -> np.ndarray:
    """Periodic (128, 128) modes of a field with power falling as |k|^-3.6 and standard deviation 1."""
    modes = np.fft.fft2(rng.normal(size=K.shape)) * np.where(K > 0, np.maximum(K, 1 / 64), np.inf) ** -1.8
    return modes / np.fft.ifft2(modes).real.std()


def temperature() -> np.ndarray:
    """(HOURS, N, N) K: noise that is carried by 2.3 and 0.8 cells an hour and loses its shape within some hours."""
    rng, out = np.random.default_rng(1), []
    carry = np.exp(-2j * np.pi * (2.3 * np.fft.fftfreq(2 * N)[None] + 0.8 * np.fft.fftfreq(2 * N)[:, None]))
    modes = red_noise(rng)
    for t in range(HOURS):
        cycle = 3 * np.cos(2 * np.pi * (t - 21) / 24)
        out.append(290 + cycle + 2 * np.fft.ifft2(modes).real[:N, :N])
        modes = carry * (0.97 * modes + np.sqrt(1 - 0.97**2) * red_noise(rng))
    return np.array(out)


def showers(jitter: float = 0.0) -> np.ndarray:
    """(HOURS, N, N) dBZ: 600 showers, each with a place, a speed and some hours of life; `jitter` moves them."""
    rng, noise = np.random.default_rng(2), np.random.default_rng(3)
    y, x = np.mgrid[:N, :N]
    out = np.zeros((HOURS, N, N))
    for _ in range(600):
        t0, y0, x0, width = rng.uniform(-6, HOURS), *rng.uniform(-10, N, 2), rng.uniform(2.5, 5)
        life, speed, peak = rng.uniform(3, 8), rng.normal((0.8, 2.3), 0.7), rng.uniform(38, 58)
        for t in range(max(0, int(np.ceil(t0))), min(HOURS, int(t0 + life))):
            dy, dx = (y0, x0) + speed * (t - t0) + noise.normal(0, 1, 2) * jitter
            strength = peak * np.sin(np.pi * (t - t0) / life)
            out[t] = np.maximum(out[t], strength * np.exp(-((y - dy) ** 2 + (x - dx) ** 2) / (2 * width**2)))
    return out


TRUTH = {"T2M": temperature(), "REFC": showers()}
SOUND = {
    "T2M": TRUTH["T2M"]
    + 0.2 * np.array([np.fft.ifft2(red_noise(np.random.default_rng((4, t)))).real[:N, :N] for t in range(HOURS)]),
    "REFC": showers(jitter=0.3),
}


def index(time: np.datetime64) -> int:
    return int((time - hour(0)) / np.timedelta64(1, "h"))


FAULTS = {
    "none": lambda n, i, h: SOUND[n][i + h],
    "truth": lambda n, i, h: TRUTH[n][i + h],
    "blur": lambda n, i, h: gaussian_filter(SOUND[n][i + h], 1.5),
    "noise": lambda n, i, h: TRUTH[n][i + h] + 0.3 * np.random.default_rng((i, h)).normal(size=(N, N)),
    "checkerboard": lambda n, i, h: SOUND[n][i + h] + 0.03 * TRUTH[n].std() * CHECKER,
    "drift": lambda n, i, h: SOUND[n][i + h] + 0.03 * h * TRUTH[n].std(),
    "late": lambda n, i, h: TRUTH[n][i + h - 1],
    "early": lambda n, i, h: TRUTH[n][i + h + 1],
    "persistence": lambda n, i, h: TRUTH[n][i],
    "clipped": lambda n, i, h: SOUND[n][i + h],
    "another day": lambda n, i, h: TRUTH[n][(i + h + 72) % 168],
    "noise alone": lambda n, i, h: TRUTH[n].mean() + TRUTH[n].std() * np.random.default_rng((i, h)).normal(size=(N, N)),
}


@pytest.fixture(scope="module")
def certify(tmp_path_factory):
    """Score the forecast with one fault: contents of scores.json, and the path of the store."""
    folder = tmp_path_factory.mktemp("planted")
    grid = small_grid(N, N)
    store = write_store(
        folder / "store.zarr", lambda n, t: TRUTH[n][index(t)], [hour(n) for n in range(HOURS)], NAMES, grid
    )
    split = {"train": [str(hour(0)), str(hour(26))], "test": [str(hour(27)), str(hour(HOURS))]}
    done = {}

    def call(fault: str):
        if fault not in done:
            path, leads = folder / f"{fault}.zarr", np.array([np.timedelta64(h, "h") for h in LEADS])
            attributes = {"split": split, "lead": "1h", "boundary": "the truth"}
            with ForecastWriter(path, NAMES, grid, np.array([hour(n) for n in INITS]), leads, attributes) as out:
                for i, init in enumerate(INITS):
                    for j, h in enumerate(LEADS):
                        make = FAULTS[fault] if h else lambda n, i, h: TRUTH[n][i]
                        fields = [np.maximum(make(n, init, h), 0) for n in NAMES]
                        out.write(i, j, np.stack(fields), np.full(2, 0.01 * (fault == "clipped")))
            cfg = verify_forecast.Config(str(path), str(store), str(folder / fault / "scores.json"), figures=False)
            verify_forecast.main(cfg)
            done[fault] = json.loads((folder / fault / "scores.json").read_text()), path
        return done[fault]

    return call


def lines_with(result: dict, verdict: str) -> set[str]:
    """The beginnings of the lines with this verdict."""
    return {line["name"].split(":")[0].split(" over")[0] for line in result["certificate"] if line["pass"] == verdict}


def test_the_truth_passes_every_line_and_carries_the_certificate(certify, capsys):
    result, path = certify("truth")
    assert {line["pass"] for line in result["certificate"]} <= {"PASS", "UNDECIDED"}
    assert "certificate: 19 lines, 1" in capsys.readouterr().out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attributes = xr.open_zarr(path).attrs
    assert json.loads(attributes["certificate"]) == result["certificate"]
    assert json.loads(attributes["certificate_init_times"]) == result["init_times"]


def test_a_sound_forecast_fails_no_line_and_passes_most(certify):
    verdicts = [line["pass"] for line in certify("none")[0]["certificate"]]
    assert set(verdicts) <= {"PASS", "UNDECIDED"} and verdicts.count("PASS") > 12


@pytest.mark.parametrize("nothing", ["persistence", "another day", "noise alone"])
def test_what_knows_nothing_of_the_weather_passes_no_line(certify, nothing):
    result = certify(nothing)[0]
    assert not lines_with(result, "PASS") and "skill" in lines_with(result, "FAIL")


@pytest.mark.parametrize(
    ("fault", "line", "alone"),
    [
        ("blur", "sharp", False),
        ("noise", "no noise", False),
        ("checkerboard", "no grid artefacts", False),
        ("drift", "stable", False),
        ("clipped", "stable", True),
        ("late", "on time", False),
        ("early", "on time", False),
        ("persistence", "alive", False),
    ],
)
def test_a_fault_fails_the_line_that_names_it(certify, fault, line, alone):
    failed = lines_with(certify(fault)[0], "FAIL")
    assert line in failed and (not alone or failed == {line}), failed


def test_scores_of_the_sound_forecast_stand_beside_those_of_every_baseline(certify):
    result = certify("none")[0]
    entry = result["scores"]["REFC"]["1"]
    for baseline in ("", "_yesterday", "_climatology", "_damped", "_extrapolation"):
        assert 0 < entry[f"skill{baseline}"] < 1
    assert entry["n_cases_extrapolation"] == entry["n_cases"] == len(INITS) == entry["n_days"]
    low, high = entry["best_skill_interval"]
    assert low <= entry["best_skill"] <= high < 1 and entry["best_skill"] == entry[f"skill_{entry['best_baseline']}"]
    assert entry["anomaly_correlation"] > 0.9 and entry["correlation_gain"] > 0
    for score in ("csi", "pod", "far", "frequency_bias", "ets"):
        assert set(entry[score]) == set(entry[f"persistence_{score}"]) == set(entry[f"extrapolation_{score}"])
    assert entry["csi"]["30"] > max(entry["persistence_csi"]["30"], entry["extrapolation_csi"]["30"])
    assert entry["effective_resolution_km"] < 9 and result["boundary_width"] == 5

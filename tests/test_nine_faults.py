"""Nine faults of an earlier attempt at this forecast, each shown to be absent in the real code."""

import os
import signal
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

import infer_iterative as inference
import train_deterministic as training
import verification.validation as validation
from benchmarks.chaos import same
from data.dataset import Hours
from data.forcing import Forcing
from data.normalise import Statistics, denormalise
from data.store import Store
from losses.spectral import spectra, tables
from losses.weather import WeatherLoss
from models.rollout import forecast_step
from models.unet import ResidualUNet
from tests.conftest import hour, noisy, small_grid, weather, write_store
from tests.model_files import SIZE, read_records, train
from training.checkpoint import load_checkpoint
from training.device import peak_memory_bytes
from training.optimizer import Optimizer
from verification.validation import Validation

HOUR = np.timedelta64(1, "h")


def trained(store, run_dir, status=0, **constants) -> SimpleNamespace:
    """The last checkpoint and the log of a tiny run."""
    assert train(store, run_dir, **constants) == status
    log = read_records(run_dir) if (run_dir / "log.jsonl").exists() else []
    return SimpleNamespace(last=load_checkpoint(run_dir / "last.pt"), log=log)


def spy(monkeypatch, owner, name: str) -> list:
    """Record the arguments of every call of a function without changing it."""
    calls, original = [], getattr(owner, name)

    def recorded(*arguments, **named):
        calls.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, recorded)
    return calls


def training_pairs(monkeypatch, store, run_dir, **constants) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The state that the network sees and the target of the loss, (1, C, H, W) in physical units, of every pair of an
    epoch, and of those of the trial steps."""
    losses, seen, forward = spy(monkeypatch, WeatherLoss, "__call__"), [], ResidualUNet.forward

    def recorded(model, states, *rest):
        seen.extend([states] * torch.is_grad_enabled())  # not in validation
        return forward(model, states, *rest)

    monkeypatch.setattr(ResidualUNet, "forward", recorded)
    last = trained(store, run_dir, noise=0.0, **constants).last
    statistics = Statistics.from_dict(last["statistics"])
    physical = lambda x: denormalise(x, statistics)  # noqa: E731
    targets = [target * statistics.scale for _, _, target, *_ in losses[-len(seen) :]]  # before: its units
    return [(physical(states[:, -1]), physical(t)) for states, t in zip(seen, targets, strict=True)]


def test_fault_1_validation_hours_lie_a_day_after_the_last_training_hour(tmp_path, monkeypatch):
    """Ten days: the hours that training reads, those that validation reads and those of the statistics."""
    times = np.array([hour(n) for n in range(240)])
    store = write_store(tmp_path / "s.zarr", lambda n, t: weather(n, t, (8, 8)), times, ["T2M"], small_grid(8, 8))
    learned, read = spy(monkeypatch, training, "learn"), spy(monkeypatch, Hours, "__call__")
    validations = spy(monkeypatch, Validation, "__call__")
    last = trained(store, tmp_path / "run", accumulate=64, levels=0, base_features=2).last
    seen = {t + k * HOUR for _, _, tensors, _ in learned for t in tensors[0] for k in (-1, 0, 1)}
    validate = validations[0][0]
    validated = {t + k * HOUR for starts in validate.batches for t in starts for k in range(-1, validate.steps + 1)}
    assert max(seen) + 24 * HOUR <= min(validated)
    assert seen == {t for t in times if t <= max(seen)}  # no hour was taken out from between
    assert len(validated) >= 10 and max(validated) + 24 * HOUR < times[-1]  # what follows is for tests
    assert validated <= {arguments[1] for arguments in read} <= seen | validated
    fields = np.stack([weather("T2M", t, (8, 8)) for t in sorted(seen)]).astype(np.float64)
    assert last["statistics"]["T2M"]["mean"] == pytest.approx(fields.mean(), rel=1e-6)
    assert last["statistics"]["T2M"]["change_std"] == pytest.approx(np.diff(fields, axis=0).std(), rel=1e-4)


def test_fault_2_mirrored_pairs_move_with_their_wind(tmp_path, monkeypatch):
    """A warm blob on a periodic domain is carried by a wind towards the north-east; mirrored, it must still be."""
    size = 16
    y, x = np.mgrid[:size, :size] * 2 * np.pi / size

    def carried(name, time):
        n = (time - hour(0)) / HOUR
        if name == "T2M":
            return 290 + 5 * np.cos(x - 0.4 * n) + 5 * np.cos(y - 0.2 * n)
        return (4.0 if name == "U10" else 2.0) + 0.1 * np.sin(n)

    store = write_store(
        tmp_path / "s.zarr", carried, [hour(n) for n in range(60)], ["T2M", "U10", "V10"], small_grid(size, size)
    )
    seen = set()
    for state, target in training_pairs(monkeypatch, store, tmp_path / "run"):
        signs = []
        for axis, wind in ((-1, 1), (-2, 2)):
            before, after = (torch.fft.fft(f[0, 0].mean(dim=-3 - axis))[1] for f in (state, target))
            moved = -torch.angle(after / before)  # the blob's displacement, radians of its wavelength
            assert moved.abs() == pytest.approx(0.4 if wind == 1 else 0.2, abs=1e-3)
            for field in (state, target):
                assert torch.sign(field[0, wind].mean()) == torch.sign(moved)
            signs.append(int(torch.sign(moved)))
        seen.add(tuple(signs))
    assert seen == {(1, 1), (1, -1), (-1, 1), (-1, -1)}  # all four mirrors were met


def test_fault_3_the_logged_memory_is_the_peak_and_not_what_is_left(tmp_path, monkeypatch):
    """A tensor that lives only inside the first step must be in the figure that the log has at the end."""
    peak, step = [], Optimizer.step

    def in_use() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def swelling_step(*arguments):
        if not peak:
            swollen = torch.ones((peak_memory_bytes(torch.device("cpu")) - in_use() + 200_000_000) // 4)
            peak.append(in_use())
            del swollen
        return step(*arguments)

    monkeypatch.setattr(Optimizer, "step", swelling_step)
    store = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)])
    log = trained(store, tmp_path / "run").log
    assert in_use() < peak[0] - 100_000_000  # it is gone
    assert log[-1]["peak_memory_bytes"] >= peak[0] - 10_000_000


def test_fault_4_every_log_line_has_skill_against_persistence_in_physical_units(tmp_path, capsys):
    names, times = ["REFC", "T2M"], [hour(n) for n in range(40)]
    store = write_store(tmp_path / "s.zarr", weather, times, names)
    result = trained(store, tmp_path / "run", epochs=4, validate_every=2, lr=0.02)
    assert [r["epoch"] for r in result.log] == [2, 4]
    first, last = (np.datetime64(t) for t in result.log[-1]["split"]["validation"])
    steps = int(result.log[-1]["rollout_hours"])
    starts = [t for t in times if first <= t - HOUR and t + steps * HOUR <= last]

    # persistence from the fields alone: no echo is 0 dBZ, whatever value the store uses for it
    for name in names:
        floor = 0.0 if name == "REFC" else -np.inf
        now, then = (np.maximum([weather(name, t + k) for t in starts], floor) for k in (0 * HOUR, HOUR))
        by_hand = np.sqrt(((then.astype(np.float64) - now) ** 2).mean())
        for record in result.log:
            assert record["persistence_rmse"][name] == pytest.approx(by_hand, rel=1e-5)
            skill = 1 - record["rmse"][name] / by_hand
            assert record["skill"][name] == pytest.approx(skill, abs=1e-5) and abs(skill) > 1e-3

    # the model's error in kelvin, with the averaged weights and the statistics of the checkpoint
    forcing, last = Forcing(Store(store).grid, HOUR, tuple(names), None), result.last
    scale = Statistics.from_dict(last["statistics"]).scale
    model = ResidualUNet(2, len(forcing.names), 8, **SIZE, scale=scale)
    model.load_state_dict(last["ema"])
    mean, std = (np.array([last["statistics"][n][k] for n in names]) for k in ("mean", "std"))
    squares = []
    for t in starts:
        fields = np.stack([[np.maximum(weather("REFC", u), 0), weather("T2M", u)] for u in (t - HOUR, t)])
        states = torch.tensor((fields - mean[:, None, None]) / std[:, None, None], dtype=torch.float32)[None]
        with torch.no_grad():
            pred = forecast_step(model, states, *forcing(np.array([t])), scale)[0, 1].numpy() * std[1] + mean[1]
        squares.append((pred - weather("T2M", t + HOUR)) ** 2)
    assert result.log[-1]["rmse"]["T2M"] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-4)

    # a model that cannot learn is called what it is, aloud
    capsys.readouterr()
    stuck = trained(store, tmp_path / "stuck", lr=1e-12)
    assert "\nALARM: this model is persistence" in capsys.readouterr().out
    assert stuck.log[-1]["alarm"] and stuck.log[-1]["skill"]["T2M"] == pytest.approx(0, abs=1e-6)


def test_fault_5_times_are_decoded_by_their_units_and_the_year_has_its_true_length(tmp_path):
    fields = np.stack([weather("T2M", hour(n)) for n in range(4)])
    offsets = np.array([0, 24, 48, 7325], np.int32)  # hours; the last is 305 days and 5 hours
    units = {"units": "hours since 2024-02-28 06:00:00", "calendar": "standard"}
    dataset = xr.Dataset({"T2M": (("time", "y", "x"), fields)}, {"time": ("time", offsets, units)})
    dataset.to_zarr(tmp_path / "s.zarr", zarr_format=2, consolidated=True)
    store = Store(tmp_path / "s.zarr")
    known = np.array(["2024-02-28T06", "2024-02-29T06", "2024-03-01T06", "2024-12-29T11"], "datetime64[ns]")
    assert (store.times == known).all()
    np.testing.assert_array_equal(store.load(known[3], ["T2M"])[0], fields[3])

    def day_of_year(times) -> np.ndarray:
        """Days since 1 January 00 UTC in a leap year, computed from the model's clock input."""
        clock = Forcing(store.grid, HOUR, ("T2M",), None)(np.array(times, "datetime64[ns]"))[1].numpy()
        return np.arctan2(clock[:, 2], clock[:, 3]) % (2 * np.pi) / (2 * np.pi) * 366

    leap = ["2024-02-28T12", "2024-02-29T12", "2024-03-01T12", "2024-12-31T12"]
    assert day_of_year(leap) == pytest.approx([58.5, 59.5, 60.5, 365.5], abs=1e-3)
    plain = ["2023-02-28T12", "2023-03-01T12", "2023-12-31T12"]
    assert day_of_year(plain) / 366 * 365 == pytest.approx([58.5, 59.5, 364.5], abs=1e-3)


def test_fault_6_the_target_is_one_hour_after_the_state_across_missing_hours(tmp_path, monkeypatch):
    """Fields whose value tells their hour, with hours missing in every part of the record."""
    present = [n for n in range(80) if n not in (3, 4, 11, 20, 35, 36, 37, 60, 74)]
    times = [hour(n) for n in present]
    store = write_store(tmp_path / "s.zarr", lambda _, t: 200 + ((t - hour(0)) / HOUR) ** 2 / 64, times)

    def hour_of(field) -> float:
        return float(((field - 200) * 64).sqrt().mean())

    scored = spy(monkeypatch, validation, "change_sums")
    pairs = [[hour_of(x) for x in p] for p in training_pairs(monkeypatch, store, tmp_path / "run", flip=False)]
    inside = [n for n in range(55) if {n - 1, n, n + 1} <= set(present)]  # 55 is 70 % of 79
    assert sorted(round(state) for state, _ in pairs[-len(inside) :]) == inside
    assert all(target == pytest.approx(state + 1, abs=0.01) for state, target in pairs)
    # validation: one start, before and after which most hours are present, and roll-outs of up to five hours
    leads = [hour_of(truth) - hour_of(analysis) for _, analysis, truth, _ in scored]
    assert leads == pytest.approx([1, 2, 3, 4, 5], abs=0.01) and round(hour_of(scored[0][1])) == 62


def test_fault_7_a_forecast_says_when_and_where_it_is_valid(tmp_path):
    store = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)], ["REFC", "T2M"])
    train(store, tmp_path / "run")
    starts, out = np.array([hour(36), hour(38)]), tmp_path / "f.zarr"
    times = [str(t) for t in starts]
    inference.main(inference.Config(str(tmp_path / "run" / "best.pt"), str(store), times, 3.0, out=str(out)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forecast, source = xr.open_zarr(out), xr.open_zarr(store)
        picture = forecast.REFC.sel(lead_time="3h").load()
    np.testing.assert_array_equal(forecast.init_time.values, starts)
    np.testing.assert_array_equal(forecast.lead_time.values, np.arange(4) * HOUR)
    np.testing.assert_array_equal(forecast.valid_time.values, starts[:, None] + np.arange(4) * HOUR)
    assert forecast.valid_time.dims == ("init_time", "lead_time")
    names = {"init_time": "forecast_reference_time", "lead_time": "forecast_period", "valid_time": "time",
             "latitude": "latitude", "longitude": "longitude"}  # fmt: skip
    assert {n: forecast[n].attrs["standard_name"] for n in names} == names
    for name in ("latitude", "longitude", "x", "y"):
        np.testing.assert_array_equal(forecast[name].values, source[name].values)
        assert name in picture.coords
    assert forecast.T2M.attrs["units"] == "K" and forecast.T2M.attrs["grid_mapping"] in forecast.coords
    np.testing.assert_allclose(forecast.T2M.values[:, 0], [weather("T2M", t) for t in starts], atol=1e-4)


def interrupt(monkeypatch, step: int) -> None:
    """Send Ctrl-C to this process after its step-th optimizer step."""
    original, left = Optimizer.step, [step]

    def interrupted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(Optimizer, "step", interrupted)


@pytest.fixture
def detailed_store(tmp_path):
    """23 hours: 14 training pairs, in steps of 4, so 4 steps an epoch, one of 2."""
    return write_store(tmp_path / "s.zarr", noisy, [hour(n) for n in range(23)], ["T2M", "U10"])


DATES = {"train_end": str(hour(15)), "val_end": str(hour(19)), "gap": "1h"}


def test_fault_8_a_run_resumes_bit_by_bit(detailed_store, tmp_path, monkeypatch, capsys):
    """Interrupted after step 6 of 21, and after step 18, in the last epoch, which is one of roll-outs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run ignores what its shell ignores
    constants = {"epochs": 5, "validate_every": 2, "noise": 0.1, "lr": 0.01, **DATES}
    whole = trained(detailed_store, tmp_path / "whole", **constants)
    assert whole.last["step"] == 21 and whole.last["split"]["pairs"]["train"] == 14
    for done, step in ((0, 6), (6, 18)):
        with monkeypatch.context() as patch:
            interrupt(patch, step - done)
            stopped = trained(detailed_store, tmp_path / "cut", status=128 + signal.SIGINT, **constants)
        assert stopped.last["step"] == step and len(stopped.log) == step // 8
        capsys.readouterr()
        torch.manual_seed(99)  # a new process would not have the old one's random state either
    resumed = trained(detailed_store, tmp_path / "cut", **constants)
    signal.signal(signal.SIGINT, before)
    assert "resumed at step 18 " in capsys.readouterr().out
    for key in ("model", "ema", "optimizer", "scheduler", "step", "epoch", "position"):
        assert same(whole.last[key], resumed.last[key]), f"{key} differs after the interruption"
    for key in ("epoch", "step", "loss", "terms", "lr", "grad_norm", "rmse", "skill"):
        assert [r[key] for r in whole.log] == [r[key] for r in resumed.log], f"{key} differs in the log"


def test_fault_8_every_pair_counts_alike(detailed_store, tmp_path, monkeypatch):
    """The gradient of a step is the mean of those of its pairs taken singly, in the last step of two pairs too. Without
    the spectral term, which compares the powers of a batch."""
    gradients, clip = {}, Optimizer.clip_gradients

    def record(optimizer):
        gradients[size].append(torch.cat([p.grad.flatten() for p in optimizer.weights]))
        return clip(optimizer)

    class Filled(ResidualUNet):  # with zeros at its outputs these alone would have a gradient
        def __init__(self, *sizes, **options):
            super().__init__(*sizes, **options)
            for part in (self.head, self.flow):
                torch.nn.init.normal_(part.weight, std=0.1)

    monkeypatch.setattr(Optimizer, "clip_gradients", record)
    monkeypatch.setattr(training, "ResidualUNet", Filled)
    still = {"flip": False, "noise": 0.0, "lr": 1e-12, "loss_weights": (0.4, 0.0, 0.2, 0.1), **DATES}
    for size in ((1, 1), (1, 4), (4, 1)):
        gradients[size] = []
        train(detailed_store, tmp_path / str(size), batch_size=size[0], **still | {"accumulate": size[1]})
    expected = torch.stack([group.mean(dim=0) for group in torch.stack(gradients[1, 1]).split(4)])
    assert len(expected) == 4 and (expected != 0).float().mean() > 0.8
    for size in ((1, 4), (4, 1)):
        torch.testing.assert_close(torch.stack(gradients[size]), expected, rtol=1e-3, atol=1e-5)


def test_fault_9_the_spectral_term_is_windowed_sees_phase_and_keeps_channels_apart():
    def spectral(pred, target) -> list[float]:
        return WeatherLoss((0.4, 0.3, 0.2, 0.1), 12.0)(pred - target, target)[1]["spectral"].tolist()

    size = 64
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    ripple = torch.cos(2 * torch.pi * (x + y) / 3)[None, None]
    ramp = (10 * (x + y) / size)[None, None]  # its jump across the edges looks like detail to a plain transform
    window, octaves, _ = tables(16, ramp.device)
    windowed, plain = ((spectra(ramp, w).square() @ octaves)[..., 0] for w in (window, torch.ones_like(window)))
    assert windowed.max() < 0.01 * plain.min()  # power of the shortest wavelengths

    field = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    elsewhere = field.flip(-1, -2)  # the same amplitudes at all wavenumbers, other phases
    assert spectral(elsewhere, field)[0] > 1.0  # half of their mean square difference, 2
    assert spectral(field, field)[0] == 0

    target = torch.zeros(1, 2, size, size)
    opposite = torch.cat([ripple, -ripple], dim=1)  # their mean over channels is no error at all
    values = spectral(opposite, target)
    assert len(values) == 2 and min(values) > 0.1
    second = spectral(torch.cat([0 * ripple, ripple], dim=1), target)
    assert second[0] == 0 and second[1] == pytest.approx(values[1])

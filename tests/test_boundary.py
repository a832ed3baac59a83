"""Boundary data: the strip's weights by the formula, and forecasts whose edge is that of the boundary store."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

import infer_iterative
import train_deterministic
from data.boundary import Boundary, davies
from data.dataset import Hours
from data.grid import read_grid
from data.host import bilinear
from data.normalise import Statistics
from data.store import Store
from tests.conftest import TINY, hour, weather, write_store
from tests.model_files import train

LEAD = np.timedelta64(1, "h").astype("timedelta64[ns]")
NAMES = ("T2M", "D2M")
STATISTICS = Statistics(NAMES, torch.tensor([290.0, 280.0]), torch.tensor([4.0, 3.0]), torch.tensor([1.0, 1.0]))
EDGE = np.ones((12, 16), bool)
EDGE[1:-1, 1:-1] = False  # 12 x 16 cells: a strip of one cell
INNER = ~EDGE


def test_the_weights_follow_the_formula():
    weight = davies((100, 130))  # 8 % of 100: 8 cells
    for d in range(8):
        for cell in (weight[d, 60], weight[-1 - d, 60], weight[50, d], weight[50, -1 - d], weight[d, d]):
            assert cell.item() == pytest.approx(math.cos(math.pi * d / 16) ** 2, abs=1e-6)
    assert (weight[0] == 1).all() and (weight[:, -1] == 1).all()
    assert (weight[8:-8, 8:-8].abs() < 1e-6).all()


@pytest.mark.parametrize("shape,cells", [((1059, 1799), 25), ((100, 130), 8), ((12, 16), 1), ((5, 400), 1)])
def test_the_strip_is_25_cells_wide_or_8_percent_of_the_shorter_side(shape, cells):
    row = davies(shape)[shape[0] // 2]
    assert int((row[: shape[1] // 2] > 1e-6).sum()) == cells


@pytest.fixture
def store(tmp_path):
    return Store(write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(4)], NAMES))


def boundary(path, store, mask=None):
    return Boundary(str(path), store, STATISTICS, mask)


def test_a_host_without_a_variable_or_an_hour_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match=r"poor.zarr: got only V10, expected one of T2M, D2M. Fix: name"):
        boundary(write_store(tmp_path / "poor.zarr", weather, [hour(0)], ("V10",)), store)
    edge = boundary(store.path, store)
    edge.refuse_missing(np.array([hour(0), hour(1)]), LEAD, 2, "x")
    with pytest.raises(ValueError, match=r"s.zarr has no 2024-05-20T04:00, .* \(1 of 4 are missing\). Fix: less"):
        edge.refuse_missing(np.array([hour(0), hour(2)]), LEAD, 2, "less")


def test_a_host_on_the_same_cells_gives_its_own_values(store):
    edge, truth = boundary(store.path, store), Hours(store, list(NAMES), STATISTICS, None)
    state = torch.randn(1, 2, 12, 16)
    assert torch.equal(edge.nudge(state, edge.fields([hour(1)], 2 * LEAD)),
                       state + davies((12, 16)) * (truth(hour(3)) - state))  # fmt: skip


def test_masked_cells_stay_at_the_mean_where_the_host_has_no_values(tmp_path):
    mask = torch.zeros(2, 12, 16, dtype=torch.bool)
    mask[0, 0, :5] = True
    holes = lambda n, t: np.where(mask[NAMES.index(n)], np.nan, weather(n, t))  # noqa: E731
    store = Store(write_store(tmp_path / "s.zarr", holes, [hour(0)], NAMES))
    found = boundary(store.path, store, mask).fields([hour(0)], 0 * LEAD)[0]
    assert not found[mask].any() and found[0, 0, 5:].all() and found[1, 0].all()
    with pytest.raises(ValueError, match="got 5 missing values of T2M"):
        boundary(store.path, store).fields([hour(0)], 0 * LEAD)


# ---- hosts on other grids, with other times and names

LATITUDES, LONGITUDES = np.arange(37.0, 41.0, 0.25), np.arange(-99.0, -95.0, 0.5)  # around small_grid()
LINEAR = {"t2m": (lambda lat, lon: 250 + 2 * lat + 0.5 * lon), "d2m": (lambda lat, lon: 250 + lat - 0.1 * lon)}


def write_host(path, times, latitude=LATITUDES, longitude=LONGITUDES, factor=lambda t: t, units=("K", "K"), **named):
    """A host whose fields are linear in latitude and longitude, plus factor(hours since the first test hour)."""
    dims = ("latitude", "longitude") if latitude.ndim == 1 else ("row", "column")
    lat, lon = np.meshgrid(latitude, longitude, indexing="ij") if latitude.ndim == 1 else (latitude, longitude)
    lon = (lon + 180) % 360 - 180
    since = (np.array(times) - hour(0)) / np.timedelta64(1, "h")
    fields = {n: (("time", *dims), f(lat, lon) + np.array([factor(t) for t in since])[:, None, None], {"units": u})
              for (n, f), u in zip(LINEAR.items(), units, strict=True)}  # fmt: skip
    about = {n: (dims if v.ndim == 2 else (n,), v) for n, v in (("latitude", latitude), ("longitude", longitude))}
    xr.Dataset(fields, {"time": times, **about}).rename(named).to_zarr(path, consolidated=False)
    return path


def physical(edge, *when):
    """{name: the host's values in the cells of the edge, in physical units}"""
    state = edge.fields(*when)[0] * STATISTICS.std[:, None, None] + STATISTICS.mean[:, None, None]
    return dict(zip(NAMES, state[:, EDGE].numpy(), strict=True))


ROTATED = np.mgrid[-3:3:0.3, -4:4:0.4]  # rows and columns turned by 30 degrees against north, around 38.6 N, 97.2 W
TURNED = {
    "latitude": 38.6 + 0.87 * ROTATED[0] - 0.5 * ROTATED[1],
    "longitude": -97.2 + 0.5 * ROTATED[0] + 0.87 * ROTATED[1],
}
HOSTS = {
    "regular": {},
    "north to south": {"latitude": LATITUDES[::-1]},
    "0 to 360": {"longitude": LONGITUDES + 360},
    "around the Earth": {"longitude": np.arange(0.0, 360.0, 0.5)},
    "uneven rows": {"latitude": np.array([37.0, 38.2, 38.65, 39.0, 41.0])},
    "curvilinear": TURNED,
    "curvilinear, reversed": {n: v[::-1, ::-1] for n, v in TURNED.items()},
    "other names": {"t2m": "2m_temperature", "d2m": "2m_dewpoint_temperature"},
}


@pytest.mark.parametrize("kind", HOSTS)
def test_fields_linear_in_space_and_time_are_interpolated_exactly(kind, store, tmp_path):
    host = write_host(tmp_path / "host.zarr", [hour(0), hour(3)], **HOSTS[kind])
    edge = boundary(host, store)
    edge.refuse_missing(np.array([hour(0)]), LEAD, 3, "x")
    lat, lon = (v[EDGE] for v in (store.grid.latitude, store.grid.longitude))
    for k in (1, 2, 3):
        found = physical(edge, [hour(0)], k * LEAD)
        for name, theirs in zip(NAMES, LINEAR, strict=True):
            np.testing.assert_allclose(found[name], LINEAR[theirs](lat, lon) + k, atol=2e-3)
    assert not edge.fields([hour(0)], LEAD)[0][:, INNER].any()


def test_units_are_converted_and_an_unknown_one_is_refused(store, tmp_path):
    edge = boundary(write_host(tmp_path / "c.zarr", [hour(0)], units=("degC", "K")), store)
    lat, lon = (v[EDGE] for v in (store.grid.latitude, store.grid.longitude))
    found = physical(edge, [hour(0)], 0 * LEAD)
    np.testing.assert_allclose(found["T2M"], LINEAR["t2m"](lat, lon) + 273.15, atol=2e-3)
    np.testing.assert_allclose(found["D2M"], LINEAR["d2m"](lat, lon), atol=2e-3)
    with pytest.raises(ValueError, match=r"got d2m in 'furlongs', expected 'K' as in .*Fix: convert"):
        boundary(write_host(tmp_path / "f.zarr", [hour(0)], units=("K", "furlongs")), store)


def test_a_variable_that_the_host_lacks_is_left_to_the_model_and_noted(store, tmp_path, capsys):
    edge = boundary(write_store(tmp_path / "poor.zarr", weather, [hour(0)], ("T2M",)), store)
    assert "poor.zarr gives no D2M" in capsys.readouterr().out and edge.names == ["T2M"]
    state = torch.randn(1, 2, 12, 16)
    after = edge.nudge(state, edge.fields([hour(0)], 0 * LEAD))
    assert torch.equal(after[:, 1], state[:, 1]) and not torch.isclose(after[0, 0], state[0, 0])[EDGE].any()


def test_hours_too_far_apart_and_missing_values_are_refused(store, tmp_path):
    daily = boundary(write_host(tmp_path / "daily.zarr", [hour(0), hour(24)]), store)
    with pytest.raises(ValueError, match=r"daily\.zarr has no 2024-05-20T01:00"):
        daily.refuse_missing(np.array([hour(0)]), LEAD, 2, "x")
    holes = write_host(tmp_path / "holes.zarr", [hour(0)])
    zarr.open_group(holes)["d2m"][0, 8] = np.nan
    with pytest.raises(ValueError, match=r"got .* missing values of D2M at the edge at 2024-05-20T00:00"):
        boundary(holes, store).fields([hour(0)], 0 * LEAD)


@pytest.mark.parametrize("eastward", [True, False])
def test_winds_are_turned_to_the_axes_of_the_grid(eastward, tmp_path):
    """A host whose columns run 30 degrees north of east, with a wind of 5 m/s from the west."""
    names = ("U10", "V10")
    store = Store(write_store(tmp_path / "s.zarr", weather, [hour(0)], names))
    lat = TURNED["latitude"]
    east = {"latitude": 38.6 + 0.866 * ROTATED[0] + 0.5 * ROTATED[1],
            "longitude": -97.2 + (-0.5 * ROTATED[0] + 0.866 * ROTATED[1]) / np.cos(np.radians(38.6))}  # fmt: skip
    along = (1, 0) if eastward else (math.cos(math.pi / 6), -math.sin(math.pi / 6))
    about = {"standard_name": "eastward_wind" if eastward else "x_wind", "units": "m s-1"}
    fields = {
        n: (("time", "row", "column"), np.full((1, *lat.shape), 5 * a), about)
        for n, a in zip(names, along, strict=True)
    }
    xr.Dataset(fields, {"time": [hour(0)], **{n: (("row", "column"), v) for n, v in east.items()}}).to_zarr(
        tmp_path / "h.zarr", consolidated=False)  # fmt: skip
    statistics = Statistics(names, torch.zeros(2), torch.ones(2), torch.ones(2))
    u, v = Boundary(str(tmp_path / "h.zarr"), store, statistics, None).fields([hour(0)], 0 * LEAD)[0][:, EDGE].numpy()
    dlat, dlon = (np.gradient(g, axis=1)[EDGE] for g in (store.grid.latitude, store.grid.longitude))
    angle = np.arctan2(dlat, dlon * np.cos(np.radians(store.grid.latitude[EDGE])))  # of the grid's x axis
    np.testing.assert_allclose(u, 5 * np.cos(angle), atol=0.05)
    np.testing.assert_allclose(v, -5 * np.sin(angle), atol=0.05)


# ---- hosts that are forecasts

LAYOUTS = {
    "ours": {"start": "init_time", "lead": "lead_time"},
    "WeatherBench 2": {"start": "time", "lead": "prediction_timedelta"},
    "cfgrib": {"start": "time", "lead": "step"},
}


def write_forecasts(path, runs, leads, start="init_time", lead="lead_time", members=1):
    """T2M is 250 K, plus 10 K a run and 1 K an hour of lead: it tells which run and lead it is."""
    value = 250 + 10 * np.arange(len(runs))[:, None] + np.array(leads)[None, :]
    shape = (len(runs), len(leads), members, len(LONGITUDES), len(LATITUDES))
    field = np.broadcast_to(value[:, :, None, None, None], shape).astype("f4")
    xr.Dataset(
        {"t2m": ((start, lead, "number", "longitude", "latitude"), field, {"units": "K"})},
        {start: runs, lead: np.array(leads).astype("m8[h]").astype("m8[ns]"), "longitude": LONGITUDES,
         "latitude": LATITUDES},
    ).to_zarr(path, consolidated=False)  # fmt: skip
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_forecast_takes_the_run_before_it_and_the_runs_own_lead(layout, store, tmp_path):
    runs = [hour(-12), hour(-6), hour(0), hour(6)]
    edge = boundary(write_forecasts(tmp_path / "f.zarr", runs, [0, 3, 6, 9, 12], **LAYOUTS[layout]), store)
    times = np.array([hour(1), hour(6)])
    edge.refuse_missing(times, LEAD, 4, "x")
    found = edge.fields(times, 4 * LEAD)[:, 0][:, EDGE] * 4 + 290
    assert np.allclose(found[0], 250 + 20 + 5, atol=1e-3) and np.allclose(found[1], 250 + 30 + 4, atol=1e-3)
    about = edge.attributes(times)
    assert about["boundary_runs"] == ["2024-05-20T00:00", "2024-05-20T06:00"] and about["boundary_kind"] == "forecasts"
    assert about["boundary_width"] == 1 and about["boundary_variables"] == ["T2M"]


def test_a_run_that_ends_too_early_gives_way_to_one_that_reaches_the_end_and_none_is_refused(store, tmp_path):
    edge = boundary(write_forecasts(tmp_path / "f.zarr", [hour(-6), hour(0)], [0, 3, 6, 9, 12]), store)
    edge.host.dataset = None  # nothing is read to choose a run
    for init, steps, used in ((0, 12, 1), (-1, 7, 0)):
        edge.refuse_missing(np.array([hour(init)]), LEAD, steps, "x")
        assert edge.host.runs[edge.runs[int(hour(init).astype("int64"))]] == hour(-6 + 6 * used)
    for init, steps in ((0, 13), (-7, 1)):
        with pytest.raises(ValueError, match=r"got runs from 2024-05-19T18:00 to .* of 0 to 12 h, expected one that"):
            edge.refuse_missing(np.array([hour(init)]), LEAD, steps, "x")


def test_members_of_an_ensemble_are_refused_by_name(store, tmp_path):
    with pytest.raises(ValueError, match="got t2m over number, longitude, latitude, expected arrays"):
        boundary(write_forecasts(tmp_path / "f.zarr", [hour(0)], [0, 1], members=3), store)


# ---- the commands


def persistent(monkeypatch, store, run_dir, **constants):
    """best.pt of a run that never learns: its forecasts are persistence."""
    monkeypatch.setattr(train_deterministic.Optimizer, "step", lambda self, *_: self.clear())
    assert train(store, run_dir, **constants) == 0
    return run_dir / "best.pt"


def test_a_forecast_has_the_edge_of_the_boundary_store_at_every_step(tmp_path, monkeypatch, command):
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)], NAMES)
    outer = write_store(tmp_path / "b.zarr", lambda n, t: weather(n, t) + 2, [hour(n) for n in range(20, 50)], NAMES)
    best, out = persistent(monkeypatch, path, tmp_path / "run"), tmp_path / "f.zarr"
    arguments = ("--checkpoint", best, "--zarr", path, "--out", out, "--init_time", hour(36), "--boundary", outer)
    code, _, err = command(infer_iterative, *arguments, "--hours", 4)
    assert code == 0, err
    forecast = xr.open_zarr(out)
    assert forecast.attrs["boundary"] == str(outer)
    for name in NAMES:
        for k in range(1, 5):
            field = forecast[name][0, k].values
            assert np.allclose(field[EDGE], weather(name, hour(36 + k))[EDGE] + 2, atol=1e-3), (name, k)
            assert np.allclose(field[INNER], weather(name, hour(36))[INNER], atol=1e-3), (name, k)


def test_training_refuses_a_boundary_store_that_ends_too_early(tmp_path, command):
    path = write_store(tmp_path / "s.zarr", weather, [hour(n) for n in range(40)], NAMES)
    short = write_store(tmp_path / "b.zarr", weather, [hour(n) for n in range(20)], NAMES)
    arguments = ("--zarr", path, "--run_dir", tmp_path / "run", "--boundary", short, "--epochs", 5, *TINY)
    code, _, err = command(train_deterministic, *arguments)
    assert code == 2 and err.count("\n") == 1 and "b.zarr has no 2024-05-20T20:00" in err and "Fix: " in err
    assert not (tmp_path / "run").exists()


@pytest.mark.real_data
def test_arome_with_arpege_at_its_edge(real, tmp_path):
    """Sea level pressure of a regional model with its real host, four times coarser."""
    opened = (xr.open_dataset(real / f"{model}_nw_25h.nc")[["msl"]] for model in ("arome", "arpege"))
    arome, arpege = (ds.drop_encoding().astype("f4") for ds in opened)
    sparse = arome.isel(latitude=slice(None, None, 8), longitude=slice(None, None, 8))  # 29 x 40 cells
    for name, ds in (("arome", sparse), ("arpege", arpege)):
        ds.to_zarr(tmp_path / f"{name}.zarr", consolidated=False)
    grid = read_grid(sparse, ("latitude", "longitude"))
    index, weight = bilinear(
        read_grid(arpege, ("latitude", "longitude")), grid.latitude.ravel(), grid.longitude.ravel()
    )
    host = np.einsum("kts,ks->ts", arpege.msl.values.reshape(25, -1)[:, index].swapaxes(0, 1), weight)
    host = host.reshape(sparse.msl.shape)
    assert np.sqrt(((host - sparse.msl.values) ** 2).mean()) < 30  # Pa
    outer = str(tmp_path / "arpege.zarr")
    assert train(tmp_path / "arome.zarr", tmp_path / "run", history=0, epochs=5, batch_size=4, boundary=outer) == 0
    best = tmp_path / "run" / "best.pt"
    forecast = infer_iterative.forecast(best, tmp_path / "arome.zarr", "2018-05-01T12", 6, outer)
    field, edge = forecast.msl.values[0, 1:], np.ones(grid.shape, bool)
    edge[1:-1, 1:-1] = False
    assert forecast.attrs["boundary_width"] == 2 and np.isfinite(field).all()
    np.testing.assert_allclose(field[:, edge], host[13:19][:, edge], atol=0.1)


# ---- roll-out training, with and without a boundary

SLOPE = 1 + 0.5 * np.random.default_rng(0).normal(size=(12, 16)).clip(-1.5, 1.5)


def rising(name: str, time: np.datetime64) -> np.ndarray:
    """Each cell warms by its SLOPE in K per hour, so persistence over k hours has an error of k SLOPE."""
    return 250 + SLOPE * float((time - hour(0)) / np.timedelta64(1, "h"))


@pytest.mark.parametrize("boundary", [False, True])
def test_the_last_epochs_train_every_lead_from_the_models_own_forecasts(boundary, tmp_path, monkeypatch):
    path = write_store(tmp_path / "s.zarr", rising, [hour(n) for n in range(40)])
    errors, loss = [], train_deterministic.WeatherLoss.__call__

    def spy(self, error, *rest):
        errors.append(-error[0, 0].numpy())
        return loss(self, error, *rest)

    monkeypatch.setattr(train_deterministic.WeatherLoss, "__call__", spy)
    best = persistent(monkeypatch, path, tmp_path / "run", epochs=5, rollout_epochs=1, validate_every=5, noise=0.0,
                      flip=False, boundary=str(path) if boundary else "")  # fmt: skip
    checkpoint = torch.load(best, weights_only=True)
    pairs, change = checkpoint["split"]["pairs"]["train"], checkpoint["statistics"]["T2M"]["change_std"]
    late = np.array(errors) * change / SLOPE  # hours by which each cell of the prediction is late
    steps = 3 * -(-pairs // 3)  # roll-outs of three hours, with as many gradients as an epoch of pairs
    assert np.allclose(late[-4 * pairs - steps : -steps], 1, atol=1e-3)  # four epochs of pairs
    leads = late[-steps:, INNER].mean(axis=1).round()
    assert leads.tolist() == [1, 2, 3] * (steps // 3) and np.allclose(late[-steps:, INNER], leads[:, None], atol=1e-3)
    # the edge of a forecast of k - 1 hours is the truth: only the last hour is missing in it
    assert np.allclose(late[-steps:, EDGE], 1 if boundary else leads[:, None], atol=1e-3)

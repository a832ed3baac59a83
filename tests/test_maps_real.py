"""Every figure of plotting/ on real weather."""

from importlib.util import find_spec

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from data.metadata import coordinates_of
from data.sources.grib import decode, locate, scan
from data.variables import lookup
from plotting.animate import animate
from plotting.borders import COAST, Plane
from plotting.maps import convection_map, field_map, forecast_panels, wind_map
from plotting.point import meteogram
from plotting.records import coverage, distributions
from tests.test_maps import draw, texts


@pytest.mark.real_data
def test_the_whole_of_hrrr_is_drawn_with_its_coasts(real):
    path = next((real / "hrrr_conus").glob("*.grib2"))
    message = next(m for m in scan(path) if m.matches(lookup("REFC")))
    grid = locate(message)
    coordinates = coordinates_of(grid) | {
        "init_time": message.reference_time,
        "lead_time": message.lead_time,
    }
    field = xr.DataArray(decode(message), coordinates, ("y", "x"), "REFC")
    figure = field_map(field)
    assert "init 2022-10-14 01:00, +15 min, valid 2022-10-14 01:15 UTC" in texts(draw(figure))
    coast = next(c for c in figure.axes[0].collections if c.get_label() == f"borders {COAST}")
    plane = Plane(grid.x / 1000, grid.y / 1000, grid.latitude, grid.longitude)
    cape_cod = np.ravel(plane(np.array([-69.97]), np.array([41.78])))  # Marconi beach
    assert plane.misfit < 0.05
    corners = np.concatenate(coast.get_segments())
    assert np.hypot(*(corners - cape_cod).T).min() < 6  # km


@pytest.mark.real_data
def test_real_fields_of_every_kind_are_drawn(real):
    files = {"uk": "era5_uk_t2m_744h.nc", "plains": "era5_plains_25h.nc", "radar": "fmi_dbz_20160928.nc",
             "washita": "nldas_washita_120h.nc"}  # fmt: skip
    one = {k: xr.open_dataset(real / f, engine="netcdf4").isel(time=12).load() for k, f in files.items()}
    uk = draw(field_map(one["uk"].t2m))
    assert "valid 2019-03-01 12:00 UTC" in texts(uk) and uk.axes[0].images[0].origin == "upper"
    assert any(c.get_label() == f"borders {COAST}" for c in uk.axes[0].collections)
    assert draw(wind_map(one["plains"], "d2m")).axes[0].get_xticks().size
    radar = draw(field_map(one["radar"].dbz, "HomeyerRainbow" if find_spec("cmweather") else "cividis"))
    assert radar.axes[0].images[0].get_array().mask.any() and "no echo" not in texts(radar)
    assert "Temp: 2 m temperature, wind barbs in knots" in texts(draw(wind_map(one["washita"], "Temp")))


def as_forecast(fields: xr.Dataset) -> xr.Dataset:
    """The times of a real data set as the lead times of one perfect forecast of it."""
    times = fields["time"].values
    fields = fields.rename(time="lead_time").assign_coords(lead_time=times - times[0])
    return fields.expand_dims(init_time=times[:1])


@pytest.mark.real_data
def test_panels_and_animation_of_a_real_radar_every_five_minutes_with_masked_cells(real, tmp_path):
    radar = xr.open_dataset(real / "fmi_dbz_20160928.nc", engine="netcdf4")[["dbz"]]
    radar = radar.isel(time=slice(0, 3), y=slice(300, 700, 4), x=slice(0, 500, 4)).load()  # its western edge
    forecast = as_forecast(radar)
    panels = draw(forecast_panels(forecast, radar, "dbz", forecast.lead_time.values[1:])).axes
    assert panels[4].get_ylabel() == "+10 min, valid\n2016-09-28\n14:55 UTC"
    error = panels[7].images[0].get_array()
    assert error.mask.any() and np.all(error.compressed() == 0) and not np.all(error.mask)
    assert np.array_equal(error.mask, np.isnan(radar.dbz[2]))
    animate(tmp_path / "radar.gif", forecast, "dbz", truth=radar, dpi=30)
    with Image.open(tmp_path / "radar.gif") as picture:
        assert picture.n_frames == 3


@pytest.mark.real_data
def test_meteogram_coverage_and_distributions_of_real_reanalyses(real):
    plains = xr.open_dataset(real / "era5_plains_25h.nc", engine="netcdf4").load()
    axes = draw(meteogram(as_forecast(plains), 35.2, -97.4, truth=plains)).axes
    norman = plains.sel(latitude=35.25, longitude=-97.5, method="nearest")
    assert [a.get_ylabel() for a in axes] == ["K", "m s⁻¹"] and np.array_equal(axes[0].lines[0].get_ydata(), norman.d2m)
    assert np.allclose(axes[1].lines[1].get_ydata(), np.hypot(norman.u10, norman.v10))
    uk = xr.open_dataset(real / "era5_uk_t2m_744h.nc", engine="netcdf4")
    assert coverage(uk).get_suptitle() == "744 times, no gaps"
    assert draw(distributions(uk, times=4)).axes[0].get_xlabel() == "K"


@pytest.mark.real_data
def test_cape_and_cin_of_a_real_hrrr_file_are_drawn(real):
    messages = scan(real / "hrrr_grib" / "hrrr.20180722" / "hrrr.t21z.wrfsfcf01.grib2")
    fields = {n: next(m for m in messages if m.matches(lookup(n))) for n in ("CAPE", "CIN")}
    arrays = {n: (("y", "x"), decode(m)) for n, m in fields.items()}
    store = xr.Dataset(arrays, coordinates_of(locate(fields["CAPE"])) | {"time": fields["CAPE"].valid_time})
    figure = draw(convection_map(store))
    assert "valid 2018-07-22 22:00 UTC" in texts(figure) and np.array_equal(
        figure.axes[0].images[0].get_array(), store.CAPE
    )

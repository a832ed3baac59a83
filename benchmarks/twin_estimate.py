"""The perfect-model twin's estimate of the hidden state from the stored variables, for benchmarks/twin.py.

The twin knows the generator's equations, spectra and terrain (`make_place`) and its climate in other seeds
(benchmarks/twin.py). `estimate` is given the stored variables at one or a few consecutive hours, and nothing else of
the record. It varies random fields, air, storms, cycles and what joins the random fields in between until the state's
`diagnose` agrees with them: weak-constraint 4D-Var (Le Dimet and Talagrand 1986; Trémolet 2006 for the model's error)
in control variables of unit variance, with PyTorch's gradients through `carry` as the adjoint.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad, softplus

from data.storm_physics import CYCLES, MARGIN, RANDOM, State, World, carry, diagnose, hourly_spread
from data.synthetic_storms import make_world, spectrum

HOUR = np.timedelta64(1, "h")
INNER = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
# Standard deviation of the analysis error, white in space: dBZ where there is echo, K, m/s, shares of CAPE and CIN.
ERROR = {"REFC": 1.0, "T2M": 0.3, "D2M": 0.3, "U10": 0.3, "V10": 0.3, "CAPE": 0.05, "CIN": 0.05}
LEAST = {"CAPE": 30.0, "CIN": 2.0}  # J/kg that the twin adds to their error: where they vanish, a share says nothing
# Prior of what is no random field of the generator: (slope of the spectrum, largest scale in cells) of its departures.
LOCAL = {"temperature": (2.4, 60), "dew": (2.4, 60), "pool": (2.4, 15), "updraught": (2.0, 8), "rain": (2.0, 8),
         "sheet": (2.0, 8)}  # fmt: skip
ROBUST = 3.0  # misfits above so many standard deviations count linearly: gust fronts a cell out of place
POWER = 0.2  # of the preconditioner: 0.5 would scale the Hessian's diagonal to 1, and trusts it too much


# --- what the twin knows beforehand ---


def make_place(size: int, seed: int) -> World:
    """Terrain and spectra, which every seed shares, without any cycles: whoever asks for them fails."""
    return replace(make_world(size, seed), periods=None, phases=None)


def clock_hour(when: np.datetime64) -> int:
    return int((when - when.astype("datetime64[D]")) // HOUR)


def wet_of(refc: Tensor) -> Tensor:
    """Rain (mm/h) that `diagnose` shows as a reflectivity (dBZ); 0 where there is no echo."""
    return ((10 ** (refc / 10) - 0.1).clamp(min=0) / 200) ** (1 / 1.6) + 0.005 * (refc > -9.9)


def storm_guess(wet: Tensor) -> tuple[Tensor, Tensor]:
    """Median updraught and stratiform rain (mm/h) under so much rain (mm/h), fitted to seeds 1001 to 1003."""
    return 0.05 * wet**0.5 + 0.004 * wet**1.1, torch.minimum(0.27 * wet**0.48, wet)


# --- the estimate ---


def estimate(place: World, climate: dict, analyses: list[dict], times: list, iterations: int) -> tuple[World, State]:
    """World (with its cycles) and state at times[-1], from the stored variables at hourly `times` and nothing else.

    place: as from `make_place`; with `slow` set, the cycles are taken as known.
    """
    control = Control(place, climate, times, wet_of(analyses[0]["REFC"]))
    control.precondition(misfits(*control.run(), times, analyses))
    solver = torch.optim.LBFGS(control.leaves, max_iter=iterations, history_size=15, line_search_fn="strong_wolfe",
                               tolerance_grad=0, tolerance_change=0)  # fmt: skip

    def cost() -> Tensor:
        solver.zero_grad()
        e = misfits(*control.run(), times, analyses) / ROBUST
        j = ROBUST**2 * (torch.sqrt(1 + e**2) - 1).sum() + 0.5 * sum(x.square().sum() for x in control.white())
        j.backward()
        return j

    solver.step(cost)
    with torch.no_grad():
        world, states = control.run()
        return world, fit_storms(states[-1], wet_of(analyses[-1]["REFC"]))


class Control:
    """What is varied: numbers of unit variance a priori, from which `run` makes the states at the times of the window.

    modes (F + L, M, M/2+1, 2): random fields and LOCAL departures at the first hour; news (T-1, F, M, M/2+1, 2): what
    joins the random fields in each hour; slow (6,): the cycles.
    """

    def __init__(self, place: World, climate: dict, times: list, wet: Tensor):
        m = place.amplitude.shape[1]
        k = torch.hypot(torch.fft.fftfreq(m)[:, None], torch.fft.rfftfreq(m)[None, :])
        self.place, self.climate, self.times = place, climate[clock_hour(times[0])], times
        self.wet = mirrored(wet)
        self.amplitude = torch.cat([place.amplitude, torch.stack([spectrum(k, *v) for v in LOCAL.values()])])
        self.spread = hourly_spread(place)
        modes, news = torch.zeros(*self.amplitude.shape, 2), torch.zeros(len(times) - 1, *self.spread.shape, 2)
        leaves = [modes, news] + ([torch.zeros(len(CYCLES))] if place.slow is None else [])
        self.leaves, self.scale = [x.requires_grad_() for x in leaves], [torch.ones(()) for _ in leaves]

    def white(self) -> list[Tensor]:
        """The control variables with unit variance: the solver's, scaled by the preconditioner."""
        return [x * s for x, s in zip(self.leaves, self.scale, strict=True)]

    def run(self) -> tuple[World, list[State]]:
        """The world with the cycles in it, and the states at the times."""
        modes, news, *slow = self.white()
        world = replace(self.place, slow=dict(zip(CYCLES, slow[0].double(), strict=True))) if slow else self.place
        coefficients = self.amplitude * torch.view_as_complex(modes) * 0.5**0.5
        states = [self.first(world, coefficients)]
        for when, new in zip(self.times[:-1], news, strict=True):
            innovation = self.spread * torch.view_as_complex(new) * 0.5**0.5
            states.append(carry(world, states[-1], when, innovation))
        return world, states

    def first(self, world: World, coefficients: Tensor) -> State:
        """The state at the first time: climate, rain as analysed, and the departures from both."""
        n, m = self.wet.shape[0], self.amplitude.shape[1]
        fields = torch.fft.irfft2(coefficients, s=(m, m), norm="forward")[:, :n, :n]
        mass = dict(zip([*RANDOM, *LOCAL], fields, strict=True))
        (t, t_air, t_rest), (d, d_moisture, d_rest) = self.climate
        temperature = t + world.slow["warmth"] + t_air * mass["air"] + t_rest * mass["temperature"]
        dew = d + 0.7 * world.slow["dew"] + d_moisture * torch.tanh(1.2 * mass["moisture"] + 0.2) + d_rest * mass["dew"]
        under = torch.where(self.wet > 0.005, 1.9 * self.wet**0.22, -1.0)  # K, the usual pool under so much rain
        pool = softplus(under + 2 * mass["pool"], beta=2)
        updraught, sheet = storm_guess(self.wet)
        rain = (self.wet - sheet) * torch.exp(0.2 * mass["rain"])
        storm = (updraught * torch.exp(0.5 * mass["updraught"]), rain, sheet * torch.exp(0.4 * mass["sheet"]))
        still = torch.zeros(2, 2, dtype=torch.float64)
        return State(coefficients[: len(RANDOM)], still, torch.stack([temperature, dew, pool]), torch.stack(storm))

    def precondition(self, e: Tensor, probes: int = 4) -> None:
        """Scales each variable by (1 + h)**-POWER, h the Gauss-Newton Hessian's diagonal, from random probes of `e`.

        For a random sign s the square of the gradient of s . e is h in the mean (Bekas, Kokiopoulou and Saad 2007);
        that of misfits beyond ROBUST is damped, and neighbouring coefficients are averaged.
        """
        rng, e = torch.Generator().manual_seed(0), e / (1 + (e.detach() / ROBUST) ** 2) ** 0.5
        signs = [torch.randint(0, 2, e.shape, generator=rng) * 2.0 - 1 for _ in range(probes)]
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        slopes = [torch.autograd.grad((s * e).sum(), self.leaves, **options) for s in signs]
        for i, slope in enumerate(zip(*slopes, strict=True)):
            h = torch.stack(slope).square().mean(0)
            if h.dim() > 1 and h.numel():
                planes = h.mean(-1).reshape(1, -1, *h.shape[-3:-1])
                h = avg_pool2d(pad(planes, (2, 2, 2, 2), mode="replicate"), 5, 1).reshape(*h.shape[:-1], 1)
            self.scale[i] = (1 + h) ** -POWER


def mirrored(field: Tensor) -> Tensor:
    """A (size, size) field with its mirror image in the margin: storms outside are as many as near the edge."""
    size = field.shape[0]
    cell = torch.arange(-MARGIN, size + MARGIN) % (2 * size)
    cell = torch.minimum(cell, 2 * size - 1 - cell)
    return field[cell][:, cell]


def misfits(world: World, states: list[State], times: list, analyses: list[dict]) -> Tensor:
    """(T, 7, size, size): differences of the states from the analyses, in units of the stated error.

    Reflectivity is compared as log(rain + 0.3 mm/h), which has a slope where there is no echo, too.
    """
    out = []
    for state, when, seen in zip(states, times, analyses, strict=True):
        fields = diagnose(world, state, when)
        wet = state.storm[1:].sum(0)[INNER]
        e = {"REFC": (torch.log(wet + 0.3) - torch.log(wet_of(seen["REFC"]) + 0.3)) / 0.2}
        for name in seen.keys() - {"REFC"}:
            sigma = ERROR[name] * (seen[name].abs() if name in LEAST else 1) + LEAST.get(name, 0)
            e[name] = (fields[name][INNER] - seen[name]) / sigma
        out.append(torch.stack([e[name] for name in ERROR]))
    return torch.stack(out)


def fit_storms(state: State, wet: Tensor) -> State:
    """The state with the analysed rain (size, size) mm/h: scaled where it has about as much, else the usual storm."""
    updraught, rain, sheet = state.storm.clone()
    u, have, part = updraught[INNER], (rain + sheet)[INNER], sheet[INNER]
    usual_u, usual_sheet = storm_guess(wet)
    ratio = (wet + 0.05) / (have + 0.05)
    elsewhere = (ratio.log().abs() > 1) & (wet > 0.3)
    scaled = torch.where(have > 0.05, wet * part / have.clamp(min=0.05), usual_sheet)
    updraught[INNER] = torch.where(elsewhere, usual_u, u * ratio.clamp(0.4, 2.5) ** 0.5)
    sheet[INNER] = torch.where(elsewhere, usual_sheet, torch.minimum(scaled, wet))
    rain[INNER] = wet - sheet[INNER]
    return replace(state, storm=torch.stack([updraught, rain, sheet]))

"""The choices that benchmarks/ablation.py switches, each alone, relative to its reference set.

Most are constants of train_deterministic.py. What the product has no constant for is replaced in the process of the
benchmark: `patches` are (object, attribute, value), and the same ones hold while the result is scored.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import data.forcing
import data.normalise
import losses.spectral
import models.layers
import models.sharpen
import models.unet
import models.warp
import train_deterministic
import train_step
import training.schedule
from data.variables import Variable, lookup
from losses.weather import WEIGHTS, WeatherLoss
from models.layers import Block, ChannelNorm, Conv, enlarge
from models.unet import THIN, ResidualUNet


@dataclass(frozen=True)
class Choice:
    """One row: what differs from the reference."""

    text: str
    constants: dict = field(default_factory=dict)  # of train_deterministic.py
    patches: tuple[tuple, ...] = ()
    rollout_parts: int = 1  # fifths of the steps that train on the model's own forecasts
    needs: tuple[str, ...] = ()  # variables one of which a store must have for the choice to matter

    def changes(self, base) -> bool:
        """Whether it differs from the reference set at all."""
        return replace(base, **self.constants) != base or bool(self.patches) or self.rollout_parts != 1


def choices(base) -> dict[str, Choice]:
    """By name; `base` has the reference set's constants."""
    rates = {"lr": base.lr, "muon_lr": base.muon_lr}
    piled = ("REFC", "CAPE", "CIN")
    set_reference, forcing_call = WeatherLoss.set_reference, data.forcing.Forcing.__call__
    amounts = lambda weight: {"amplitude": weight, "rollout_amplitude": weight}  # noqa: E731
    every = {
        "reference": Choice("the reference set"),
        # --- what the model sees and is
        "history_0": Choice("the present hour alone", {"history": 0}),
        "history_1": Choice("one hour before it", {"history": 1}),
        "history_2": Choice("two hours before it", {"history": 2}),
        "history_24": Choice("the whole day before it", {"history": 24}),
        "regression_on": Choice("a linear regression on the hours seen, beside the network", {"regression": True}),
        "day_regression": Choice("the whole day before it, and that regression", {"history": 24, "regression": True}),
        "base_half": Choice("half the features", {"base_features": base.base_features // 2}),
        "base_double": Choice("twice the features", {"base_features": base.base_features * 2}),
        "levels_less": Choice("one level less", {"levels": base.levels - 1}),
        "levels_more": Choice("one level more", {"levels": base.levels + 1}),
        "blocks_less": Choice("half the blocks on the coarsest cells", {"blocks": max(base.blocks // 2, 1)}),
        "blocks_more": Choice("half as many blocks again on them", {"blocks": base.blocks * 3 // 2}),
        "blocks_even": Choice("two blocks on every level, down and up", patches=((ResidualUNet, "__init__", even()),)),
        "rise_after": Choice(
            "enlarge, then convolve, on the way up",
            patches=((ResidualUNet, "rise", lambda self, conv, x: conv(enlarge(x, 2))),),
        ),
        "advected_off": Choice("no advected base: warp gives the field back", patches=((models.unet, "warp", stay),)),
        "warp_bilinear": Choice("advected base by bilinear interpolation", patches=((models.warp, "F", BILINEAR),)),
        "refine_off": Choice("no refinement at full resolution", patches=((ResidualUNet, "__init__", unrefined()),)),
        "pixel_shuffle": Choice(
            "last upsampling by pixel shuffle (ICNR weights)",
            patches=((ResidualUNet, "__init__", shuffled()), (ResidualUNet, "widen", shuffle)),
        ),
        "norm_off": Choice("no normalisation in the blocks", patches=((ChannelNorm, "forward", only_weight),)),
        "zero_padding": Choice("zeros beyond the edge", patches=((models.layers, "F", ZERO_PADDING),)),
        "forcing_off": Choice(
            "sun, clock and terrain set to zero",
            patches=(
                (data.forcing.Forcing, "__call__", lambda self, *t: tuple(0 * x for x in forcing_call(self, *t))),
            ),
        ),
        "roots_off": Choice(
            "CAPE and CIN without square roots", needs=("CAPE", "CIN"),
            patches=((data.normalise, "lookup", retransformed(sqrt="floor0", negative_sqrt="identity")),),
        ),
        "floor_off": Choice(
            "no echo stays at the source's value", needs=("REFC",),
            patches=((data.normalise, "lookup", retransformed(floor0="identity")),),
        ),
        "leak_on": Choice(
            "a learned leak towards the mean by variable",
            patches=((ResidualUNet, "__init__", leaking()), (ResidualUNet, "forward", leaked(ResidualUNet.forward))),
        ),
        "tendency_off": Choice(
            "the change in units of the state, not of its own",
            patches=((data.normalise.Statistics, "scale", property(lambda s: torch.ones_like(s.std)[:, None, None])),),
        ),
        # --- the loss
        "width_0": Choice("L1, MSE, gradient see every scale, on pairs", {"width": 0.0}),
        "rollout_width_0": Choice("and in roll-outs", {"rollout_width": 0.0}),
        "rollout_width_4": Choice("half the width in roll-outs", {"rollout_width": 4.0}),
        "widths_0": Choice("L1, MSE, gradient see every scale, in both", {"width": 0.0, "rollout_width": 0.0}),
        "amplitude_2": Choice("a sixth of the weight on the amount of detail", amounts(2.0)),
        "amplitude_36": Choice("three times the weight on the amount of detail", amounts(36.0)),
        "amplitude_0": Choice("amount of detail left free", amounts(0.0)),
        "rollout_amplitude_36": Choice("and that in roll-outs alone", {"rollout_amplitude": 36.0}),
        "change_off": Choice("amount of change left free", patches=((losses.spectral, "CHANGE", 0.0),)),
        "change_triple": Choice("three times the weight on it", patches=((losses.spectral, "CHANGE", 3.0),)),
        "edge_triple": Choice("errors in the outermost cells count three times", {"edge_weight": 3.0}),
        "amounts_single": Choice(
            "amount of detail compared tile by tile", patches=((losses.spectral, "amount", lambda power: power),)
        ),
        "amounts_roots": Choice(
            "amplitudes compared, not powers",
            patches=((losses.spectral, "apart", lambda p, t: (p.sqrt() - t.sqrt()).square()),),
        ),
        "references_off": Choice(
            "terms not divided by those of persistence", patches=((WeatherLoss, "set_reference", lambda *_: None),)
        ),
        "bands_together": Choice(
            "spectral term divided as a whole, not by band",
            patches=((WeatherLoss, "set_reference", one_unit(set_reference)),),
        ),
        "edge_mask": Choice(
            "loss without the outer 8 % of the domain",
            patches=((WeatherLoss, "terms", inside(WeatherLoss.terms)),),
        ),
        "spectral_off": Choice(
            "no spectral term", patches=((train_deterministic, "WeatherLoss", without("spectral")),)
        ),
        "censor_off": Choice(
            "values beyond a bound count as errors", needs=piled,
            patches=((train_step, "censor", lambda statistics: lambda pred, *_: pred),),
        ),
        # --- the training
        "rollout_off": Choice("no roll-out fine-tuning", rollout_parts=0),
        "rollout_40": Choice("40 % of the steps in roll-outs", rollout_parts=2),
        "analyses_off": Choice(
            "chains train at random steps only", patches=((training.schedule, "FROM_ANALYSES", 0.0),)
        ),
        "rollout_short": Choice("roll-outs of half the length", {"rollout_hours": base.rollout_hours / 2}),
        "rollout_long": Choice("roll-outs of twice the length", {"rollout_hours": base.rollout_hours * 2}),
        "rollout_lr_half": Choice("half the rate in roll-outs", {"rollout_lr": base.rollout_lr / 2}),
        "rollout_lr_double": Choice("twice the rate in roll-outs", {"rollout_lr": base.rollout_lr * 2}),
        "muon_off": Choice("AdamW for all weights", {"muon_lr": 0.0}),
        "lr_half": Choice("half the learning rates", {k: v / 2 for k, v in rates.items()}),
        "lr_double": Choice("twice the learning rates", {k: v * 2 for k, v in rates.items()}),
        "batch_half": Choice("half the batch", {"batch_size": max(base.batch_size // 2, 1)}),
        "batch_double": Choice("twice the batch", {"batch_size": base.batch_size * 2}),
        "accumulate_1": Choice("no accumulation", {"accumulate": 1}),
        "half_on": Choice("training in bfloat16 on processors with matrix units for it", {"half": True}),
        "ema_off": Choice("no averaged weights", patches=((training.schedule, "ema_decay", lambda n: 0.0),)),
        "flip_off": Choice("no mirrors", {"flip": False}),
        "flip_on": Choice("mirrors", {"flip": True}),
        "shift_on": Choice("coarse cells that lie anywhere", {"shift": True}),
        "sharpen_on": Choice("detail that a step loses given back", {"sharpen": True}),
        "sharpen_no_rim": Choice(
            "the same, the gains of the inside near the edge too", {"sharpen": True},
            patches=((models.sharpen, "rim_power", models.sharpen.power),),
        ),
        "restrain_on": Choice("what validation does not prove held", {"restrain": True}),
        "season_0": Choice("the day of the year told as it is", {"season": 0.0}),
        "noise_0": Choice("no noise on the input", {"noise": 0.0}),
        "noise_double": Choice("twice the noise", {"noise": base.noise * 2}),
        "decay_0": Choice("no weight decay", {"weight_decay": 0.0}),
        "clip_off": Choice("no gradient clipping", {"clip": 1e9}),
        "warmup_0": Choice("no warm-up", {"warmup": 0.0}),
    }  # fmt: skip
    return {n: c for n, c in every.items() if n == "reference" or c.changes(base)}


# --- what the patched choices put in place ---


def stay(fields: Tensor, flow: Tensor) -> Tensor:
    """The warp without transport."""
    return fields.float()


def only_weight(norm: ChannelNorm, x: Tensor) -> Tensor:
    return x * norm.weight[:, None, None].to(x.dtype)


BILINEAR = SimpleNamespace(
    **{**vars(F), "grid_sample": lambda x, grid, mode, *rest, **more: F.grid_sample(x, grid, "bilinear", *rest, **more)}
)
ZERO_PADDING = SimpleNamespace(**{**vars(F), "pad": lambda x, sides, mode: F.pad(x, sides)})


def even() -> Callable:
    """ResidualUNet's __init__ with two blocks on every level on either way."""
    made = ResidualUNet.__init__

    class Pair(nn.ModuleList):
        def forward(self, x: Tensor, clock: Tensor) -> Tensor:
            return self[1](self[0](x, clock), clock)

    def init(self, *args, **kwargs) -> None:
        made(self, *args, **kwargs)

        def another(like: Block) -> Block:
            return Block(like.conv1.shape[0], like.clock.in_features)

        firsts = [blocks[0] for blocks in self.encoder]
        self.encoder = nn.ModuleList(nn.ModuleList([first, another(first)]) for first in firsts)
        self.decoder = nn.ModuleList(Pair([block, another(block)]) for block in self.decoder)

    return init


def unrefined() -> Callable:
    """ResidualUNet's __init__ with a refinement that hands the coarse features on, twice each, to the head."""
    made = ResidualUNet.__init__

    class Coarse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :THIN].repeat(1, 2, 1, 1)

    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    def init(self, *args, **kwargs) -> None:
        made(self, *args, **kwargs)
        self.refine = nn.ModuleList([Coarse(), Nothing()])

    return init


def shuffled() -> Callable:
    """ResidualUNet's __init__ with four times the features before a pixel shuffle, equal in fours (ICNR, Aitken et al.
    2017)."""
    made = ResidualUNet.__init__

    def init(self, *args, **kwargs) -> None:
        made(self, *args, **kwargs)
        inputs = self.expand.shape[1]
        self.expand = Conv(inputs, 4 * THIN)
        with torch.no_grad():
            self.expand.weight.copy_(self.expand.weight[::4].repeat_interleave(4, dim=0))
            self.expand.bias.copy_(self.expand.bias[::4].repeat_interleave(4))

    return init


def shuffle(model: ResidualUNet, x: Tensor) -> Tensor:
    return F.pixel_shuffle(model.expand(x), 2)


def leaking() -> Callable:
    """ResidualUNet's __init__ with a leak that starts at 0."""
    made = ResidualUNet.__init__

    def init(self, channels, *args, **kwargs) -> None:
        made(self, channels, *args, **kwargs)
        self.leak = nn.Parameter(torch.zeros(channels, 1, 1))

    return init


def leaked(forward: Callable) -> Callable:
    """The change less `leak` times the state, which is an anomaly from the training mean."""

    def apply(self, states: Tensor, forcing: Tensor, clock: Tensor, **where) -> Tensor:
        return forward(self, states, forcing, clock, **where) - self.leak * states[:, -1] / self.scale[:, None, None]

    return apply


def inside(terms: Callable) -> Callable:
    """WeatherLoss.terms that does not see the outer 30 cells, or 8 % of the shorter side where that is less."""

    def apply(self, pred: Tensor, target: Tensor, valid: Tensor | None, *rest) -> dict[str, Tensor]:
        H, W = pred.shape[-2:]
        edge = max(1, min(30, int(0.08 * min(H, W))))
        kept = torch.zeros(pred.shape[1:], dtype=torch.bool, device=pred.device)
        kept[:, edge : H - edge, edge : W - edge] = True
        return terms(self, pred, target, kept if valid is None else valid & kept, *rest)

    return apply


def retransformed(**kinds: str) -> Callable[[str], Variable]:
    """The variables table as data/normalise.py sees it, with other transforms."""

    def look(name: str) -> Variable:
        variable = lookup(name)
        return replace(variable, transform=kinds.get(variable.transform, variable.transform))

    return look


def one_unit(set_reference: Callable) -> Callable:
    """WeatherLoss.set_reference with the mean over the bands as the unit of every band."""

    def apply(self, pairs, valid, width) -> None:
        set_reference(self, pairs, valid, width)
        unit = self.reference[width]["spectral"]
        self.reference[width]["spectral"] = unit.mean(dim=-1, keepdim=True).expand_as(unit)

    return apply


def without(term: str) -> Callable[..., WeatherLoss]:
    """WeatherLoss with one of its terms left out and the other weights raised to the same sum."""
    rest = {k: v for k, v in WEIGHTS.items() if k != term}
    weights = {k: v / sum(rest.values()) for k, v in rest.items()}
    return lambda spacing, amplitude, **more: WeatherLoss(spacing, amplitude, weights, **more)

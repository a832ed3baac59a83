"""The optimizers: Muon for the weight matrices between hidden features, AdamW for everything else."""

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic polynomial (Jordan et al. 2024)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates for weight matrices (Jordan et al. 2024).

    A convolution's weight (outputs, inputs, kernel, kernel) counts as the matrix (outputs, inputs * kernel**2). The
    update has the size of AdamW's (learning rate times 0.2 sqrt(max(rows, columns)), Liu et al. 2025). Unlike
    torch.optim.Muon it computes in float32 and takes all matrices of one size in one product: bfloat16 is emulated on
    processors without units for it, and a GPU waits for every operation.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for p in weights:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            gradients, averages = [p.grad for p in weights], [self.state[p]["momentum"] for p in weights]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            directions = torch._foreach_lerp(gradients, averages, group["momentum"])  # Nesterov's
            updates = orthogonalise([d.flatten(1) for d in directions])
            sizes = [-group["lr"] * 0.2 * max(u.shape) ** 0.5 for u in updates]
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_mul_(updates, sizes)
            torch._foreach_add_(weights, [u.view_as(p) for u, p in zip(updates, weights, strict=True)])


def orthogonalise(matrices: list[Tensor]) -> list[Tensor]:
    """The nearest semi-orthogonal matrix of each, roughly: singular values between 0.7 and 1.2.

    Newton-Schulz iterations X <- (a I + b G + c G^2) X with G = X X^T. The polynomials of G commute, so they are
    multiplied as square matrices, batched over matrices with equally many rows, and X is multiplied once. A matrix
    with more rows than columns is transposed.
    """
    wide = [m.float() if m.shape[0] <= m.shape[1] else m.float().mT for m in matrices]
    a, b, c = NEWTON_SCHULZ
    out: list[Tensor] = [None] * len(wide)
    for rows in sorted({len(m) for m in wide}):
        members = [i for i, m in enumerate(wide) if len(m) == rows]
        gram = torch.stack([wide[i] @ wide[i].mT for i in members])
        square = gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=1e-14)[:, None, None]  # squared Frobenius norm
        gram, product = gram / square, None
        identity = torch.eye(rows, device=gram.device)
        for _ in range(ITERATIONS):
            polynomial = torch.baddbmm(a * identity + b * gram, gram, gram, alpha=c)
            product = polynomial if product is None else polynomial @ product
            gram = polynomial @ gram @ polynomial
        for i, p in zip(members, product / square.sqrt(), strict=True):
            out[i] = p @ wide[i]
    return [o if m.shape[0] <= m.shape[1] else o.mT for o, m in zip(out, matrices, strict=True)]


class Optimizers:
    """Two optimizers that are stepped, scheduled, saved and restored as one.

    `matrices` are Muon's parameters; the rest is AdamW's.
    """

    def __init__(self, model: nn.Module, matrices: list[nn.Parameter], lr: float, muon_lr: float, weight_decay: float):
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
        self.parts = {"adamw": adamw}
        if muon_lr > 0:
            self.parts["muon"] = Muon(matrices, muon_lr, weight_decay)
        else:
            adamw.add_param_group({"params": matrices})

    def schedule(self, factor) -> None:
        """Let the learning rates follow factor(step), a function of the optimizer step."""
        self.schedules = {k: torch.optim.lr_scheduler.LambdaLR(o, factor) for k, o in self.parts.items()}

    @property
    def lr(self) -> float:
        """AdamW's present learning rate."""
        return self.schedules["adamw"].get_last_lr()[0]

    def skip(self) -> None:
        """Forget the gradients and advance the schedules: the weights stay as they are."""
        for name, optimizer in self.parts.items():
            optimizer.zero_grad(set_to_none=True)
            self.schedules[name].step()

    def step(self) -> None:
        """Update the weights, forget the gradients, advance the schedules."""
        for name, optimizer in self.parts.items():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.schedules[name].step()

    def state_dict(self) -> tuple[dict, dict]:
        """(state of the optimizers, state of their schedules), each by name."""
        return tuple({k: o.state_dict() for k, o in table.items()} for table in (self.parts, self.schedules))

    def load_state_dict(self, optimizers: dict, schedules: dict) -> None:
        for name in self.parts:
            self.parts[name].load_state_dict(optimizers[name])
            self.schedules[name].load_state_dict(schedules[name])
            factor, at = self.schedules[name].lr_lambdas[0], self.schedules[name].last_epoch
            rates = [base * factor(at) for base in self.schedules[name].base_lrs]  # by the factor that holds now
            for group, rate in zip(self.parts[name].param_groups, rates, strict=True):
                group["lr"] = rate
            self.schedules[name]._last_lr = rates

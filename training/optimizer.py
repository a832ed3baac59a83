"""The optimizer: Muon for the weight matrices between hidden features, AdamW for everything else."""

import copy

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic polynomial (Jordan et al. 2024)
ITERATIONS = 5
MUON = 2.0  # peak learning rate of Muon, relative to AdamW's


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
            weights, directions = ([last(x) for x in xs] for xs in (weights, directions))
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
            product = polynomial if product is None else torch.bmm(polynomial, product)
            gram = torch.bmm(torch.bmm(polynomial, gram), polynomial)
        for i, p in zip(members, product / square.sqrt(), strict=True):
            out[i] = p @ wide[i]
    return [o if m.shape[0] <= m.shape[1] else o.mT for o, m in zip(out, matrices, strict=True)]


def last(x: Tensor) -> Tensor:
    """The weight of a convolution (outputs, inputs, kernel, kernel) with the inputs last, as it lies in memory; other
    tensors as they are."""
    return x.movedim(1, -1) if x.dim() == 4 else x


class Optimizer:
    """Muon for a model's hidden matrices and AdamW for its other parameters, with clipping and averaged weights.

    model: float32 weights, `model.hidden_matrices()` gives Muon's. network: what runs forward and backward, the model
    itself or, in another precision, a copy of it. ema: the model with exponentially averaged weights. Operations are
    on all parameters at once: a GPU waits for Python at every one.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float, clip: float, dtype: torch.dtype):
        self.model, self.clip = model, clip
        self.network = model if dtype == torch.float32 else copy.deepcopy(model)
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.weights, self.working = list(model.parameters()), list(self.network.parameters())
        for p in self.working if self.network is not model else ():
            p.data = p.data.to(dtype)
        matrices = model.hidden_matrices()
        others = [p for p in self.weights if not any(p is m for m in matrices)]
        adamw = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
        self.parts = {"muon": Muon(matrices, MUON * lr, weight_decay), "adamw": adamw}
        self.peaks = {"muon": MUON * lr, "adamw": lr}
        for p in self.weights:
            p.grad = torch.zeros_like(p)

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of the network to those of the model, after a backward pass."""
        if self.network is not self.model:
            flat = torch.cat([last(p.grad).reshape(-1) for p in self.working]).float()
            parts = flat.split([p.numel() for p in self.weights])
            sums = [last(p.grad) for p in self.weights]
            torch._foreach_add_(sums, [g.view(s.shape) for g, s in zip(parts, sums, strict=True)])
            for p in self.working:
                p.grad = None

    @torch.no_grad()
    def clip_gradients(self) -> Tensor:
        """Scale the gradients to a norm of at most `clip`. Returns their norm before, (); it may not be finite."""
        gradients = [p.grad for p in self.weights]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (self.clip / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @torch.no_grad()
    def step(self, factor: float, decay: float) -> None:
        """Update the weights with the learning rates times `factor`, average them with `decay`, clear the gradients."""
        for name, part in self.parts.items():
            part.param_groups[0]["lr"] = factor * self.peaks[name]
            part.step()
        torch._foreach_lerp_(list(self.ema.parameters()), self.weights, 1 - decay)
        if self.network is not self.model:
            torch._foreach_copy_(self.working, self.weights)
        self.clear()

    def clear(self) -> None:
        """Forget the gradients."""
        torch._foreach_zero_([p.grad for p in self.weights])

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load(self, model: dict, ema: dict, optimizer: dict) -> None:
        """Go on from the entries of a checkpoint."""
        self.model.load_state_dict(model)
        self.ema.load_state_dict(ema)
        for name, part in self.parts.items():
            part.load_state_dict(optimizer[name])
        if self.network is not self.model:
            torch._foreach_copy_([p.data for p in self.working], [p.data for p in self.weights])

"""Transport of a field along a flow: the advected base of a forecast step."""

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(fields: Tensor, flow: Tensor) -> Tensor:
    """Move each field along its own flow: out(p) = field(p - flow(p)), backward semi-Lagrangian transport.

    fields (B, C, H, W); flow (B, 2, C, H, W) in cells per step, eastward (along W) first, then along H. Bicubic
    interpolation, because a bilinear one would take away detail at every step of a roll-out; beyond the edge the
    field is continued with its outermost value. Computed in float32; where the flow is 0 the field comes back
    unchanged. Returns (B, C, H, W).
    """
    B, C, H, W = fields.shape
    with torch.autocast(fields.device.type, enabled=False):
        fields, flow = fields.float(), flow.float()
        x = torch.arange(W, device=fields.device)[None, None, None, :] - flow[:, 0]
        y = torch.arange(H, device=fields.device)[None, None, :, None] - flow[:, 1]
        # grid_sample counts from -1 to 1 between the centres of the outermost cells
        grid = torch.stack([x * (2 / max(W - 1, 1)) - 1, y * (2 / max(H - 1, 1)) - 1], dim=-1)
        moved = F.grid_sample(
            fields.reshape(B * C, 1, H, W), grid.reshape(B * C, H, W, 2), "bicubic", "border", align_corners=True
        )
        moved = moved.reshape(B, C, H, W)
        # without motion the field is returned bit for bit; the difference of 0 keeps the gradient of the flow
        return torch.where((flow == 0).all(dim=1), fields + (moved - moved.detach()), moved)

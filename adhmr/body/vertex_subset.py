"""Skinning of a few vertices only: joints and errors do not always need the whole mesh."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adhmr.body.body_model import BodyModel, BodyOutput
from adhmr.body.kinematics import forward_kinematics
from adhmr.body.skeleton import NUM_BODY_JOINTS


class VertexSubset(nn.Module):
    """A body model that gives only some of its vertices, at a cost in proportion; called like BodyModel.

    Args:
        body: the whole body.
        count: how many vertices, evenly spread over the vertex order.
    """

    def __init__(self, body: BodyModel, count: int) -> None:
        super().__init__()
        chosen = torch.linspace(0, body.num_vertices - 1, count).round().long()
        ids = torch.cat([chosen, body.leaf_vertices.cpu()])
        layer = body.layer
        self.count = count
        self.rest_joints29 = body.rest_joints29
        self.register_buffer("template", layer.v_template[ids], persistent=False)  # (V, 3)
        self.register_buffer("shapedirs", layer.shapedirs[ids], persistent=False)  # (V, 3, 10)
        posedirs = layer.posedirs.view(layer.posedirs.shape[0], -1, 3)[:, ids].flatten(1)
        self.register_buffer("posedirs", posedirs, persistent=False)  # (207, 3 V)
        self.register_buffer("weights", layer.lbs_weights[ids], persistent=False)  # (V, 24)

    def forward(self, rotations: Tensor, betas: Tensor) -> BodyOutput:
        """rotations (B, 24, 3, 3), betas (B, 10) -> vertices (B, count, 3) and joints29 (B, 29, 3), metres."""
        batch = len(rotations)
        rest = self.rest_joints29(betas)[:, :NUM_BODY_JOINTS]
        global_rotations, joints = forward_kinematics(rotations, rest)
        identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        pose_features = (rotations[:, 1:] - identity).reshape(batch, -1)  # (B, 207)
        shaped = self.template + torch.einsum("vck,bk->bvc", self.shapedirs, betas)
        shaped = shaped + (pose_features @ self.posedirs).view_as(shaped)
        # Each joint carries a vertex as R_j (v - rest_j) + posed_j; skinning is the weighted mean of these.
        offsets = joints - (global_rotations @ rest.unsqueeze(-1)).squeeze(-1)  # (B, 24, 3)
        blended = torch.einsum("vj,bjrc->bvrc", self.weights, global_rotations)
        vertices = (blended @ shaped.unsqueeze(-1)).squeeze(-1) + self.weights @ offsets
        return BodyOutput(vertices[:, : self.count], torch.cat([joints, vertices[:, self.count :]], dim=1))

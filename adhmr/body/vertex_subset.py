"""Skinning of a few vertices only: joints and errors do not always need the whole mesh."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adhmr.body.body_model import BodyModel, BodyOutput
from adhmr.body.kinematics import forward_kinematics
from adhmr.body.skeleton import NUM_BODY_JOINTS

SKINNED_AT_ONCE = 4  # bodies, on a CPU: the twelve blended planes of that many stay in its cache


class VertexSubset(nn.Module):
    """A body model that gives only some of its vertices, at a cost in proportion; called like BodyModel.

    Args:
        body: the whole body.
        count: how many vertices, evenly spread over the vertex order; None for all of them, which costs a fraction of
            BodyModel's own pass over the mesh.
    """

    def __init__(self, body: BodyModel, count: int | None = None) -> None:
        super().__init__()
        self.count = body.num_vertices if count is None else count
        chosen = torch.linspace(0, body.num_vertices - 1, self.count).round().long()
        ids = torch.cat([chosen, body.leaf_vertices.cpu()])
        layer = body.layer
        self.rest_joints29 = body.rest_joints29
        # One plane of all vertices for each coordinate: skinning is then a few long products and sums.
        template = layer.v_template[ids].T  # (3, V)
        shapedirs = layer.shapedirs[ids].permute(2, 1, 0)  # (10, 3, V)
        posedirs = layer.posedirs.view(len(layer.posedirs), -1, 3)[:, ids].transpose(1, 2)  # (207, 3, V)
        self.register_buffer("template", template.flatten(), persistent=False)  # (3 V)
        self.register_buffer("directions", torch.cat([shapedirs, posedirs]).flatten(1), persistent=False)  # (217, 3 V)
        self.register_buffer("weights", layer.lbs_weights[ids].T.contiguous(), persistent=False)  # (24, V)

    def forward(self, rotations: Tensor, betas: Tensor) -> BodyOutput:
        """rotations (B, 24, 3, 3), betas (B, 10) -> vertices (B, count, 3) and joints29 (B, 29, 3), metres."""
        batch = len(rotations)
        rest = self.rest_joints29(betas)[:, :NUM_BODY_JOINTS]
        global_rotations, joints = forward_kinematics(rotations, rest)
        identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        features = torch.cat([betas, (rotations[:, 1:] - identity).reshape(batch, -1)], 1)  # (B, 217)
        shaped = torch.addmm(self.template, features, self.directions).view(batch, 3, 1, -1)
        # Each joint carries a vertex as R_j (v - rest_j) + posed_j; skinning is the weighted mean of these.
        offsets = joints - (global_rotations @ rest.unsqueeze(-1)).squeeze(-1)  # (B, 24, 3)
        carried = torch.cat([global_rotations, offsets.unsqueeze(-1)], -1).permute(0, 3, 2, 1)  # (B, 4, 3, 24)
        at_once = SKINNED_AT_ONCE if carried.device.type == "cpu" else max(batch, 1)
        planes = torch.cat([self._skin(*some) for some in zip(carried.split(at_once), shaped.split(at_once))])
        vertices = planes.transpose(1, 2)
        return BodyOutput(vertices[:, : self.count], torch.cat([joints, vertices[:, self.count :]], dim=1))

    def _skin(self, carried: Tensor, shaped: Tensor) -> Tensor:
        """What the joints do, (B, 4, 3, 24), done to the shaped vertices (B, 3, 1, V), plane by plane: (B, 3, V)."""
        blended = (carried.reshape(-1, NUM_BODY_JOINTS) @ self.weights).view(len(carried), 4, 3, -1)
        planes = blended[:, 3]
        for axis in range(3):
            planes = torch.addcmul(planes, blended[:, axis], shaped[:, axis])
        return planes

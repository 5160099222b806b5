"""What the losses of base model and scorer weigh, and how ground truth is disturbed for the scorer to rank.

The losses are in adhmr.objectives, the disturbance in adhmr.preference.noised_truth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from adhmr.config.base import StrictModel

Weight = Annotated[float, Field(ge=0)]


class DenoisingWeights(StrictModel):
    """Weights of the base model's loss; the defaults are those of ScoreHypo, the paper's base model."""

    joints: Weight = 1.0  # squared error of the joints' noise
    twists: Weight = 1.0  # squared error of the twists' noise
    betas: Weight = 10.0
    joints2d: Weight = 10.0  # squared error of the encoder's 2-D joints in [-1, 1]
    heatmap: Weight = 0.0  # cross-entropy of the encoder's heat-maps (encoders trained from scratch need it)
    depth: Weight = 0.0  # L1 of the encoder's joint depths, metres


NoisedJoint = Literal[  # adhmr.body.skeleton.JOINT_NAMES that have a rotation
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
]  # fmt: skip


class NoiseConfig(StrictModel):
    """How ground truth is disturbed into hypotheses for the scorer (paper section 4.2). `fixed` is the released code's
    isotropic noise; `mixed` draws a magnitude for each hypothesis and each joint, which spreads the errors. `joints`
    is the paper's joint-wise noise, whose values it does not give."""

    kind: Literal["fixed", "mixed"] = "fixed"
    pose: float = 0.05  # radians, each axis-angle component; the upper end of the range when mixed
    root: float = 0.02  # radians
    joints: dict[NoisedJoint, float] = {}  # radians, in place of pose and root for the joints named
    betas: float = 0.05
    translation: float = 0.0  # metres
    smallest: float = 0.1  # mixed: magnitudes are log-uniform in [smallest, 1] times the values above
    joint_probability: float = 0.7  # mixed: share of the joints that a hypothesis disturbs
    chain: float = Field(0.0, ge=0, lt=1)  # correlation of a joint's disturbance with its parent's (the root has none)


class SampledHypotheses(StrictModel):
    """Hypotheses of a base model for the scorer to rank beside disturbed ground truths: those that it will be asked
    about. They are sampled in training, of the augmented crop, by the paper's sampler."""

    base: Path  # weights of the base model; frozen
    count: int = Field(ge=2)  # of the `hypotheses` of an image, how many are its own
    ik: Literal["naive", "adaptive"] = "naive"  # as in generation


class RankingWeights(StrictModel):
    pve: Weight = 1.0
    pa_pve: Weight = 1.0
    mpjpe: Weight = 1.0
    pa_mpjpe: Weight = 1.0
    calibration: Weight = 0.0  # squared error of s against an error-derived target in [0, 1], mean of the four errors
    cross_entropy: Weight = 0.0  # of s against that target: it moves scores that are near 0 or 1 and wrong, too
    joints2d: Weight = 0.0  # of a scorer encoder that trains, as in the base model's loss
    heatmap: Weight = 0.0
    depth: Weight = 0.0
    sigma: float = Field(5.0, gt=0)


class RegressionWeights(StrictModel):
    """Weights of the regressor's loss: absolute errors of joints and squared ones of parameters, as in HMR 2.0."""

    rotations: Weight = 1.0
    betas: Weight = 0.02
    joints3d: Weight = 5.0  # about the pelvis, metres
    joints2d: Weight = 2.0  # of the predicted body in the predicted camera, half crops
    encoder_joints2d: Weight = 0.0  # this and what follows: an encoder's own, as in the base model's loss
    heatmap: Weight = 0.0
    depth: Weight = 0.0

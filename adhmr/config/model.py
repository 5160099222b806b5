"""Configuration of the networks: image encoder, denoiser (HypoNet), scorer (HMR-Scorer).

The defaults are the paper's sizes; configs/models/ holds the presets. Training hyper-parameters are in training.py.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from adhmr.config.base import StrictModel


class EncoderConfig(StrictModel):
    """The image encoder: a timm backbone and a neck that makes memory tokens and a local map of it.

    neck "hrnet" is the paper's (HRNet-W48 with the classification fusion, stride-32 memory); "fpn" works with any timm
    backbone that has feature maps at strides 4 to 32, gives stride-16 memory, and is meant for training from scratch.
    """

    backbone: str = "hrnet_w48"
    backbone_options: dict[str, Any] = Field(default_factory=dict)  # handed to timm.create_model, e.g. channels
    neck: Literal["fpn", "hrnet"] = "hrnet"
    memory_dim: int = Field(512, gt=0)
    local_dim: int = Field(256, gt=0)
    depth_head: bool = False  # "fpn" only: 29 root-relative depths from the heatmaps' softmax
    legacy_channel_order: bool = False  # the official weights' normalisation: BGR-style constants on RGB images
    legacy_bone_points: bool = False  # the official weights' bone points: the parent's bone, x and y exchanged

    @property
    def memory_stride(self) -> int:
        """Pixels of the crop to one memory token."""
        return 32 if self.neck == "hrnet" else 16

    @property
    def official_grid(self) -> bool:
        """Whether points follow the official heatmap grid: x = 2 col/w - 1, sampled with align_corners=True."""
        return self.neck == "hrnet"

    @model_validator(mode="after")
    def _check(self) -> "EncoderConfig":
        if self.memory_dim % 4:
            raise ValueError(f"memory_dim must be a multiple of 4 (2-D sines and cosines), found {self.memory_dim}")
        if self.neck == "hrnet" and self.depth_head:
            raise ValueError("depth_head needs neck: fpn; the hrnet neck is the paper's and has none")
        return self

    def memory_grid(self, crop_size: int) -> tuple[int, int]:
        """Rows and columns of the memory tokens of a square crop of `crop_size` pixels."""
        return crop_size // self.memory_stride, crop_size // self.memory_stride


class TransformerConfig(StrictModel):
    """What the denoiser and the scorer share: graph-masked decoder blocks over joint tokens."""

    dim: int = Field(512, gt=0)  # token width = pose part + local part; also the width of the image memory
    local_dim: int = Field(256, gt=0)  # the local part, the encoder's local_dim
    heads: int = Field(8, gt=0)
    reaches: tuple[int, ...] = (7, 6, 5, 4, 3, 1)  # one a block: how many hops of the token graph it attends over
    ffn: int = Field(2048, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    input_dropout: float = Field(0.25, ge=0, lt=1)
    input_norm: bool = True  # the paper's GroupNorm over the embedded pose; it hides a small model's input magnitudes
    initialisation: Literal["unit_norm", "xavier"] = "unit_norm"  # unit_norm is the official one

    @property
    def pose_dim(self) -> int:
        """Width of a token's pose part."""
        return self.dim - self.local_dim

    @model_validator(mode="after")
    def _check_sizes(self) -> "TransformerConfig":
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim must be a multiple of heads ({self.heads}) and of 4, found {self.dim}")
        if self.local_dim >= self.dim:
            raise ValueError(f"local_dim must be smaller than dim ({self.dim}), found {self.local_dim}")
        if self.input_norm and self.pose_dim % 32:
            raise ValueError(f"dim - local_dim must be a multiple of 32 with input_norm, found {self.pose_dim}")
        if not self.reaches or min(self.reaches) < 1:
            raise ValueError("reaches needs at least one block, each reaching 1 hop or more")
        return self


class DenoiserConfig(TransformerConfig):
    """HypoNet's denoiser.

    preconditioning "none" is the paper's (raw input, noise predicted as a residual of it). "edm" scales in- and output
    by the noise level, for data spread by sigma_joint and sigma_twist (units of x0) about a centre; with `anchor` the
    centre of the joints is the encoder's own estimate of them: what the image says is the starting point.
    """

    preconditioning: Literal["none", "edm"] = "none"
    anchor: bool = False
    sigma_joint: float = Field(20.0, gt=0)
    sigma_twist: float = Field(20.0, gt=0)

    @model_validator(mode="after")
    def _check_anchor(self) -> "DenoiserConfig":
        if self.anchor and self.preconditioning != "edm":
            raise ValueError("anchor needs preconditioning: edm")
        return self


class ScorerConfig(TransformerConfig):
    """HMR-Scorer: its own image encoder and a head that scores hypotheses.

    variant: "uvd" is the paper's, "pose6d" its ablation HMR-Scorer-P (rotations), "2d" HMR-Scorer-2D. `relative` also
    feeds the hypothesis' difference from the encoder's own joints (and depth).
    """

    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    crop_size: int = Field(256, gt=0)
    variant: Literal["uvd", "pose6d", "2d"] = "uvd"
    relative: bool = False
    hidden_dims: tuple[int, int] = (1024, 256)  # of the score's layers

    @model_validator(mode="after")
    def _check_parts(self) -> "ScorerConfig":
        _check_widths(self, self.encoder, self.crop_size)
        if self.hidden_dims[0] % 32:
            raise ValueError(f"hidden_dims must start with a multiple of 32 (groups), found {self.hidden_dims[0]}")
        if self.relative and self.variant == "pose6d":
            raise ValueError("relative needs joints: variant uvd or 2d")
        return self


class BaseModelConfig(StrictModel):
    """The base model: encoder and denoiser for square crops of `crop_size` pixels."""

    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    denoiser: DenoiserConfig = Field(default_factory=DenoiserConfig)
    crop_size: int = Field(256, gt=0)

    @model_validator(mode="after")
    def _check_parts(self) -> "BaseModelConfig":
        _check_widths(self.denoiser, self.encoder, self.crop_size)
        return self


def _check_widths(transformer: TransformerConfig, encoder: EncoderConfig, crop_size: int) -> None:
    """The encoder's maps must have the widths that the tokens expect, and the crop must fill whole memory tokens."""
    if encoder.memory_dim != transformer.dim:
        raise ValueError(f"encoder.memory_dim must equal dim ({transformer.dim}), found {encoder.memory_dim}")
    if encoder.local_dim != transformer.local_dim:
        raise ValueError(f"encoder.local_dim must equal local_dim ({transformer.local_dim}), found {encoder.local_dim}")
    if crop_size % 32:
        raise ValueError(f"crop_size must be a multiple of 32, found {crop_size}")

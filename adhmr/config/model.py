"""Configuration of the networks: image encoder, denoiser (HypoNet), scorer (HMR-Scorer), regressor.

The defaults are the paper's sizes; configs/models/ holds the presets. Training hyper-parameters are in training.py.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

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
    betas_head: bool = True  # "hrnet" only: false for ScoreHypo's ScoreNet, which looks at poses alone
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
        if self.neck == "fpn" and not self.betas_head:
            raise ValueError("betas_head: false needs neck: hrnet; the fpn neck always has betas")
        return self

    def memory_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the memory tokens of a crop, pixels."""
        return height // self.memory_stride, width // self.memory_stride


class ViTConfig(StrictModel):
    """HMR-Scorer's image encoder: ViTPose's vision transformer with learnt task tokens (paper section 4.2).

    Crops are resized to input_size; joints, heatmaps and betas it has none. The defaults are ViT-B. What lives in the
    official weights is in the three legacy_ properties.
    """

    neck: Literal["vit"]
    depth: int = Field(12, gt=0)
    dim: int = Field(768, gt=0)
    heads: int = Field(12, gt=0)
    patch: int = Field(16, gt=0)  # pixels of the input to one token
    input_size: tuple[int, int] = (256, 192)  # height, width
    task_tokens: int = Field(31, ge=0)  # learnt tokens before the image's, without a position; not read by the scorer
    drop_path: float = Field(0.3, ge=0, lt=1)  # stochastic depth of the last block, less in earlier ones; in training
    legacy_patch_padding: bool = False  # the patches' convolution pads by 2 pixels, so that tokens see shifted patches
    legacy_unit_range: bool = False  # RGB in 0..1, without mean and deviation
    legacy_nearest_resize: bool = False  # every other pixel of a 512 x 384 crop, in place of their averages

    @property
    def official_grid(self) -> bool:
        """Points are sampled with align_corners=True, as the official head does."""
        return True

    @model_validator(mode="after")
    def _check(self) -> "ViTConfig":
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads ({self.heads}), found {self.dim}")
        if any(side % self.patch for side in self.input_size):
            raise ValueError(f"input_size must be multiples of patch ({self.patch}), found {self.input_size}")
        return self

    def memory_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens; the same for crops of any size, which are resized."""
        return self.input_size[0] // self.patch, self.input_size[1] // self.patch


def _encoder_tag(value: Any) -> str:
    """Which encoder a mapping describes: its `neck`, which may be left out for EncoderConfig."""
    neck = value.get("neck") if isinstance(value, dict) else getattr(value, "neck", None)
    return "vit" if neck == "vit" else "hrnet"


ScorerEncoderConfig = Annotated[
    Annotated[EncoderConfig, Tag("hrnet")] | Annotated[ViTConfig, Tag("vit")], Discriminator(_encoder_tag)
]


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
    """A reward model: an image encoder and a head that scores hypotheses.

    variant: "uvd" is HMR-Scorer; "pose6d" (rotations) and "2d" (joints without depth) are its ablations -P and -2D;
    "uvd_twist", with joints and twists, is ScoreHypo's ScoreNet; "uvd_pose6d" sees joints and the rotations that
    inverse kinematics made of them, so that it knows what becomes of small errors. `relative` also feeds the
    hypothesis' difference from the encoder's own joints (and depth).
    """

    encoder: ScorerEncoderConfig = Field(default_factory=EncoderConfig)
    crop_size: int = Field(256, gt=0)  # height of the crop, pixels
    crop_aspect: float = Field(1.0, gt=0, le=1)  # its width over its height
    variant: Literal["uvd", "pose6d", "2d", "uvd_twist", "uvd_pose6d"] = "uvd"
    relative: bool = False
    hidden_dims: tuple[int, ...] = (1024, 256)  # of the score's layers

    @property
    def crop_shape(self) -> tuple[int, int]:
        """Height and width of the crop, pixels."""
        return self.crop_size, round(self.crop_size * self.crop_aspect)

    @property
    def sees_rotations(self) -> bool:
        """Whether hypotheses must be posed before they are scored."""
        return self.variant in ("pose6d", "uvd_pose6d")

    @model_validator(mode="after")
    def _check_parts(self) -> "ScorerConfig":
        if isinstance(self.encoder, EncoderConfig):
            _check_widths(self, self.encoder, self.crop_shape)
        elif self.encoder.input_size[1] * self.crop_shape[0] != self.encoder.input_size[0] * self.crop_shape[1]:
            raise ValueError(
                f"crops of {self.crop_shape} pixels (height, width) and encoder.input_size {self.encoder.input_size} "
                "differ in shape: set crop_aspect to the input's width over its height"
            )
        if not self.hidden_dims or self.hidden_dims[0] % 32:
            raise ValueError(f"hidden_dims must start with a multiple of 32 (groups), found {self.hidden_dims}")
        if self.relative and (self.variant == "pose6d" or isinstance(self.encoder, ViTConfig)):
            raise ValueError("relative needs joints: a variant other than pose6d, and an encoder that sees joints")
        return self


class BaseModelConfig(StrictModel):
    """The base model: encoder and denoiser for square crops of `crop_size` pixels."""

    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    denoiser: DenoiserConfig = Field(default_factory=DenoiserConfig)
    crop_size: int = Field(256, gt=0)

    @model_validator(mode="after")
    def _check_parts(self) -> "BaseModelConfig":
        _check_widths(self.denoiser, self.encoder, (self.crop_size, self.crop_size))
        if not self.encoder.betas_head:
            raise ValueError("encoder.betas_head must be true: the base model's shape comes from it")
        return self


class RegressorConfig(TransformerConfig):
    """The deterministic regressor: an encoder and a transformer over its joints, for square crops of `crop_size` px."""

    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    crop_size: int = Field(256, gt=0)

    @model_validator(mode="after")
    def _check_parts(self) -> "RegressorConfig":
        _check_widths(self, self.encoder, (self.crop_size, self.crop_size))
        if not self.encoder.betas_head:
            raise ValueError("encoder.betas_head must be true: the regressor's shape starts at the encoder's")
        return self


def _check_widths(transformer: TransformerConfig, encoder: EncoderConfig, crop_shape: tuple[int, int]) -> None:
    """The encoder's maps must have the widths that the tokens expect, and the crop must fill whole memory tokens."""
    if encoder.memory_dim != transformer.dim:
        raise ValueError(f"encoder.memory_dim must equal dim ({transformer.dim}), found {encoder.memory_dim}")
    if encoder.local_dim != transformer.local_dim:
        raise ValueError(f"encoder.local_dim must equal local_dim ({transformer.local_dim}), found {encoder.local_dim}")
    if any(side % 32 for side in crop_shape):
        raise ValueError(f"crop_size (height and width) must be multiples of 32, found {crop_shape}")

"""Initial values of an image encoder from weights that others trained: pose HRNet, ViTPose, SMPLer-X, timm's ImageNet.

They become a weight file of kind "backbone": part of an encoder's tensors, which `load_encoder_weights` takes.
Whole official models are in official.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import adhmr.models.torchvision_operators  # isort: skip  # noqa: F401  (must come before timm)
from timm.layers import resample_abs_pos_embed

from adhmr.config.model import EncoderConfig, ViTConfig
from adhmr.errors import AdhmrError
from adhmr.models.encoder import ImageEncoder
from adhmr.models.official_file import State
from adhmr.models.official_fit import ImportReport, OfficialStates, Reasons, fit
from adhmr.models.official_names import Place, hrnet_key
from adhmr.models.vit import ViTEncoder

_HRNET_TIMM = ("neck.backbone.", "neck.increase.", "neck.reduce.")


@dataclass(frozen=True)
class InitialKind:
    """Which encoder the values are for, and where the file has them."""

    encoder: Callable[[str], nn.Module]  # of the backbone's name
    key: Callable[[str], str | None]  # our name -> the file's; None: such files have no such part
    entry: str = "state_dict"  # of the checkpoint, where it has one; else the file is the state dict
    prefix: str = ""  # of the tensors in question
    others: str = ""  # what the tensors without that prefix are
    left_out: Reasons = field(default_factory=dict)
    may_miss: Reasons = field(default_factory=dict)


def _hrnet(backbone: str) -> ImageEncoder:
    return ImageEncoder(EncoderConfig(backbone=backbone))


def _vit(_: str) -> ViTEncoder:
    return ViTEncoder(ViTConfig(neck="vit"))


def _timm_vit_key(name: str) -> str | None:
    return None if name == "task_tokens" else name.replace("last_norm.", "norm.")


_CLASSIFIER = "ImageNet's classifier"
_HEATMAPS = "heatmaps of the 17 COCO joints"
_NO_TOKENS = {"task_tokens": "learnt by later networks; stays as initialised"}
_POSE_HRNET = InitialKind(
    _hrnet,
    key=lambda name: hrnet_key(name) if name.startswith("neck.backbone.") else None,
    left_out={"final_layer.": _HEATMAPS},
    may_miss={
        f"neck.backbone.stage4.2.fuse_layers.{branch}.": "the pose network ends in its finest branch; as initialised"
        for branch in (1, 2, 3)
    },
)
_VITPOSE = InitialKind(_vit, key=lambda name: name, prefix="backbone.", others=_HEATMAPS, may_miss=_NO_TOKENS)
_SMPLER_X = InitialKind(_vit, key=lambda name: name, entry="network", prefix="encoder.", others="the rest of SMPLer-X")
_TIMM_HRNET = InitialKind(
    _hrnet,
    key=lambda name: hrnet_key(name) if name.startswith(_HRNET_TIMM) else None,
    left_out={"final_layer.": _CLASSIFIER, "classifier.": _CLASSIFIER},
)
_TIMM_VIT = InitialKind(
    _vit,
    key=_timm_vit_key,
    left_out={"cls_token": "only the classifier reads it; its position is kept", "head.": _CLASSIFIER},
    may_miss=_NO_TOKENS,
)
INITIAL_KINDS = ("pose-hrnet", "vitpose", "smpler-x", "timm")


def read_initial(
    path: Path, content: dict[str, Any], kind: str, backbone: str | None
) -> tuple[State, dict[str, Any], ImportReport]:
    """The tensors of an encoder that a checkpoint gives, what they are for (neck and backbone), and the account.

    Raises AdhmrError when the file does not fit, or `backbone` is none that can be read.
    """
    layout, backbone = _layout(kind, backbone)
    report = ImportReport(path, kind, "raw")
    state = content.get(layout.entry, content)
    if not isinstance(state, dict):
        raise AdhmrError(f"{path}: '{layout.entry}' is a {type(state).__name__}, expected a state dict")
    if state is not content:
        about = "about the official training run"
        report.left_out += [(str(entry), about) for entry in content if entry != layout.entry]
    official = OfficialStates(path, {"": state})
    others = [key for key in official.states[""] if not key.startswith(layout.prefix)]
    for key in others:
        del official.states[""][key]
        report.left_out.append((official.label("", key), layout.others))

    encoder = layout.encoder(backbone)
    if layout is _TIMM_VIT:
        report.notes += _resample_positions(path, official.states[""], encoder)

    def place(name: str) -> Place | None:
        key = layout.key(name)
        return None if key is None else Place("", f"{layout.prefix}{key}")

    found = fit(official, encoder.state_dict(), place, report, layout.left_out, layout.may_miss)
    return found, {"neck": encoder.config.neck, "backbone": backbone}, report


def _layout(kind: str, backbone: str | None) -> tuple[InitialKind, str]:
    """The layout of a kind's files and the name of the network in them."""
    if kind == "pose-hrnet":
        return _POSE_HRNET, "hrnet_w48"
    if kind in ("vitpose", "smpler-x"):
        return (_VITPOSE if kind == "vitpose" else _SMPLER_X), "vit_base_patch16"
    if backbone is None:
        raise AdhmrError("--kind timm: needs --backbone, timm's name of the network, e.g. hrnet_w48")
    if backbone.startswith("hrnet_w"):
        return _TIMM_HRNET, backbone
    if backbone.startswith("vit_base_patch16"):
        return _TIMM_VIT, backbone
    raise AdhmrError(f"--backbone {backbone}: only hrnet_w* and vit_base_patch16_* are read from timm's files")


def _resample_positions(path: Path, state: dict[str, Any], encoder: ViTEncoder) -> list[str]:
    """Bring timm's position table (class token and a square of patches) to the encoder's grid; says so.

    Entry 0 stays the class token's, which our encoder adds to every patch, as ViTPose does.
    """
    table = state.get("pos_embed")
    if not isinstance(table, torch.Tensor) or table.ndim != 3 or table.shape[2] != encoder.config.dim:
        return []  # fit says what is wrong
    side = math.isqrt(max(table.shape[1] - 1, 0))
    if side * side != table.shape[1] - 1:
        raise AdhmrError(f"{path}: pos_embed is {tuple(table.shape)}, expected a class token and a square of patches")
    state["pos_embed"] = resample_abs_pos_embed(table.float(), list(encoder.grid), num_prefix_tokens=1)
    rows, columns = encoder.grid
    return [f"pos_embed: resampled from {side} x {side} to {rows} x {columns} patches (bicubic)"]

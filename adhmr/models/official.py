"""The official checkpoints of HypoNet, ScoreNet and HMR-Scorer as weight files of ours: `adhmr import-official`.

Whole models are here; weights that only start a training (pose HRNet, ViTPose, timm) are in initial_weights.py.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adhmr.config.model import BaseModelConfig, EncoderConfig, ScorerConfig, ViTConfig
from adhmr.errors import AdhmrError
from adhmr.models.base_model import BaseModel
from adhmr.models.initial_weights import INITIAL_KINDS, read_initial
from adhmr.models.masked_linear import MaskedLinear
from adhmr.models.official_file import read_checkpoint, recognise
from adhmr.models.official_fit import ImportReport, OfficialStates, Reasons, fit
from adhmr.models.official_names import Place, hmr_scorer_place, hyponet_place, scorenet_place
from adhmr.models.scorer import HMRScorer
from adhmr.models.weights import save_state, save_weights

_LEGACY_HRNET = {"legacy_channel_order": True, "legacy_bone_points": True}
_LEGACY_VIT = {"legacy_patch_padding": True, "legacy_unit_range": True, "legacy_nearest_resize": True}


@dataclass(frozen=True)
class ModelKind:
    """What a checkpoint of one kind holds, and the model that it becomes."""

    builds: str  # kind of our weight file
    model: Callable[[Any], nn.Module]
    config: BaseModelConfig | ScorerConfig
    place: Callable[[str], Place]
    averages: dict[str, str | None]  # entry with raw weights -> entry with their average
    left_out: Reasons
    crop_padding: float  # of the crops that the official code trains on


MODEL_KINDS = {
    "hyponet": ModelKind(
        "base",
        BaseModel,
        BaseModelConfig(encoder=EncoderConfig(**_LEGACY_HRNET)),
        hyponet_place,
        {"model": "ema", "model_cond": "ema_cond"},
        {},
        1.5,  # 1.2 of Human3.6M alone
    ),
    "scorenet": ModelKind(
        "scorer",
        HMRScorer,
        ScorerConfig(
            encoder=EncoderConfig(betas_head=False, **_LEGACY_HRNET), variant="uvd_twist", hidden_dims=(1024,)
        ),
        scorenet_place,
        {"model_score": "ema_score", "model_score_cond": "ema_score_cond"},
        {"model_score_cond: final_feat_layer.": "leads to betas, which a scorer has none of"},
        1.5,
    ),
    "hmr-scorer": ModelKind(
        "scorer",
        HMRScorer,
        ScorerConfig(encoder=ViTConfig(neck="vit", **_LEGACY_VIT), crop_size=512, crop_aspect=0.75),
        hmr_scorer_place,
        {"network": None},
        {"network: smplx_layer.": "the SMPL-X body, which is a file of its own"},
        1.2,
    ),
}


def import_official(
    path: str | Path,
    kind: str,
    weights: str | None = None,
    output: str | Path | None = None,
    backbone: str | None = None,
) -> ImportReport:
    """Write the weights of an official checkpoint as a weight file of ours.

    Args:
        path: the checkpoint; timm's may be .safetensors.
        kind: of MODEL_KINDS (whole models) or INITIAL_KINDS (initial values of an image encoder).
        weights: "raw" or "ema"; None takes the average where the file has one.
        output: the weight file; None names it after `path`, with the ending .safetensors.
        backbone: timm's name of the network; for kind "timm" only.

    Raises:
        AdhmrError: a file that cannot be read, is of another kind, or does not fit.
    """
    path = Path(path)
    output = _default_output(path) if output is None else Path(output)
    if output.resolve() == path.resolve():
        raise AdhmrError(f"{path}: would be overwritten; name another file with --output")
    if backbone is not None and kind != "timm":
        raise AdhmrError(f"--backbone: only --kind timm takes one; a {kind} file has its own")
    if kind in INITIAL_KINDS:
        if weights == "ema":
            raise AdhmrError(f"--weights ema: a {kind} file has one set of weights; leave the option out")
        content = _read(path, kind)
        state, config, report = read_initial(path, content, kind, backbone)
        save_state(output, state, "backbone", config, _source(path, report))
    else:
        model, report = read_model(path, kind, weights)
        config = model.config.model_dump(mode="json")
        metadata = {**_source(path, report), "crop_padding": MODEL_KINDS[kind].crop_padding}
        save_weights(output, model, MODEL_KINDS[kind].builds, config, metadata)
    report.output = output
    return report


def read_model(path: str | Path, kind: str, weights: str | None = None) -> tuple[nn.Module, ImportReport]:
    """Build the model of an official checkpoint with its weights, in eval mode; arguments as of `import_official`.

    The masks of the masked linear layers are applied to the weights: the official code applies them in each forward
    pass, and what lies outside them in the file was moved by optimizer and averaging but never used.
    """
    path = Path(path)
    content = _read(path, kind)
    layout = MODEL_KINDS[kind]
    for entry in layout.averages:
        if not isinstance(content.get(entry), dict):
            raise AdhmrError(
                f"{path}: no state dict '{entry}'; a {kind} file has {', '.join(layout.averages)}; "
                f"this one has {', '.join(map(str, content))}"
            )
    official = OfficialStates(path, {entry: content[entry] for entry in layout.averages})
    averages = {entry: average for entry, average in layout.averages.items() if average in content}
    if weights is None:
        weights = "ema" if len(averages) == len(layout.averages) else "raw"
    if weights == "ema" and len(averages) < len(layout.averages):
        raise AdhmrError(f"{path}: has no averaged weights for {', '.join(layout.averages)}; take --weights raw")
    report = ImportReport(path, kind, weights)
    if weights == "ema":
        official.states = {
            entry: official.averaged(entry, content[average], average) for entry, average in averages.items()
        }
    report.left_out += _other_entries(path, content, layout, weights)

    model = layout.model(layout.config)
    own = model.state_dict()
    state = fit(official, own, layout.place, report, layout.left_out, {})
    if weights == "ema":
        report.taken = {f"{averages[entry]} with buffers of {entry}": count for entry, count in report.taken.items()}
    model.load_state_dict(own | state)
    report.notes.append(_apply_masks(model))
    return model.eval(), report


def _read(path: Path, kind: str) -> dict[str, Any]:
    """The checkpoint, refused when it looks like one of another kind."""
    if kind not in MODEL_KINDS and kind not in INITIAL_KINDS:
        raise AdhmrError(f"--kind {kind}: unknown; kinds are {', '.join((*MODEL_KINDS, *INITIAL_KINDS))}")
    content = read_checkpoint(path)
    looks = recognise(content)
    if looks is not None and looks != kind:
        raise AdhmrError(f"{path}: this looks like a {looks} file, not a {kind} file: use --kind {looks}")
    return content


def _other_entries(path: Path, content: dict[str, Any], layout: ModelKind, weights: str) -> list[tuple[str, str]]:
    """What else the checkpoint holds, with the reason for leaving it; an error for an entry that nothing explains."""
    left_out = []
    for entry, value in content.items():
        if entry in layout.averages:
            if weights == "ema":
                left_out.append((entry, "parameters as trained; the buffers were taken"))
        elif entry in layout.averages.values():
            if weights == "raw":
                left_out.append((entry, "averaged weights; --weights ema takes them"))
        elif str(entry).startswith("optimizer"):
            left_out.append((entry, "state of the official training run"))
        elif isinstance(value, int | float | str | None) or getattr(value, "ndim", None) == 0:
            left_out.append((entry, "a number or text of the official training run"))
        else:
            raise AdhmrError(f"{path}: unknown entry '{entry}' ({type(value).__name__}): nothing says what it is for")
    return left_out


@torch.no_grad()
def _apply_masks(model: nn.Module) -> str:
    """Zero the weights outside the token graph; returns the line that says so."""
    changed = outside = 0
    for layer in model.modules():
        if isinstance(layer, MaskedLinear):
            masked = layer.masked_weight()
            outside += int((layer.token_mask == 0).sum()) * layer.weight_shape[1] * layer.weight_shape[3]
            changed += int((masked != layer.weight).sum())
            layer.weight.copy_(masked)
    return f"masks applied: of {outside:,} entries outside them, {changed:,} were not zero"


def _source(path: Path, report: ImportReport) -> dict[str, Any]:
    """The provenance that a weight file carries."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"official": {"file": path.name, "sha256": sha256, "kind": report.kind, "weights": report.weights}}


def _default_output(path: Path) -> Path:
    name = path.name
    for ending in (".tar", ".pth", ".pt", ".bin", ".safetensors"):
        name = name.removesuffix(ending)
    return path.with_name(f"{name}.safetensors")

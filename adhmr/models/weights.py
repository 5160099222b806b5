"""Weight files: safetensors whose metadata says what they hold, so that a file alone rebuilds its model.

Training checkpoints (optimizer, step, manifest) are in adhmr.training.checkpoint.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from adhmr.config.model import BaseModelConfig, EncoderConfig, RegressorConfig, ScorerConfig
from adhmr.errors import AdhmrError
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageEncoder
from adhmr.models.regressor import Regressor
from adhmr.models.scorer import HMRScorer
from adhmr.models.vit import ViTEncoder

FORMAT = "adhmr-weights-1"

#: The part of an encoder that only betas_head makes.
_BETAS = ("neck.betas_map.", "neck.betas.", "neck.mean_betas")

#: What a file of each kind is built into. Kind "backbone" is none: it holds a part of an image encoder.
BUILDERS: dict[str, tuple[type[nn.Module], type]] = {
    "base": (BaseModel, BaseModelConfig),
    "scorer": (HMRScorer, ScorerConfig),
    "encoder": (ImageEncoder, EncoderConfig),
    "regressor": (Regressor, RegressorConfig),
}


def save_weights(
    path: str | Path,
    module: nn.Module,
    kind: str,
    config: dict[str, Any],
    metadata: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write module's state with its kind and configuration; `dtype` (e.g. torch.float16) converts the floating tensors.

    `metadata` is any further JSON-serialisable provenance. The file appears by rename.
    """
    save_state(path, module.state_dict(), kind, config, metadata, dtype)


def save_state(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    kind: str,
    config: dict[str, Any],
    metadata: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """`save_weights` of a state dict; one of kind "backbone" is a part of an image encoder's."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu()
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        tensors[name] = tensor.contiguous().clone()  # channels_last weights and views are stored plainly
    header = {"format": FORMAT, "kind": kind, "config": json.dumps(config), "extra": json.dumps(metadata or {})}
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(_with_sorted_metadata(save(tensors, metadata=header)))
    partial.replace(path)


def _with_sorted_metadata(file: bytes) -> bytes:
    """safetensors writes the metadata in random order: sorted, the same weights are the same bytes, of one hash."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def load_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a weight file: (state dict, metadata with "kind", "config" and the writer's own entries).

    Raises AdhmrError when the file is missing, is not safetensors, or was not written by `save_weights`.
    """
    metadata = read_metadata(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118  (not a dict)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """ "kind", "config" and the writer's own entries of a weight file; raises as `load_weights`."""
    path = Path(path)
    if not path.is_file():
        raise AdhmrError(f"{path}: no such weight file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise AdhmrError(f"{path}: not a whole safetensors file ({error}); copy or train it again") from error
    if header.get("format") != FORMAT:
        raise AdhmrError(f"{path}: safetensors without ADHMR's metadata; expected a file written by a training run")
    return {"kind": header["kind"], "config": json.loads(header["config"]), **json.loads(header["extra"])}


def weights_hash(path: str | Path) -> str:
    """First 16 hex digits of the SHA-256 of a weight file: its name in provenance records.

    Raises AdhmrError when the file is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise AdhmrError(f"{path}: no such weight file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_model(path: str | Path, kind: str) -> nn.Module:
    """Build the model that a weight file describes and load it, in fp32 and eval mode.

    kind: "base" -> BaseModel, "scorer" -> HMRScorer, "encoder" -> ImageEncoder, "regressor" -> Regressor.
    Raises AdhmrError for a file of another kind, a configuration that is not understood, or tensors that do not fit.
    """
    state, metadata = load_weights(path)
    if metadata["kind"] != kind:
        raise AdhmrError(f"{path}: holds a model of kind '{metadata['kind']}', expected '{kind}'")
    model_class, config_class = BUILDERS[kind]
    try:
        config = config_class(**metadata["config"])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise AdhmrError(f"{path}: its model configuration does not fit this version; {key}: {first['msg']}") from error
    model = model_class(config)
    load_state(model, state, str(path))
    return model.eval()


def load_state(module: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load every tensor of `state`, or raise AdhmrError naming the first few that are missing, unknown or misshapen."""
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"unknown {name}" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise AdhmrError(f"{source}: does not fit {type(module).__name__}: {shown}")
    module.load_state_dict(state)


def save_encoder(path: str | Path, encoder: ImageEncoder, metadata: dict[str, Any] | None = None) -> None:
    """Export an image encoder alone, in fp16: what a scorer or another base model starts from."""
    save_weights(path, encoder, "encoder", encoder.config.model_dump(mode="json"), metadata, torch.float16)


def load_encoder_weights(encoder: ImageEncoder | ViTEncoder, path: str | Path) -> None:
    """Load an image encoder from an exported encoder, a base model's or a scorer's weights, or imported initial values.

    Two kinds of file may differ from `encoder`, and then one line says how: initial values (kind "backbone") are a part
    of its tensors, and an encoder without betas_head leaves the file's betas.

    Raises AdhmrError when the file holds none, or when its tensors do not fit `encoder`.
    """
    state, metadata = load_weights(path)
    if metadata["kind"] not in ("encoder", "backbone"):
        prefix = "encoder."
        state = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        if not state:
            raise AdhmrError(f"{path}: a model of kind '{metadata['kind']}' without an image encoder")
    own = encoder.state_dict()
    line = None
    if metadata["kind"] == "backbone":
        layers = [name.removesuffix(".weight").removesuffix(".bias") for name in own if name not in state]
        rest = Counter(".".join(layer.split(".")[:2]) for layer in layers)
        kept = ", ".join(f"{part} {count}" for part, count in rest.items())
        line = f"{path}: {len(state)} of the encoder's {len(own)} tensors; as initialised: {kept}"
        state = dict(own) | state
    elif isinstance(encoder, ImageEncoder) and not encoder.config.betas_head:
        betas = [name for name in state if name.startswith(_BETAS)]
        line = (
            f"{path}: {len(betas)} tensors of the betas are left out: the encoder has no betas_head" if betas else None
        )
        state = {name: tensor for name, tensor in state.items() if name not in betas}
    load_state(encoder, state, str(path))
    if line is not None:
        print(line, flush=True)

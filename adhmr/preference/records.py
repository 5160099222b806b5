"""What a preference sample adds to a data-set sample: `pairs.npy`, the pairs of one image, `hypotheses.npy`, all that
was sampled of it, and `features.npy`, what the frozen encoder saw in it. The crop (jpg) and its record (npy) are those
of adhmr.data.schema, in the crop's frame."""

from __future__ import annotations

import hashlib
import io
from typing import Literal

import numpy as np
import torch
from torch import nn

from adhmr.models.encoder import ImageFeatures

LABEL_INDEX = 65535  # in winner_index: the winner is no hypothesis but the label

PAIR_DTYPE = np.dtype(
    [
        ("winner_uvd", "<f4", (29, 3)),  # pixels of the crop; depth relative to the root, metres
        ("winner_twists", "<f4", (23, 2)),  # cos, sin, as sampled
        ("loser_uvd", "<f4", (29, 3)),
        ("loser_twists", "<f4", (23, 2)),
        ("winner_value", "<f4"),  # what they were ranked by: the larger the better
        ("loser_value", "<f4"),
        ("winner_error", "<f4"),  # PVE in metres where labels are exact, else NaN
        ("loser_error", "<f4"),
        ("winner_index", "<u2"),  # number of the hypothesis; 0 is the zero-noise one, LABEL_INDEX the label
        ("loser_index", "<u2"),
    ]
)

HYPOTHESIS_DTYPE = np.dtype(
    [
        ("uvd", "<f4", (29, 3)),  # as in PAIR_DTYPE
        ("twists", "<f4", (23, 2)),
        ("value", "<f4"),
        ("error", "<f4"),
    ]
)

STORED_MAPS = {"fp16": torch.float16, "fp32": torch.float32}


def encode_array(array: np.ndarray) -> bytes:
    """An .npy file in memory."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def encoder_hash(encoder: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 of an encoder's names and tensors: stored features are good for no other."""
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def hypothesis_records(uvd: np.ndarray, twists: np.ndarray, value: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """(M,) HYPOTHESIS_DTYPE of one image's hypotheses, in the order of their noise: uvd (M, 29, 3), twists (M, 23, 2),
    value and errors (M,), NaN where they are not known."""
    records = np.zeros(len(uvd), HYPOTHESIS_DTYPE)
    records["uvd"], records["twists"], records["value"], records["error"] = uvd, twists, value, errors
    return records


def features_to_array(features: ImageFeatures, row: int, maps: Literal["fp16", "fp32"]) -> np.ndarray:
    """What the denoiser reads of one image's features, as one structured element: maps in the precision of that name,
    points in single."""
    parts = {
        "memory": features.memory[row].to(STORED_MAPS[maps]),
        "local": features.local[row].to(STORED_MAPS[maps]),
        "joints2d": features.joints2d[row].float(),
        "betas": features.betas[row].float(),
    }
    if features.depth is not None:
        parts["depth"] = features.depth[row].float()
    arrays = {name: part.cpu().numpy() for name, part in parts.items()}
    packed = np.zeros((), np.dtype([(name, array.dtype.str, array.shape) for name, array in arrays.items()]))
    for name, array in arrays.items():
        packed[name] = array
    return packed


def features_from_batch(batch: dict[str, torch.Tensor]) -> ImageFeatures:
    """The inverse for a batch: members named features_<part>, (N, ...)."""
    part = {name: batch.get(f"features_{name}") for name in ("memory", "local", "joints2d", "depth", "betas")}
    return ImageFeatures(
        memory=part["memory"].float(),
        local_map=None,
        local=part["local"].float(),
        joints2d=part["joints2d"],
        depth=part["depth"],
        heatmap_logits=None,
        betas=part["betas"],
    )

"""Made-up official checkpoints: values by the rule of the reference numbers' README, wrapped as the official files are.

What is computed with them is in parity_cases.py.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

Entries = list[tuple[str, list[int]]]  # names and shapes, in the order of the state dict
State = dict[str, torch.Tensor]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "init_shape")


def rebuilt(entries: Entries, seed: int) -> State:
    """The values of a state dict's entries, from its names, shapes and seed alone."""
    return {name: _value(name, shape, seed) for name, shape in entries}


def _value(name: str, shape: list[int], seed: int) -> torch.Tensor:
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.tensor(0)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
    x = generator.standard_normal(shape).astype(np.float32)
    if last == "running_var":
        x = 1 + 0.1 * np.abs(x)
    elif last == "running_mean":
        x = 0.1 * x
    elif len(shape) >= 2:
        x = x / np.sqrt(max(np.prod(shape[1:]), 1))
    elif last == "weight":
        x = 0.4 + 0.05 * x
    else:
        x = 0.1 * x
    return torch.from_numpy(np.asarray(x, np.float32))


def vit_entries() -> Entries:
    """The vision transformer in an HMR-Scorer snapshot, whose listing holds the head alone."""
    entries: Entries = [
        ("task_tokens", [1, 31, 768]),
        ("pos_embed", [1, 193, 768]),
        ("patch_embed.proj.weight", [768, 3, 16, 16]),
        ("patch_embed.proj.bias", [768]),
    ]
    for block in range(12):
        layers = {
            "norm1": [768],
            "attn.qkv": [2304, 768],
            "attn.proj": [768, 768],
            "norm2": [768],
            "mlp.fc1": [3072, 768],
            "mlp.fc2": [768, 3072],
        }
        for layer, shape in layers.items():
            entries += [(f"blocks.{block}.{layer}.weight", shape), (f"blocks.{block}.{layer}.bias", shape[:1])]
    return [*entries, ("last_norm.weight", [768]), ("last_norm.bias", [768])]


def averages(state: State) -> dict[str, Any]:
    """An EMA as the official code keeps it: the parameters in their order, without names and without buffers."""
    parameters = [value for name, value in state.items() if name.rpartition(".")[2] not in _BUFFERS]
    return {"decay": 0.9999, "num_updates": 12, "shadow_params": parameters}


def write_official_file(path: Path, kind: str, listing: dict[str, Any]) -> None:
    """A checkpoint of `kind` of a whole model from a `*_state_dict.json`; EMA and raw values are equal."""
    seed = listing["seed"]
    if kind == "hmr-scorer":
        parts = {"encoder": rebuilt(vit_entries(), seed), "score_net": rebuilt(listing["score_net"], seed)}
        network = {f"module.{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
        content: dict[str, Any] = {"epoch": 20, "network": network, "optimizer": {}}
    else:
        model, model_cond = ("model", "model_cond") if kind == "hyponet" else ("model_score", "model_score_cond")
        states = {entry: rebuilt(listing[entry], seed) for entry in (model, model_cond)}
        content = {**states, "epoch": 29, "step": 1000, "optimizer": {}, "min_mpjpe": np.float64(72.5)}
        for entry, state in states.items():
            content[entry.replace("model", "ema")] = averages(state)
    torch.save(content, path)

"""Reading checkpoints that others wrote: plain tensors and numbers, never code. Also guessing what a file is.

What the tensors are for is in official.py and initial_weights.py, their names in official_names.py.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from adhmr.errors import AdhmrError

State = dict[str, torch.Tensor]

#: What numpy numbers and arrays are pickled as, by old and new numpy: checkpoints hold best errors and learning rates.
_NUMPY: list[Any] = [np.dtype, np.ndarray]
_NUMPY += [getattr(np.dtypes, name) for name in dir(np.dtypes) if re.fullmatch(r"(Bool|U?Int\d+|Float\d+)DType", name)]
_NUMPY += [
    (getattr(np._core.multiarray, name), f"numpy.{core}.multiarray.{name}")
    for core in ("core", "_core")
    for name in ("scalar", "_reconstruct")
]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary in a torch file (.pth, .pth.tar, .pt, .bin) or a safetensors file. Nothing in it is executed.

    Raises AdhmrError: no such file, no readable file, a pickle with classes other than tensors' and numpy's, or
    something else than a dictionary.
    """
    if not path.is_file():
        raise AdhmrError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals(_NUMPY):
            # Mapped files: the optimizer's state, twice as large as the weights, is never read.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise AdhmrError(f"{path}: not a whole checkpoint of torch; download it again") from error
        raise AdhmrError(
            f"{path}: holds an object of class {named[1].rstrip('.')}, which is not loaded: pickled classes run code. "
            "If you trust the file, load it with torch.load(..., weights_only=False) where that class is installed "
            "and save its tensors alone"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AdhmrError(f"{path}: not a whole checkpoint ({reason}); download it again") from error
    if not isinstance(content, dict):
        raise AdhmrError(f"{path}: holds a {type(content).__name__}; a checkpoint is a dictionary")
    return content


def recognise(content: dict[str, Any]) -> str | None:
    """The kind that a checkpoint looks like, by the names in it; None when it looks like none."""
    if "model_cond" in content:
        return "hyponet"
    if "model_score" in content or "model_score_cond" in content:
        return "scorenet"
    nested = content.get("network")
    if isinstance(nested, dict):
        return "hmr-scorer" if any("score_net." in str(name) for name in nested) else "smpler-x"
    state = content.get("state_dict")
    names = {str(name).removeprefix("module.") for name in (state if isinstance(state, dict) else content)}
    if any(name.startswith("backbone.patch_embed.") for name in names):
        return "vitpose"
    if "cls_token" in names or "classifier.weight" in names:
        return "timm"
    if "final_layer.weight" in names and any(name.startswith("stage4.") for name in names):
        return "pose-hrnet"
    return None

"""Named tensors to one safetensors file in a single pass: staged in host memory as the file lays them out, then written
and hashed together. Reading is the safetensors library's; which files make a checkpoint is in checkpoint_folder.py."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adhmr.errors import AdhmrError

# Large enough that waiting for the interpreter's lock before each block (up to 5 ms, when the training thread is busy
# in Python) is little beside hashing and writing it, which both happen without the lock.
BLOCK = 16 << 20  # bytes

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class StagedFile:
    """Host memory that holds the tensors of one file; kept and reused, as long as they have the same sizes.

    Pinned when they come from CUDA: such copies run at the full speed of the bus and need no wait in between.
    """

    def __init__(self) -> None:
        self.header = b""
        self.memory = torch.empty(0, dtype=torch.uint8)
        self._layout: list[tuple] | None = None  # name, type, shape and place of each tensor
        self._places: list[Tensor] = []  # views of the memory, in the order of the tensors

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Starts copying all tensors; those from CUDA are there after `synchronize` of their devices."""
        layout = [(name, tensor.dtype, tensor.shape, tensor.is_cuda) for name, tensor in tensors.items()]
        if layout != self._layout:
            self._lay_out(tensors)
            self._layout = layout
        if not tensors:
            return
        with torch.no_grad():
            torch._foreach_copy_(self._places, list(tensors.values()), non_blocking=True)

    def _lay_out(self, tensors: Mapping[str, Tensor]) -> None:
        self.header, offsets = header_of(tensors)
        size = max((end for _, end in offsets.values()), default=0)
        pinned = any(tensor.is_cuda for tensor in tensors.values())
        self._places = []
        self.memory = torch.empty(0, dtype=torch.uint8)  # given back before the new one is taken
        self.memory = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        for name, tensor in tensors.items():
            begin, end = offsets[name]
            self._places.append(self.memory[begin:end].view(tensor.dtype).view(tensor.shape))

    def write(self, path: Path) -> dict[str, Any]:
        """Writes and syncs the file; returns its size and SHA-256. Holds the interpreter's lock only between blocks."""
        return write_hashed(path, self.header, memoryview(self.memory.numpy()))


def header_of(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The beginning of a safetensors file and where each tensor's bytes lie after it: (first, one past the last).

    The widest types come first, so that each tensor lies at a multiple of its item size.
    """
    entries: dict[str, Any] = {}
    offsets: dict[str, tuple[int, int]] = {}
    position = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise AdhmrError(f"{name}: a tensor of {tensor.dtype} cannot be saved; expected one of {[*DTYPES]}")
        offsets[name] = position, position + math.prod(tensor.shape) * tensor.element_size()
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [*offsets[name]]}
        position = offsets[name][1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text, offsets


def write_hashed(path: Path, *parts: bytes | memoryview) -> dict[str, Any]:
    """Writes `parts` one after the other and syncs the file; returns {"size": bytes, "sha256": hex digits}."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in parts:
            view = memoryview(part)
            for begin in range(0, len(view), BLOCK):
                block = view[begin : begin + BLOCK]
                file.write(block)
                digest.update(block)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}

"""Our safetensors files against the library that reads them."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from adhmr.errors import AdhmrError
from adhmr.training import tensor_file
from adhmr.training.tensor_file import DTYPES, StagedFile, write_hashed


def write(tensors, path, file=None):
    file = file or StagedFile()
    file.fill(tensors)
    return file.write(path)


def assert_reads_back(tensors, path):
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].view(-1), tensor.reshape(-1)), name


def test_every_type_and_shape_reads_back(tmp_path):
    chance = torch.Generator().manual_seed(0)
    tensors = {}
    for dtype in DTYPES:
        values = torch.randint(0, 2 if dtype == torch.bool else 100, (3, 5), generator=chance).to(dtype)
        tensors |= {f"matrix {dtype}": values, f"scalar {dtype}": values[1, 2], f"none {dtype}": values[:0]}
        tensors |= {
            f"turned {dtype}": values.T,
            f"part {dtype}": values[1:, ::2],
            f"wide {dtype}": values[:1].expand(4, 5),
        }
    tensors |= {
        "Gewichte ä \"'\\": torch.ones(3),
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    tensors |= {"nan": torch.tensor(0.0), "parameter": torch.nn.Parameter(torch.rand(2))}
    write(tensors, tmp_path / "file")
    assert_reads_back(tensors, tmp_path / "file")


def test_no_tensors(tmp_path):
    write({}, tmp_path / "file")
    assert load_file(tmp_path / "file") == {}


def test_same_bytes_as_the_library(tmp_path):
    tensors = {"b.weight": torch.rand(7, 3), "a": torch.rand(5, dtype=torch.float64), "n": torch.rand(3, 0)}
    write(tensors, tmp_path / "ours")
    save_file(tensors, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100])
def test_blocks(tmp_path, monkeypatch, size):
    monkeypatch.setattr(tensor_file, "BLOCK", 16)
    content = bytes(range(size))
    entry = write_hashed(tmp_path / "file", b"begin", memoryview(content))
    assert (tmp_path / "file").read_bytes() == b"begin" + content
    assert entry == {"size": 5 + size, "sha256": hashlib.sha256(b"begin" + content).hexdigest()}


def test_memory_is_used_again_for_the_same_sizes(tmp_path):
    file = StagedFile()
    addresses = []
    for value in (1.0, 2.0):
        tensors = {"a": torch.full((9,), value), "b": torch.tensor(value)}
        write(tensors, tmp_path / "file", file)
        assert_reads_back(tensors, tmp_path / "file")
        addresses.append(file.memory.data_ptr())
    assert addresses[0] == addresses[1]
    write({"a": torch.ones(2)}, tmp_path / "file", file)
    assert_reads_back({"a": torch.ones(2)}, tmp_path / "file")


def test_unknown_type(tmp_path):
    with pytest.raises(AdhmrError, match=r"spectrum: a tensor of torch.complex64 cannot be saved"):
        StagedFile().fill({"spectrum": torch.zeros(2, dtype=torch.complex64)})

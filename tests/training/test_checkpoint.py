"""Checkpoint folders: whole or absent, damage found, retention."""

import json
import logging
import os
import shutil

import pytest
import torch

from adhmr.errors import AdhmrError
from adhmr.training import checkpoint as checkpoint_module
from adhmr.training.checkpoint import Checkpoint, CheckpointStore, differences, verify


def make(step: int) -> Checkpoint:
    shared = torch.full((4, 3), float(step))
    return Checkpoint(
        step=step,
        model={"a": shared, "tied": shared, "transposed": torch.arange(6.0).reshape(2, 3).T},
        ema={"a": shared + 0.5},
        optimizer={"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        state={"updates": step, "interval": [0.1, 1 / 3]},
        config={"kind": "toy", "model": {"width": 3}},
    )


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_saved_and_loaded_equal(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=2)
    assert store.find_last() is None
    folder = store.save(make(7), {"pve": 0.1})
    assert folder.name == "step-00000007" and verify(folder) is None and store.find_last() == folder
    loaded, expected = store.load(folder), make(7)
    for found, wanted in ((loaded.model, expected.model), (loaded.ema, expected.ema)):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], torch.ones(2))
    assert (loaded.step, loaded.state, loaded.config) == (7, expected.state, expected.config)


def test_without_average(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1)
    checkpoint = make(1)
    checkpoint.ema = None
    assert store.load(store.save(checkpoint, {})).ema is None


def test_retention_keeps_the_last_and_the_best(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, best_metric="srcc", best_mode="max")
    assert store.find_best() is None
    for step, srcc in ((1, 0.2), (2, 0.9), (3, 0.4), (4, None), (5, 0.8)):
        store.save(make(step), {} if srcc is None else {"srcc": srcc})
    assert names(store) == ["step-00000002", "step-00000004", "step-00000005"]
    assert store.find_best().name == "step-00000002"
    store.save(make(6), {"srcc": 0.95})
    assert names(store) == ["step-00000005", "step-00000006"]


def test_smaller_is_better_by_default(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=3, best_metric="pve")
    for step, pve in ((1, 0.2), (2, 0.1), (3, 0.3)):
        store.save(make(step), {"pve": pve})
    assert store.find_best().name == "step-00000002"


def _truncate(folder):
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(10)


def _flip(folder):
    with open(folder / "optimizer.pt", "r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, "model.safetensors has 10 bytes"),
        (_flip, "optimizer.pt has another sha256"),
        (lambda folder: (folder / "ema.safetensors").unlink(), "ema.safetensors cannot be read"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text('{"st'), "manifest.json cannot be read"),
    ],
)
def test_damaged_newest_falls_back_with_a_warning(tmp_path, caplog, damage, words):
    store = CheckpointStore(tmp_path, keep_last=2, best_metric="pve")
    good, bad = store.save(make(1), {"pve": 1.0}), store.save(make(2), {"pve": 2.0})
    damage(bad)
    with caplog.at_level(logging.WARNING):
        assert store.find_last() == good
    assert str(bad) in caplog.text and words in caplog.text
    assert names(store) == ["damaged-step-00000002", "step-00000001"]
    store.save(make(2), {})  # the run comes to the same step again
    assert store.find_last() == bad and verify(bad) is None


def test_half_written_folder_is_not_a_checkpoint_and_is_swept(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    good = store.save(make(1), {})
    shutil.copytree(good, tmp_path / ".step-00000002.tmp")
    assert store.find_last() == good
    store.save(make(3), {})
    assert names(store) == ["step-00000001", "step-00000003"]


def test_a_disk_that_refuses_leaves_the_former_checkpoints(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep_last=1)
    good = store.save(make(1), {})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "_sync", full)
    with pytest.raises(AdhmrError, match=r"step-00000002: cannot write this checkpoint .*No space left"):
        store.save(make(2), {})
    assert names(store) == ["step-00000001"] and verify(good) is None


def test_no_rename_before_every_file_is_synced(tmp_path, monkeypatch):
    events = []
    sync, rename = checkpoint_module._sync, os.rename
    monkeypatch.setattr(checkpoint_module, "_sync", lambda path: (events.append(path.name), sync(path)))
    monkeypatch.setattr(os, "rename", lambda old, new: (events.append("rename"), rename(old, new)))
    folder = CheckpointStore(tmp_path, keep_last=1).save(make(1), {})
    assert events.index("rename") == len(events) - 1
    assert sorted(events[:-1]) == sorted(path.name for path in folder.iterdir())
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert sorted([*listed, "manifest.json"]) == sorted(events[:-1])


def test_differences_name_the_leaves():
    saved = {"model": {"width": 1, "same": 2}, "seed": 3, "gone": 4}
    current = {"model": {"width": 5, "same": 2}, "seed": 3}
    assert differences(saved, current) == ["gone: 4 there, None here", "model.width: 1 there, 5 here"]

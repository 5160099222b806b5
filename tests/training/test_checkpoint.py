"""Checkpoint folders: whole or absent, damage found, what a store keeps, saving behind the caller's back."""

import json
import logging
import os
import shutil
import subprocess
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adhmr.errors import AdhmrError
from adhmr.training import checkpoint_folder, tensor_file
from adhmr.training.checkpoint import Checkpoint, CheckpointStore, differences, step_folders, verify


def make(step: int, size: int = 4) -> Checkpoint:
    shared = torch.full((size, 3), float(step))
    return Checkpoint(
        step=step,
        model={"a": shared, "tied": shared, "transposed": torch.arange(6.0).reshape(2, 3).T},
        ema={"a": shared + 0.5},
        optimizer={"step/a": torch.tensor(3.0), "exp_avg/a": torch.ones(2)},
        state={"updates": step, "interval": [0.1, 1 / 3]},
        config={"kind": "toy", "model": {"width": 3}},
    )


def save(store: CheckpointStore, checkpoint: Checkpoint, evaluation: dict | None = None):
    """Saves, waits, and returns the folder."""
    store.save(checkpoint, evaluation or {})
    store.wait()
    return store.folder / f"step-{checkpoint.step:08d}"


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def steps(store: CheckpointStore) -> list[int]:
    return [int(folder.name[5:]) for folder in step_folders(store.folder)]


@pytest.fixture
def slow_disk(monkeypatch):
    """Writers stop before their first file until the event is set."""
    gate = threading.Event()
    write = tensor_file.write_hashed

    def waiting(path, *parts):
        assert gate.wait(60)
        return write(path, *parts)

    for module in (tensor_file, checkpoint_folder):
        monkeypatch.setattr(module, "write_hashed", waiting)
    yield gate
    gate.set()


def assert_equal(found: Checkpoint, wanted: Checkpoint) -> None:
    for part in ("model", "ema", "optimizer"):
        tensors, expected = getattr(found, part), getattr(wanted, part)
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert (found.step, found.state, found.config) == (wanted.step, wanted.state, wanted.config)


def test_saved_and_loaded_equal(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=2)
    assert store.find_last() is None and not store.pending
    folder = save(store, make(7), {"pve": 0.1})
    assert verify(folder) is None and store.find_last() == folder
    assert_equal(store.load(folder), make(7))


def test_without_average(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1)
    save(store, make(1))
    checkpoint = make(2)
    checkpoint.ema = None
    folder = save(store, checkpoint)
    assert store.load(folder).ema is None and not (folder / "ema.safetensors").exists()


def test_loaded_tensors_are_mapped_and_do_not_change_the_file(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1)
    folder = save(store, make(1, size=1 << 18))
    loaded = store.load(folder)
    with open("/proc/self/maps") as maps:
        assert str(folder / "model.safetensors") in maps.read()
    loaded.model["a"].zero_()
    assert verify(folder) is None
    save(store, make(2))  # deletes the folder that is still mapped
    assert torch.equal(loaded.model["tied"], make(1, size=1 << 18).model["tied"])


def test_the_caller_may_change_everything_when_save_returns(tmp_path, slow_disk):
    store = CheckpointStore(tmp_path, keep_last=1)
    checkpoint = make(3)
    evaluation = {"pve": 0.5}
    store.save(checkpoint, evaluation)
    assert store.pending and store.failure is None
    for tensors in (checkpoint.model, checkpoint.ema, checkpoint.optimizer):
        for tensor in tensors.values():
            tensor.fill_(-1.0)
    checkpoint.state["interval"].append("changed")
    checkpoint.config["model"]["width"] = 4
    evaluation["pve"] = 7.0
    slow_disk.set()
    folder = store.find_last()
    assert not store.pending
    assert_equal(store.load(folder), make(3))
    assert json.loads((folder / "manifest.json").read_text())["evaluation"] == {"pve": 0.5}


def test_the_next_save_waits_for_the_one_before(tmp_path, slow_disk):
    store = CheckpointStore(tmp_path, keep_last=5)
    store.save(make(1), {})
    second = threading.Thread(target=store.save, args=(make(2), {}))
    second.start()
    second.join(0.2)
    assert second.is_alive() and names(store) == [".step-00000001.tmp"]
    slow_disk.set()
    second.join(60)
    assert (tmp_path / "step-00000001").exists()  # committed before the second one began
    store.wait()
    assert steps(store) == [1, 2]
    assert_equal(store.load(tmp_path / "step-00000001"), make(1))
    assert_equal(store.load(tmp_path / "step-00000002"), make(2))


def test_buffers_are_used_again_and_follow_the_sizes(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=9)
    addresses = set()
    for step in (1, 2, 3):
        save(store, make(step))
        addresses.add(store._staged._files["model"].memory.data_ptr())
    assert len(addresses) == 1
    save(store, make(4, size=1000))
    save(store, make(5, size=2))
    for step, size in ((3, 4), (4, 1000), (5, 2)):
        assert_equal(store.load(tmp_path / f"step-0000000{step}"), make(step, size))


def test_retention_keeps_the_last_and_the_best(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, best_metric="srcc", best_mode="max")
    assert store.find_best() is None
    for step, srcc in ((1, 0.2), (2, 0.9), (3, 0.4), (4, None), (5, 0.8)):
        save(store, make(step), {} if srcc is None else {"srcc": srcc})
    assert names(store) == ["step-00000002", "step-00000004", "step-00000005"]
    assert store.find_best().name == "step-00000002"
    assert [*store.kept().values()] == [["best"], ["last"], ["last"]]
    save(store, make(6), {"srcc": 0.95})
    assert names(store) == ["step-00000005", "step-00000006"]


def test_smaller_is_better_by_default(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=3, best_metric="pve")
    for step, pve in ((1, 0.2), (2, 0.1), (3, 0.3)):
        save(store, make(step), {"pve": pve})
    assert store.find_best().name == "step-00000002"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keep_last=st.integers(1, 4),
    keep_every=st.none() | st.integers(1, 5),
    mode=st.sampled_from(["min", "max"]),
    saves=st.lists(st.tuples(st.integers(1, 4), st.none() | st.integers(0, 5)), min_size=1, max_size=12),
)
def test_what_is_kept(tmp_path_factory, monkeypatch, keep_last, keep_every, mode, saves):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of saves
    store = CheckpointStore(tmp_path_factory.mktemp("kept"), keep_last, keep_every, "pve", mode)
    step, scores, expected = 0, {}, []
    for advance, pve in saves:
        step += advance
        expected.append(step)
        if pve is not None:
            scores[step] = pve if mode == "min" else -pve
        store.save(make(step), {} if pve is None else {"pve": pve})
        store.wait()
        known = [one for one in expected if one in scores]
        best = min(known, key=lambda one: (scores[one], one)) if known else None
        every = [one for one in expected if keep_every is not None and one % keep_every == 0]
        expected = sorted({*expected[-keep_last:], *every, *([] if best is None else [best])})
        assert steps(store) == expected == [int(name[5:]) for name in names(store)]
    assert all(store.kept().values()) and store.find_last().name == f"step-{step:08d}"


def test_nothing_is_deleted_before_the_next_commit(tmp_path, slow_disk):
    store = CheckpointStore(tmp_path, keep_last=1)
    slow_disk.set()
    save(store, make(1))
    slow_disk.clear()
    store.save(make(2), {})
    assert (tmp_path / "step-00000001").exists() and not (tmp_path / "step-00000002").exists()
    slow_disk.set()
    store.wait()
    assert names(store) == ["step-00000002"]


def test_discard_after(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=9, keep_every=2, best_metric="pve")
    for step in (1, 2, 3):
        save(store, make(step), {"pve": 1.0 / step})
    store.save(make(4), {"pve": 0.0})  # still being written
    store.discard_after(2)
    assert names(store) == ["step-00000001", "step-00000002"]
    assert store.find_last() == store.find_best() == tmp_path / "step-00000002"


def test_newest_until(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=9)
    for step in (2, 4, 6):
        save(store, make(step))
    assert store.newest_until(1) is None
    assert store.newest_until(4) == store.newest_until(5) == tmp_path / "step-00000004"
    (tmp_path / "step-00000004" / "state.json").unlink()
    assert store.newest_until(5) == tmp_path / "step-00000002"
    assert steps(store) == [2, 4, 6]


def test_foreign_names_are_left_alone(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1)
    save(store, make(1))
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000009-copy")
    save(store, make(2))
    assert names(store) == ["step-00000002", "step-00000009-copy"] and store.find_last().name == "step-00000002"


def _truncate(folder):
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(10)


def _flip(folder):
    with open(folder / "optimizer.safetensors", "r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, "model.safetensors has 10 bytes"),
        (_flip, "optimizer.safetensors has another sha256"),
        (lambda folder: (folder / "ema.safetensors").unlink(), "ema.safetensors cannot be read"),
        (lambda folder: (folder / "state.json").write_text(""), "state.json has 0 bytes"),
        (lambda folder: (folder / "config.json").rename(folder / "other"), "config.json cannot be read: No such file"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text('{"st'), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\x00" * 400), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (lambda folder: shutil.rmtree(folder) or folder.mkdir(), "manifest.json is missing"),
        (lambda folder: shutil.rmtree(folder) or folder.write_text(""), "manifest.json is missing"),
    ],
)
def test_damaged_newest_falls_back_with_a_warning(tmp_path, caplog, damage, words):
    store = CheckpointStore(tmp_path, keep_last=2, best_metric="pve")
    good, bad = save(store, make(1), {"pve": 2.0}), save(store, make(2), {"pve": 1.0})
    damage(bad)
    with caplog.at_level(logging.WARNING):
        assert store.find_last() == good
    assert str(bad) in caplog.text and words in caplog.text
    assert names(store) == ["damaged-step-00000002", "step-00000001"]
    save(store, make(2))  # the run comes to the same step again
    assert store.find_last() == bad and verify(bad) is None


def test_half_written_folder_is_not_a_checkpoint_and_is_swept(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    good = save(store, make(1))
    shutil.copytree(good, tmp_path / ".step-00000002.tmp")
    assert store.find_last() == good
    save(store, make(3))
    assert names(store) == ["step-00000001", "step-00000003"]


def test_a_checkpoint_of_another_version_is_named(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    folder = save(store, make(1))
    (folder / "optimizer.safetensors").rename(folder / "optimizer.pt")
    with pytest.raises(AdhmrError, match=r"step-00000001: no optimizer.safetensors; .*another version"):
        store.load(folder)


def test_same_step_again_replaces(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    folder = save(store, make(4))
    checkpoint = make(4)
    checkpoint.model["a"] = torch.zeros(5)
    save(store, checkpoint)
    assert names(store) == [folder.name] and torch.equal(store.load(folder).model["a"], torch.zeros(5))


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_replacement_that_is_cut_off_leaves_one_of_both(tmp_path, monkeypatch, renames):
    store = CheckpointStore(tmp_path, keep_last=2)
    folder = save(store, make(4))
    rename, done = os.rename, []

    class Killed(BaseException):
        """Nothing catches it, as nothing catches a kill."""

    def dying(old, new):
        if len(done) == renames:
            raise Killed
        done.append(new)
        rename(old, new)

    monkeypatch.setattr(os, "rename", dying)
    if renames == 2:
        monkeypatch.setattr(shutil, "rmtree", lambda path, **options: None)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    again = make(4)
    again.model["a"] = torch.zeros(5)
    save(store, again)
    monkeypatch.undo()
    fresh = CheckpointStore(tmp_path, keep_last=2)
    assert fresh.find_last() == folder and verify(folder) is None
    assert_equal(fresh.load(folder), again if renames == 2 else make(4))
    save(fresh, make(5))
    assert names(fresh) == ["step-00000004", "step-00000005"]


def test_a_disk_that_refuses_leaves_the_former_checkpoints(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep_last=1)
    good = save(store, make(1))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file.os, "fsync", full)
    store.save(make(2), {})
    store._writer.join()
    assert isinstance(store.failure, AdhmrError) and not store.pending
    with pytest.raises(AdhmrError, match=r"step-00000002: cannot write this checkpoint .*No space left"):
        store.save(make(3), {})
    store.wait()  # it was said once
    assert names(store) == ["step-00000001"] and verify(good) is None
    monkeypatch.undo()
    save(store, make(4))
    assert names(store) == ["step-00000004"]


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {mounted.stderr.strip()}")
    try:
        store = CheckpointStore(disk / "checkpoints", keep_last=1)
        good = save(store, make(1, size=60_000))  # 60,000 x 3 numbers, 3 times: 2.2 MB
        store.save(make(2, size=60_000), {})
        with pytest.raises(AdhmrError, match=r"step-00000002: cannot write this checkpoint \(.*No space left"):
            store.wait()
        assert names(store) == ["step-00000001"] and verify(good) is None
        assert_equal(store.load(store.find_last()), make(1, size=60_000))
        save(store, make(3, size=10))
        assert names(store) == ["step-00000003"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_bug_in_the_writing_thread_is_not_lost(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep_last=1)
    monkeypatch.setattr(checkpoint_folder, "sync_folder", lambda folder: 1 / 0)
    store.save(make(1), {})
    with pytest.raises(ZeroDivisionError):
        store.wait()


def test_no_rename_before_every_file_is_synced(tmp_path, monkeypatch):
    events = []
    sync, rename = os.fsync, os.rename

    def fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", lambda old, new: (events.append("rename"), rename(old, new)))
    folder = save(CheckpointStore(tmp_path, keep_last=1), make(1))
    files = [path.name for path in folder.iterdir()]
    assert sorted(events[: len(files)]) == sorted(files)
    assert events[len(files) - 1 :] == ["manifest.json", ".step-00000001.tmp", "rename", tmp_path.name]
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert sorted([*listed, "manifest.json"]) == sorted(files)


def test_differences_name_the_leaves():
    saved = {"model": {"width": 1, "same": 2}, "seed": 3, "gone": 4}
    current = {"model": {"width": 5, "same": 2}, "seed": 3}
    assert differences(saved, current) == ["gone: 4 there, None here", "model.width: 1 there, 5 here"]

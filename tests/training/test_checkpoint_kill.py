"""A process that is killed while its checkpoints are written, replaced and deleted: a whole one is always found."""

import os
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from adhmr.training.checkpoint import Checkpoint, CheckpointStore, verify
from tests.distributed.launch import SERVER

KILLS = 25
PATIENCE = 120  # seconds for a process to start and to save: machines are shared


def checkpoint(step: int) -> Checkpoint:
    """Some MB whose content says the step."""
    weights = {f"layer{i}": torch.full((100_000,), float(step + i)) for i in range(4)}
    moments = {f"exp_avg/{name}": value + 0.5 for name, value in weights.items()}
    return Checkpoint(step, weights, {"layer0": weights["layer0"]}, moments, {"number": step}, {"kind": "toy"})


def save_until_killed(run: Path, first: int) -> None:
    """Saves one checkpoint after the other, each third one twice, as after a rewind; notes what is committed."""
    torch.set_num_threads(1)
    store = CheckpointStore(run / "checkpoints", keep_last=1, keep_every=1000)
    noted = os.open(run / "committed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for step in range(first, 10**6):
        for _ in range(2 if step % 3 == 0 else 1):
            store.save(checkpoint(step), {})
        store.wait()
        os.write(noted, f"{step}\n".encode())


def committed(run: Path) -> int:
    """The last step that a saver said was safe."""
    lines = (run / "committed").read_text().splitlines() if (run / "committed").exists() else []
    return int(lines[-1]) if lines else 0


def test_a_whole_checkpoint_survives_each_kill(tmp_path, caplog):
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the fork server is started from it
    chance = random.Random(3)
    cut_off = 0
    for _ in range(KILLS):
        before = committed(tmp_path)
        saver: BaseProcess = SERVER.Process(target=save_until_killed, args=(tmp_path, before + 1))
        saver.start()
        until = time.monotonic() + PATIENCE
        while committed(tmp_path) == before:
            assert time.monotonic() < until and saver.is_alive(), "no checkpoint is saved"
            time.sleep(0.001)
        time.sleep(0.1 * chance.random())
        saver.kill()
        saver.join()

        cut_off += any((tmp_path / "checkpoints").glob(".step-*"))
        store = CheckpointStore(tmp_path / "checkpoints", keep_last=1)
        step = committed(tmp_path)
        folder = store.find_last()
        assert folder is not None and verify(folder) is None
        found = store.load(folder)
        assert found.step in (step, step + 1)  # the one after it may have been committed and not yet noted
        expected = checkpoint(found.step)
        for part in ("model", "ema", "optimizer"):
            tensors, wanted = getattr(found, part), getattr(expected, part)
            assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert cut_off  # some fell into the middle of a write
    assert "damaged" not in caplog.text  # a kill leaves leftovers of other names, never a bad checkpoint

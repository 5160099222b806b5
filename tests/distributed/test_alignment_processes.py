"""Alignment with a trained encoder in one and in two processes: no parameter waits for a gradient that never comes, and
the losses are the same, KTO's distance from the reference included."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from adhmr.training.tracking import read_metrics
from tests.tiny import REPOSITORY, command_environment

PATIENCE = 300  # seconds: machines are shared


def start(file: Path, world_size: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = []
    for rank in range(world_size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
        own = {name: str(value) for name, value in place.items()} | meeting if world_size > 1 else {}
        line = [sys.executable, "-m", "adhmr.cli", "run", str(file)]
        processes.append(subprocess.Popen(line, cwd=REPOSITORY, env={**command_environment(), **own}))
    return processes


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_processes_agree(tmp_path, preferences, tiny_weights, objective):
    curves = {}
    for world_size in (1, 2):
        output = tmp_path / str(world_size)
        config = {
            "stage": "dpo",
            "output": str(output),
            "base": str(tiny_weights / "base.safetensors"),
            "preferences": [{"path": str(preferences / "studio-error")}],
            "workers": 0,
            "objective": objective,
            "train_encoder": True,
            "encoder_lr_scale": 2.0,
            "encoder_head_lr_scale": 10.0,
            "optim": {"lr": 1e-4},
            "train": {"steps": 4, "global_batch": 4, "micro_batch": 4 // world_size, "log_every": 1},
        }
        file = tmp_path / f"{world_size}.yaml"
        file.write_text(yaml.safe_dump(config))
        processes = start(file, world_size)
        try:
            assert [process.wait(PATIENCE) for process in processes] == [0] * world_size
        finally:
            for process in processes:
                process.kill()
        curves[world_size] = read_metrics(output)
    for alone, together in zip(curves[1], curves[2], strict=True):
        for name in ("loss", "grad_norm"):
            assert together[name] == pytest.approx(alone[name], rel=1e-3)
    assert (tmp_path / "2" / "model.safetensors").exists()

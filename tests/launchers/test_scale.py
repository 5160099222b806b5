"""The arithmetic of a scale-up experiment, and what is made of its logs."""

import csv
import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from adhmr.config.loading import check_values
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from launchers.cluster import ClusterConfig
from launchers.scale_figures import draw, measure, write_csv
from launchers.scale_plan import plan_sizes

CLUSTER = ClusterConfig(name="site", kind="slurm", gpus_per_node=4)
STAGE = {
    "stage": "dpo",
    "output": "x",
    "base": "b",
    "preferences": [{"path": "p"}],
    "phases": [{"from_step": 5, "global_batch": 8}],
    "validation": {"path": "v"},
    "optim": {},
    "train": {"steps": 900, "global_batch": 64, "micro_batch": 4, "evaluate_every": 10},
    "tracking": {"wandb": "online"},
    "resources": {"nodes": 2},
}


def plan(scaling="weak", nodes=(1, 2, 4), output=Path("out"), **train):
    values = {**STAGE, "train": {**STAGE["train"], **train}}
    config = check_values(values, TypeAdapter(Stage), "test")
    return plan_sizes(config, CLUSTER, nodes, scaling, 40, 10, output)


def test_weak_keeps_the_share_of_a_rank():
    sizes = plan()
    assert [(size.ranks, size.global_batch, size.micro_batch) for size in sizes] == [
        (4, 32, 4),
        (8, 64, 4),
        (16, 128, 4),
    ]
    assert str(sizes[1]) == "2 nodes: 8 ranks x 8 samples = global batch 64 (2 micro-batches of 4 a rank)"


def test_strong_keeps_the_batch():
    sizes = plan("strong", (1, 4, 8))
    assert [(size.global_batch, size.share, size.micro_batch) for size in sizes] == [
        (64, 16, 4),
        (64, 4, 4),
        (64, 2, 2),
    ]
    with pytest.raises(AdhmrError, match="not a multiple of 12 processes"):
        plan("strong", (3,))


def test_runs_do_nothing_else():
    config = plan()[0].config
    assert (config.train.steps, config.train.log_every, config.train.evaluate_every) == (50, 10, None)
    assert (config.validation, config.phases, config.tracking.wandb) == (None, [], "off")
    assert (config.resources.nodes, str(config.output)) == (1, "out/nodes-0001")


def test_only_training_scales():
    report = {"stage": "synth", "output": "x", "sets": []}
    with pytest.raises(AdhmrError, match="does not train"):
        plan_sizes(check_values(report, TypeAdapter(Stage), "t"), CLUSTER, [1], "weak", 4, 1, Path("o"))


def write_run(size, step_time: float, data_wait: float = 0.1, begun: int = 0, first: float = 99.0):
    run = Path(size.config.output)
    run.mkdir(parents=True)
    (run / "attempts.jsonl").write_text(json.dumps({"event": "begun", "attempt": 1, "step": begun}) + "\n")
    with open(run / "metrics.jsonl", "w") as file:
        for step in range(10, 51, 10):
            seconds = first if step <= begun + 10 else step_time
            several = {"step_time_max": seconds, "data_wait_max": data_wait, "slowest_rank_lag": 0.05}
            line = {"step": step, "step_time": seconds / 2, "data_wait": 0.0, **several}
            file.write(json.dumps(line) + "\n")


def test_measurement(tmp_path):
    sizes = plan(output=tmp_path)
    for size, seconds in zip(sizes, (1.0, 1.25, 2.0)):
        write_run(size, seconds)
    rows = measure(sizes, "weak", 10)
    assert [row.steps for row in rows] == [40, 40, 40]
    assert [row.samples_per_s for row in rows] == pytest.approx([32.0, 51.2, 64.0])
    assert [row.efficiency for row in rows] == pytest.approx([1.0, 0.8, 0.5])
    assert [row.communication for row in rows] == pytest.approx([0.0, 0.9 * 0.25 / 1.25, 0.9 / 2.0])
    assert rows[2].lag == pytest.approx(0.025)
    write_csv(rows, tmp_path / "scale.csv")
    with open(tmp_path / "scale.csv") as file:
        read = list(csv.DictReader(file))
    assert [float(line["efficiency"]) for line in read] == pytest.approx([1.0, 0.8, 0.5])
    draw(rows, tmp_path / "scale.png", "title")
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_strong_computing_shrinks_with_the_share(tmp_path):
    sizes = plan("strong", (1, 2), tmp_path)
    write_run(sizes[0], 1.0, 0.0)
    write_run(sizes[1], 0.6, 0.0)
    rows = measure(sizes, "strong", 10)
    assert rows[1].speedup == pytest.approx(1 / 0.6)
    assert rows[1].communication == pytest.approx(0.1 / 0.6)


def test_an_attempt_that_goes_on_warms_up_again(tmp_path):
    sizes = plan(nodes=(1,), output=tmp_path)
    write_run(sizes[0], 1.0, begun=20)
    row = measure(sizes, "weak", 10)[0]
    assert (row.step_time, row.steps) == (1.0, 20)


def test_nothing_measured(tmp_path):
    sizes = plan(nodes=(1,), output=tmp_path)
    write_run(sizes[0], 1.0, begun=45)
    with pytest.raises(AdhmrError, match="no log line"):
        measure(sizes, "weak", 10)

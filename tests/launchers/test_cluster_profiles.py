"""The profiles that come along, and what a stage gets of them."""

import pytest
import yaml
from pydantic import TypeAdapter

from adhmr.config.loading import check_values
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from launchers.cluster import HERE, ClusterConfig, allocation_of, container_words, load_cluster

TRAIN = {
    "stage": "base",
    "output": "run",
    "data": {"sets": [{"path": "shards"}], "crop": {"size": 64}},
    "base": "base.safetensors",
    "optim": {},
    "train": {"steps": 10, "global_batch": 8},
}
SYNTH = {"stage": "synth", "output": "run", "sets": [{"name": "synth-studio", "count": 5}]}
GPUS = ClusterConfig(name="gpus", kind="slurm", gpus_per_node=4, cpus_per_task=12, memory_gb=480)


def allocated(stage: dict, **resources):
    config = check_values({**stage, "resources": resources}, TypeAdapter(Stage), "test")
    return allocation_of(config, GPUS)


@pytest.mark.parametrize("file", sorted(HERE.glob("*.yaml")), ids=lambda file: file.stem)
def test_profiles_that_come_along(file):
    assert load_cluster(file.stem).name == file.stem


def test_a_name_that_is_not_there():
    with pytest.raises(AdhmrError, match="did you mean example-a100"):
        load_cluster("example-a10")


def test_what_a_stage_gets():
    train = allocated(TRAIN, nodes=2)
    assert (train.ranks, train.gpus_per_node, train.cpus_per_task, train.time_minutes) == (8, 4, 12, 60)
    assert allocated(TRAIN, gpus_per_node=0).ranks == 1
    assert allocated(TRAIN, tasks_per_node=3, memory_gb=5).memory_gb == 5
    assert (allocated(SYNTH).ranks, allocated(SYNTH).gpus_per_node) == (1, 0)


def test_a_container():
    prefix = GPUS.model_copy(update={"container": "apptainer exec --nv 'an image.sif'"})
    assert container_words(prefix) == ([], ["apptainer", "exec", "--nv", "an image.sif"])
    options = GPUS.model_copy(update={"container": "--container-image=image"})
    assert container_words(options) == (["--container-image=image"], [])


def test_a_signal_that_comes_too_early(tmp_path):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump({"kind": "slurm", "time_minutes": 10, "signal_seconds": 300}))
    with pytest.raises(AdhmrError, match="half of time_minutes"):
        load_cluster(str(tmp_path / "site.yaml"))

"""The cluster of slurm/local_cluster.sh itself: what the other tests of this folder rely on."""

import re

import pytest

from tests.slurm.local_cluster import wait_for

pytestmark = pytest.mark.slurm


def test_nodes_have_names_and_find_each_other(cluster):
    lines = cluster.run(
        "srun", "--nodes=4", "sh", "-c", "echo $(hostname) $(getent hosts n2 | cut -d' ' -f1)"
    ).splitlines()
    assert sorted(line.split()[0] for line in lines) == ["n1", "n2", "n3", "n4"]
    assert len({line.split()[1] for line in lines}) == 1


def test_gpus_are_given_out(cluster):
    assert cluster.run("srun", "--gpus-per-node=2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES") == "0,1"


def test_requeued_job_starts_again_and_is_accounted(cluster, tmp_path):
    job = cluster.sbatch("echo start $SLURM_RESTART_COUNT; [ $SLURM_RESTART_COUNT ] || sleep 60", folder=tmp_path)
    log = tmp_path / f"{job}.log"
    wait_for("start", lambda: log.exists() and log.read_text())
    cluster.run("scontrol", "requeue", job)
    cluster.wait_state(job, "COMPLETED")
    assert log.read_text().split("\n")[-2] == "start 1"
    states = wait_for(
        "end in the accounting",
        lambda: "COMPLETED" in (rows := cluster.run("sacct", "-nPXDj", job, "-o", "State")) and rows.splitlines(),
    )
    assert states == ["REQUEUED", "COMPLETED"]


def test_preempted_job_gets_the_signal_and_goes_on_later(cluster, tmp_path):
    script = "srun --nodes=4 bash -c 'trap \"echo saved; exit 0\" USR2; sleep 60 & wait'; sleep 30"
    first = cluster.sbatch(
        f"[ $SLURM_RESTART_COUNT ] || {{ {script}; }}",
        "--partition=low", "--nodes=4", "--signal=USR2@30", folder=tmp_path,
    )  # fmt: skip
    wait_for(
        "step", lambda: re.search(rf"^{first}\.0 ", cluster.run("squeue", "--steps", "--noheader", "-o", "%i %j"), re.M)
    )
    second = cluster.sbatch("true", "--partition=high", "--nodes=4", "--exclusive", folder=tmp_path)
    cluster.wait_state(second, "COMPLETED")
    assert cluster.wait_state(first, "COMPLETED")["Restarts"] == "1"


@pytest.mark.slow
def test_lost_node(healthy, tmp_path):
    """A crash of a job's node is found, the job starts elsewhere, and the node comes back."""
    job = healthy.sbatch("[ $SLURM_RESTART_COUNT ] || srun sleep 100", "--nodes=2", folder=tmp_path)
    healthy.wait_state(job, "RUNNING")
    wait_for("step on n2", lambda: healthy.pids("n2", "sleep 100"))
    healthy.crash("n2")
    assert not healthy.pids("n2", "")
    wait_for("down", lambda: "DOWN" in healthy.node_state("n2"))
    assert healthy.wait_state(job, "COMPLETED")["Restarts"] == "1"


def test_wrong_node_is_named(cluster):
    with pytest.raises(AssertionError, match="'n9' is no node; expected n1 to n4"):
        cluster.crash("n9")

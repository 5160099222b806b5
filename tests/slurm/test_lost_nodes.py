"""Training on a real Slurm cluster whose nodes crash, hang, lose their slurmd or their link, or are drained. The run
goes on elsewhere, a process that comes back writes nothing, and the weights are those of a quiet run."""

import os
import signal
from pathlib import Path

import pytest

from adhmr.training.attempts import EXIT_STALE
from tests.slurm.local_cluster import wait_for
from tests.slurm.training_run import RANK, assert_same_run

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def gone(run, node):
    """Nothing of the run is left on a node."""
    wait_for(f"end of the old processes on {node}", lambda: not run.cluster.pids(node, str(run.output)), 60)


def exit_code(pid: int) -> int:
    """Of a process that has ended and whose parent, which is frozen, has not asked for it."""
    return int(Path(f"/proc/{pid}/stat").read_text().split()[-1]) >> 8


@pytest.mark.parametrize("rank", [0, 1])
def test_node_crashes(rank, healthy, quiet, make_run):
    """Of rank 0 it is the batch host too: no script of the old attempt lives to decide anything."""
    run = make_run("zero2")
    run.wait_step()
    lost = run.nodes()[rank]
    healthy.crash(lost)
    run.wait_done()
    assert len(run.attempts()) == 2 and lost not in run.nodes()
    assert_same_run(run.output, quiet["zero2"].output)


def test_slurmd_is_killed(healthy, quiet, make_run):
    """And stays dead: the processes go on, but Slurm gives the node up."""
    run = make_run("ddp")
    run.wait_step()
    lost = run.nodes()[1]
    healthy.kill_slurmd(lost)
    run.wait_done()
    healthy.start_node(lost)
    gone(run, lost)
    assert_same_run(run.output, quiet["ddp"].output)


def test_slurmd_is_restarted(healthy, quiet, make_run):
    """As in an update of Slurm: the run does not notice."""
    run = make_run("ddp")
    run.wait_step()
    node = run.nodes()[1]
    healthy.kill_slurmd(node)
    healthy.start_node(node)
    run.wait_done()
    assert len(run.attempts()) == 1
    assert_same_run(run.output, quiet["ddp"].output)


def test_frozen_node_thaws(healthy, quiet, make_run):
    """Both ranks are on the node that hangs: thawed, the old attempt is as able to train as the new one. At first the
    ranks alone go on, as on a node that Slurm does not reach: nobody ends them."""
    run = make_run("ddp", nodes=1, tasks_per_node=2)
    run.wait_step()
    lost = run.nodes()[0]
    healthy.freeze(lost)
    old = healthy.pids(lost, f"{RANK} {run.output}")
    assert len(old) == 2
    run.wait_attempt(2)
    for pid in old:
        os.kill(pid, signal.SIGCONT)
    wait_for("end of the old attempt", lambda: not healthy.pids(lost, f"{RANK} {run.output}"))
    assert EXIT_STALE in [exit_code(pid) for pid in old]
    healthy.thaw(lost)
    run.wait_done()
    gone(run, lost)
    # Not always 2: an srun that thaws may end the step of the new attempt, which has the same id.
    assert len(run.attempts()) in (2, 3) and run.ends()[-1] == "done"
    assert_same_run(run.output, quiet["ddp"].output)


def test_cut_link_is_joined(healthy, quiet, make_run):
    if not healthy.own_networks:
        pytest.skip("nodes with links of their own are not allowed here")
    run = make_run("ddp")
    run.wait_step()
    lost = run.nodes()[1]
    healthy.cut(lost)
    run.wait_attempt(2)
    healthy.join(lost)
    run.wait_done()
    gone(run, lost)
    assert lost not in run.nodes()
    assert_same_run(run.output, quiet["ddp"].output)


def test_drained_node(healthy, quiet, make_run):
    """It keeps its job and gets no other one; requeued, the run goes elsewhere."""
    run = make_run("ddp")
    run.wait_step()
    drained = run.nodes()[1]
    healthy.run("scontrol", "update", f"nodename={drained}", "state=drain", "reason=test")
    assert run.ends() == []
    healthy.run("scancel", "--signal", "USR2", run.job)
    run.wait_done()
    assert drained not in run.nodes() and len(run.attempts()) == 2
    assert_same_run(run.output, quiet["ddp"].output)

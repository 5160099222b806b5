"""A running Slurm cluster for a session of tests: four nodes on this machine, each with a network of its own where
that is allowed. Skips with the reason where there can be none. SLURM_LOCAL_DIR and _PORT choose its place."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.local_cluster import SCRIPT, LocalCluster
from tests.slurm.training_run import TrainingRun, stage_of

NODES = 4
LOG_LINES = 60
PLACES = [(Path(f"/tmp/adhmr-slurm-{number}"), 21000 + 500 * number) for number in range(8)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the cluster's controller wrote last."""
    report = yield
    cluster = item.funcargs.get("cluster")
    if report.failed and cluster is not None:
        lines = (cluster.directory / "log/slurmctld.log").read_text(errors="replace").splitlines()
        report.sections.append(("slurmctld.log", "\n".join(lines[-LOG_LINES:])))
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[LocalCluster]:
    if os.geteuid():
        pytest.skip("a Slurm cluster on this machine needs root")
    if not (_installed() or _install()):
        pytest.skip("Slurm's packages are not installed: bash tools/setup.sh --with-slurm")
    directory, port, lock = _free_place()
    cluster = LocalCluster(directory, port, NODES, _networks_allowed())
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SLURM_CONF", str(directory / "slurm.conf"))
        cluster.command("stop")  # what a session that was killed left: its daemons, and below its jobs
        shutil.rmtree(directory, ignore_errors=True)
        cluster.command("start")
        try:
            yield cluster
        finally:
            cluster.command("stop")
            shutil.rmtree(directory)
            for suffix in (".log", ".lock"):
                directory.with_suffix(suffix).unlink(missing_ok=True)
            os.close(lock)


@pytest.fixture
def healthy(cluster) -> Iterator[LocalCluster]:
    """The cluster, made whole again after a test that breaks it."""
    yield cluster
    cluster.heal()


@pytest.fixture(scope="session")
def quiet(cluster, studio_set, tiny_weights, tmp_path_factory) -> dict[str, TrainingRun]:
    """Undisturbed runs on two nodes each, side by side, by strategy."""
    folder = tmp_path_factory.mktemp("quiet")
    stages = {name: stage_of(studio_set, tiny_weights, folder / name, name) for name in ("ddp", "zero2")}
    runs = {name: TrainingRun(cluster, stage) for name, stage in stages.items()}
    for run in runs.values():
        run.wait_done()
    return runs


@pytest.fixture
def make_run(cluster, studio_set, tiny_weights, tmp_path) -> Iterator[Callable[..., TrainingRun]]:
    """make_run(strategy, profile={...}, **resources): a run of this test."""
    made: list[TrainingRun] = []

    def make(strategy: str, profile: dict[str, Any] | None = None, **resources: Any) -> TrainingRun:
        stage = stage_of(studio_set, tiny_weights, tmp_path / f"run{len(made)}", strategy, **resources)
        made.append(TrainingRun(cluster, stage, **(profile or {})))
        return made[-1]

    yield make
    for run in made:
        cluster.run("scancel", "--quiet", run.job)


def _installed() -> bool:
    path = f"{os.environ['PATH']}:/usr/sbin"
    return all(
        shutil.which(name, path=path)
        for name in ("slurmctld", "slurmd", "srun", "munged", "slurmdbd", "mariadbd", "ip")
    )


def _install() -> bool:
    return subprocess.run(["bash", str(SCRIPT), "install"], capture_output=True).returncode == 0


def _free_place() -> tuple[Path, int, int]:
    """A directory and ports that no other session of tests has."""
    chosen = os.environ.get("SLURM_LOCAL_DIR")
    places = [(Path(chosen), int(os.environ.get("SLURM_LOCAL_PORT", "17000")))] if chosen else PLACES
    for directory, port in places:
        lock = os.open(f"{directory}.lock", os.O_WRONLY | os.O_CREAT)  # held for the session
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        return directory, port, lock
    pytest.fail(f"other tests hold {', '.join(str(directory) for directory, _ in places)}")


def _networks_allowed() -> bool:
    probe = "ip link add adhmr0 type bridge && ip link delete adhmr0 && ip netns add adhmr0 && ip netns delete adhmr0"
    return subprocess.run(["sh", "-c", probe], capture_output=True).returncode == 0

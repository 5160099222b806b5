"""`adhmr scale`: a training stage for some steps at each number of nodes, one after the other, and what that tells.

Its sizes are in scale_plan.py, its figures in scale_figures.py, its jobs those of `adhmr submit`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from adhmr.config.loading import load_config
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from launchers.cluster import ClusterConfig, load_cluster
from launchers.job_state import State
from launchers.run_files import read_run
from launchers.run_status import RunStatus, run_status
from launchers.scale_figures import Measurement, draw, measure, write_csv
from launchers.scale_plan import Scaling, Size, plan_sizes
from launchers.slurm_queue import Queue
from launchers.submission import submit_config

Say = Callable[[str], None]
PAUSE = 3.0  # s between two looks at a job
PATIENCE = 300.0  # s in which Slurm may not know what becomes of a job
GOES_ON: tuple[State, ...] = ("pending", "requeued", "running", "suspended", "ending", "unknown")


def scale(
    stage_file: Path,
    overrides: Sequence[str],
    nodes: Sequence[int],
    cluster_name: str,
    scaling: Scaling,
    steps: int,
    warmup: int,
    output: Path | None,
    dry_run: bool,
    say: Say,
) -> None:
    """The same command goes on after an interruption: what is measured is not run again.

    Raises AdhmrError: a batch does not divide, or a run failed; the sizes that ended well are written all the same.
    """
    config = load_config(stage_file, list(overrides), TypeAdapter(Stage))
    cluster = load_cluster(cluster_name)
    folder = output or Path(config.output).with_name(f"{Path(config.output).name}-scale-{scaling}")
    sizes = plan_sizes(config, cluster, nodes, scaling, steps, warmup, folder)
    say(f"{scaling} scaling of {stage_file}: {warmup} steps of warm-up, {steps} measured; into {folder}")
    for size in sizes:
        say(f"  {size}")
    if dry_run:
        return
    ended, failed = [], ""
    for size in sizes:
        failed = _run(size, cluster, say)
        if failed:
            break
        ended.append(size)
    if ended:
        rows = measure(ended, scaling, warmup)
        write_csv(rows, folder / "scale.csv")
        draw(rows, folder / "scale.png", f"{config.stage} stage {stage_file.stem} on {cluster.name}")
        Console().print(render(rows))
        say(f"{folder / 'scale.csv'}, {folder / 'scale.png'}")
    if failed:
        raise AdhmrError(failed)


def _run(size: Size, cluster: ClusterConfig, say: Say) -> str:
    """Until the run has ended; "" or what went wrong."""
    run, queue = Path(size.config.output), Queue()
    files = read_run(run)
    if files.config:
        former = load_config(run / "config.yaml", [], TypeAdapter(Stage))
        if former != size.config:
            raise AdhmrError(f"{run}: holds a run of other settings; choose another --output, or delete that folder")
    if files.trained:
        say(f"{size.nodes} nodes: measured already")
        return ""
    alive = files.job is not None and run_status(run, queue).state in GOES_ON and files.job.kind == "slurm"
    if not alive:
        submitted = submit_config(size.config, cluster, f"scale-{size.nodes}", None)
        if cluster.kind == "slurm":
            say(f"{size.nodes} nodes: job {submitted.job_id}")
    status = _wait(run, queue, say) if cluster.kind == "slurm" else run_status(run, queue)
    if status.state != "done":
        return f"{size.nodes} nodes: {status.state}: {status.reason}; see adhmr logs {run}"
    return _tidied(run)


def _wait(run: Path, queue: Queue, say: Say) -> RunStatus:
    """Until its job is over, or has been unknown for minutes. Ctrl-C leaves the job alone."""
    said, known = "", time.monotonic()
    while True:
        status = run_status(run, queue)
        known = known if status.state == "unknown" else time.monotonic()
        if status.state not in GOES_ON or time.monotonic() - known > PATIENCE:
            return status
        now = f"{run.name}: {status.state}" + (f" ({status.reason})" if status.reason else "")
        if now != said:
            say(now)
            said = now
        time.sleep(PAUSE)


def _tidied(run: Path) -> str:
    shutil.rmtree(run / "checkpoints", ignore_errors=True)  # nobody goes on from them, and there is one for each size
    return ""


def render(rows: Sequence[Measurement]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    names = ("nodes", "ranks", "batch", "s/step", "±", "samples/s", "speed-up", "effic.", "data", "lag", "comm.")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.nodes),
            str(row.ranks),
            str(row.global_batch),
            f"{row.step_time:.3g}",
            f"{row.step_time_deviation:.2g}",
            f"{row.samples_per_s:.4g}",
            f"{row.speedup:.2f}",
            f"{row.efficiency:.0%}",
            f"{row.data_wait:.1%}",
            f"{row.lag:.1%}",
            f"{row.communication:.0%}",
        )
    return table

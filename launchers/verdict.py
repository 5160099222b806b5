"""What follows from the end of an attempt: done, again, again elsewhere, or stop. A function of exit codes and of the
attempts before; who acts on it is in step_end.py and local.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adhmr.config.common import StageConfig
from adhmr.signals import EXIT_REQUEUE
from adhmr.training.attempts import EXIT_STALE, read_attempts
from launchers.cluster import ClusterConfig
from launchers.launch_folder import EXIT_BAD_NODE, EXIT_CANCELLED, Decision, LaunchFolder
from launchers.task_ends import EXIT_USER, TaskEnd

REASON_LENGTH = 300  # characters


@dataclass(frozen=True)
class Verdict:
    code: int  # of the whole job
    decision: Decision
    reason: str
    failed: bool  # whether this attempt counts for the crash-loop guard


def judge(
    code: int,
    why: str,
    cancelled: bool,
    history: Sequence[dict[str, Any]],
    progress: int,
    limits: tuple[int, int | None],
    in_vain: bool = False,
) -> Verdict:
    """code: of the attempt; why: its last words; history: this submission's events before, oldest first.

    progress: a number that has grown when anything was finished for good. limits: attempts in a row that may fail
    without any, and how often the submission may be requeued (None: as often as it takes). in_vain: the time of the job
    was over before anything was finished; the next job has no more of it.
    """
    max_failures, max_requeues = limits
    if code == 0:
        return Verdict(0, "done", "", False)
    if cancelled:
        return Verdict(EXIT_CANCELLED, "stop", "cancelled", False)
    if code == EXIT_USER:
        return Verdict(code, "stop", why or "an error that you can correct, see the log", True)
    if code == EXIT_STALE:
        return Verdict(code, "stop", "a newer attempt of this run goes on elsewhere", False)
    failed = code != EXIT_REQUEUE or in_vain
    left = "left at its time limit before anything was finished" if in_vain else "saved and left, to go on"
    reason = (left if code == EXIT_REQUEUE else f"exit code {code}") + (f": {why}" if why else "")
    failures = 1 + failures_in_a_row(history, progress)
    if failed and failures >= max_failures:
        again = f"{failures} attempts in a row failed without any progress; the last: {reason}"
        return Verdict(code, "stop", f"{again}; correct the cause and submit the stage again", True)
    requeues = sum(line["event"] == "started" for line in _since_retry(history)) - 1
    if max_requeues is not None and requeues >= max_requeues:
        return Verdict(code, "stop", f"requeued {requeues} times (max_requeues of the cluster); {reason}", failed)
    return Verdict(code, "exclude" if code == EXIT_BAD_NODE else "requeue", reason, failed)


def failures_in_a_row(history: Sequence[dict[str, Any]], progress: int) -> int:
    """The latest attempts that failed with no more progress than there is now; those that SLURM ended do not count."""
    count = 0
    for line in reversed(_since_retry(history)):
        if line["event"] != "ended":
            continue
        if not line.get("failed") or line.get("progress", 0) < progress:
            break
        count += 1
    return count


def _since_retry(history: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Without what was before the latest `adhmr retry`: whoever called that has seen to it."""
    last = max((number for number, line in enumerate(history) if line["event"] == "retried"), default=-1)
    return history[last + 1 :]


def limits_of(config: StageConfig, cluster: ClusterConfig) -> tuple[int, int | None]:
    """The trainer counts its own failed starts and refuses with a better message: it comes first."""
    own = config.train.max_failed_starts + 1 if config.trains else 0
    return max(cluster.max_failures, own), cluster.max_requeues


def progress_of(config: StageConfig, run_dir: Path, worker: int | None) -> int:
    """Of a stage that trains the newest checkpoint's step, of others the number of shards and done units.

    A worker of an array has none of its own: the others' progress must not hide that it always fails.
    """
    if worker is not None:
        return 0
    if config.trains:
        folders = run_dir.glob("checkpoints/step-*/manifest.json")
        return max((int(path.parent.name.removeprefix("step-")) for path in folders), default=0)
    outside = run_dir / "launch"
    parts = (path for pattern in ("*.tar", "*.npz", "done/*.json") for path in run_dir.rglob(pattern))
    return sum(not path.is_relative_to(outside) for path in parts)


def explain(folder: LaunchFolder, code: int, ends: Sequence[TaskEnd], worker: int | None, begun: float) -> str:
    """Why an attempt that began at `begun` ended, in a line; "" when there is nothing to say. worker: of an array."""
    cause = next((end for end in ends if end.code == code), None)
    noted = [line for line in read_attempts(folder.run_dir) if line["event"] == "ended" and line["time"] >= begun]
    if noted and noted[-1].get("reason"):
        words = str(noted[-1]["reason"])
    elif code in (0, EXIT_REQUEUE):
        words = ""
    else:
        words = _end_of_log(folder.log(0 if cause is None else cause.rank, worker))
    who = "" if cause is None or code in (0, EXIT_REQUEUE, EXIT_USER) else str(cause)
    return ": ".join(part for part in (who, words) if part)[:REASON_LENGTH]


def _end_of_log(log: Path) -> str:
    """Its last line that says `error:`, else its last line."""
    try:
        with open(log, "rb") as file:
            file.seek(max(file.seek(0, 2) - 8192, 0))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    lines = [line for line in lines if line and not line.startswith(("srun:", "slurmstepd", "==="))]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [""])[-1].removeprefix("error:").strip()

"""`python -m launchers.step_end RUN OWNER CODE`, on the batch host when all ranks have ended: decides what happens next
and does it. Its exit code is the job's, so that jobs which wait for this one start only after a stage that is done."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adhmr.config.loading import load_config
from adhmr.config.stages import Stage
from adhmr.errors import AdhmrError
from adhmr.training.attempts import EXIT_STALE
from launchers.cluster import ClusterConfig
from launchers.launch_folder import EXIT_BAD_NODE, EXIT_CANCELLED, JobRecord, LaunchFolder
from launchers.slurm_job import ending, nodes_of
from launchers.slurm_queue import Queue
from launchers.stage_record import mark_done
from launchers.task_ends import code_of, job_name, read_task_ends, restart_of, worker_of
from launchers.verdict import Verdict, explain, judge, limits_of, progress_of

SIGNAL_EARLY = 75.0  # s


class AttemptEnd:
    """The end of one attempt, on the batch host of a SLURM job."""

    def __init__(self, run_dir: Path, owner: str):
        self.run_dir, self.owner = run_dir, owner
        self.folder = LaunchFolder(run_dir)
        self.cluster = load_config(self.folder.cluster_file, [], ClusterConfig)
        self.config = load_config(run_dir / "config.yaml", [], TypeAdapter(Stage))
        self.job, self.worker, self.restart = job_name(os.environ), worker_of(os.environ), restart_of(os.environ)
        events = [line for line in self.folder.events(self.worker) if line.get("submission") == owner]
        self.history = events
        self.started: dict[str, Any] | None = next((x for x in reversed(events) if x["event"] == "started"), None)

    def close(self, told: int) -> int:
        """The exit code of the job. told: the code that srun gave."""
        if self.folder.owner() != self.owner or self.started is None or not self._is_the_latest():
            return told or EXIT_STALE  # nothing was begun here, or a later attempt goes on
        ends = read_task_ends(self.folder, os.environ)
        ranks = int(os.environ["SLURM_JOB_NUM_NODES"]) * int(os.environ["SLURM_NTASKS_PER_NODE"])
        code = code_of(ends, ranks, told)
        why = explain(self.folder, code, ends, self.worker, self.started["time"])
        end = os.environ.get("ADHMR_JOB_END", "")
        who = ending(self.job, self.restart, float(end) if end else None)
        progress = progress_of(self.config, self.run_dir, self.worker)
        cancelled = self.folder.cancelled_file.exists() or who == "cancelled"
        # SLURM's signal ahead of the time limit comes up to a minute early.
        late = bool(end) and time.time() > float(end) - self.cluster.signal_seconds - SIGNAL_EARLY
        in_vain = late and self.worker is None and progress <= self.started["progress"]
        limits = limits_of(self.config, self.cluster)
        verdict = judge(code, why, cancelled, self.history, progress, limits, in_vain)
        if who == "requeued" and verdict.decision in ("requeue", "exclude"):
            verdict = Verdict(verdict.code, "requeue", f"SLURM has requeued it; {verdict.reason}", False)
        elif verdict.decision == "exclude":
            verdict = self._exclude(verdict, [end.node for end in ends if end.code == EXIT_BAD_NODE])
        self._note(verdict, progress)
        if verdict.decision == "done":
            self._mark_done()
        if who != "requeued" and verdict.decision in ("requeue", "exclude"):
            self._put_back(verdict)
        return verdict.code

    def _is_the_latest(self) -> bool:
        """An attempt that wakes up on a frozen node after the next has begun must not speak for it."""
        return self.started is not None and (self.started["job"], self.started["restart"]) == (self.job, self.restart)

    def _mark_done(self) -> None:
        """Of a pipeline's stage. A worker of an array ends with code 0 when the work of all of them is done."""
        record = self.folder.job()
        if record is not None and record.fingerprint is not None and self.started is not None:
            mark_done(self.run_dir, time.time() - self.started["time"])

    def _exclude(self, verdict: Verdict, bad: list[str]) -> Verdict:
        """Notes the bad nodes, unless too few would be left."""
        record = self.folder.job()
        needed = record.nodes if record else 1
        excluded = set(self.folder.excluded()) | set(bad)
        known = nodes_of(self.cluster.partition)
        left = [name for name in known if name not in excluded]
        reason = f"bad nodes {', '.join(sorted(set(bad)))}: {verdict.reason}"
        if known and len(left) < needed:
            hint = f"of {len(known)} nodes {len(left)} would be left, {needed} are needed"
            hint = f"{hint}; see {self.folder.excluded_file}"
            return Verdict(verdict.code, "stop", f"{reason}; {hint}", True)
        self.folder.exclude(bad)
        return Verdict(verdict.code, "exclude", reason, True)

    def _note(self, verdict: Verdict, progress: int) -> None:
        started = self.started or {}
        self.folder.append_event(
            self.worker,
            event="ended",
            attempt=started.get("attempt"),
            job=self.job,
            restart=self.restart,
            submission=self.owner,
            nodes=started.get("nodes", []),
            code=verdict.code,
            decision=verdict.decision,
            reason=verdict.reason,
            failed=verdict.failed,
            progress=progress,
        )
        reason = f" ({verdict.reason})" if verdict.reason else ""
        print(f"[{time.strftime('%F %T')}] {self.run_dir}: {verdict.decision}{reason}", file=sys.stderr, flush=True)

    def _put_back(self, verdict: Verdict) -> None:
        queue = Queue()
        try:
            if verdict.decision == "exclude":
                queue.exclude(self.job, self.folder.excluded())
            else:
                queue.requeue(self.job)
        except AdhmrError as refused:
            if ending(self.job, self.restart, None) == "requeued":
                return  # SLURM was faster
            self._submit_anew(str(refused))

    def _submit_anew(self, refused: str) -> None:
        """For sites that forbid requeueing. SLURM cancels jobs that wait for this one, for it ends unfinished."""
        from launchers.submission import submit_again

        waiting = "jobs that waited for this one are cancelled: run their `adhmr pipeline` again"
        try:
            if self.worker is not None:
                raise AdhmrError("a worker of an array cannot be submitted alone")
            record: JobRecord = submit_again(self.run_dir)
        except (AdhmrError, OSError) as error:
            reason = f"requeueing was refused ({refused}), and so was a new job ({error})"
            self._note(Verdict(EXIT_CANCELLED, "stop", f"{reason}; `adhmr retry {self.run_dir}`", True), 0)
            return
        print(f"requeueing was refused ({refused}): goes on as job {record.job_id}; {waiting}", file=sys.stderr)


def main() -> None:
    # When the job is requeued or cancelled, SLURM sends SIGTERM here and to the commands that run below.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run_dir, owner, told = sys.argv[1:]
    try:
        sys.exit(AttemptEnd(Path(run_dir), owner).close(int(told)))
    except AdhmrError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

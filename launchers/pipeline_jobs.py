"""The jobs of a pipeline's runs, as Slurm and the run folders tell: what still waits or runs, what is over and why.

Nothing is submitted or cancelled here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adhmr.errors import AdhmrError
from launchers.job_state import UNSETTLED, decide
from launchers.launch_folder import JobRecord, LaunchFolder
from launchers.pipeline_plan import LeftOut, PlannedStage
from launchers.run_files import read_run
from launchers.slurm_queue import Answer, Queue

GOES_ON = ("pending", "held", "requeued", "running", "suspended", "ending")  # leave it alone: it ends by itself
ENDED = (
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "NODE_FAIL",
    "PREEMPTED",
)
PAUSE = 2.0  # s between two questions to Slurm


@dataclass(frozen=True)
class Job:
    """The latest job of a run, on Slurm."""

    record: JobRecord
    state: str  # of job_state.State, or "over"
    reason: str

    @property
    def lives(self) -> bool:
        """It waits or runs; also one that waits for ever, until it is cancelled."""
        return self.state in GOES_ON or self.state == "blocked"

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"job {self.record.job_id} {self.state}{why}"


def jobs_of(stages: Sequence[PlannedStage | LeftOut], queue: Queue, say: Callable[[str], None]) -> dict[str, Job]:
    """Name of a run -> its latest job, of those that were ever submitted. Waits while Slurm is undecided on one.

    Raises AdhmrError: Slurm does not answer, or does not make up its mind.
    """
    records = {stage.name: LaunchFolder(stage.folder).job() for stage in stages}
    submitted = {name: record for name, record in records.items() if record is not None and record.kind == "slurm"}
    folders = {stage.name: stage.folder for stage in stages}
    deadline, told = time.monotonic() + 2 * UNSETTLED, False
    while True:
        answers = queue.ask(record.job_id for record in submitted.values())
        jobs, open_questions = {}, []
        for name, record in submitted.items():
            answer = answers[record.job_id]
            files = read_run(folders[name])
            state, reason = decide(files, answer)
            if state == "unknown" and _is_over(record, answer, files.life == "alive"):
                state = "over"
            elif state == "unknown":
                open_questions.append(f"{name}, job {record.job_id}: {reason}")
            jobs[name] = Job(record, state, reason)
        if not open_questions:
            return jobs
        if time.monotonic() > deadline:
            raise AdhmrError(
                f"what became of {open_questions[0]}; nothing was submitted: run this again when Slurm answers, or "
                f"`adhmr cancel` that run"
            )
        if not told:
            say(f"waiting for Slurm to tell what becomes of {'; '.join(open_questions)}")
            told = True
        time.sleep(PAUSE)


def _is_over(record: JobRecord, answer: Answer, alive: bool) -> bool:
    """Whether a job whose end cannot be told is at least no more: squeue answered, and it neither waits nor runs."""
    if answer.queued is None or alive or time.time() - record.submitted < UNSETTLED:
        return False
    return all(
        row.state in ENDED and row.ended is not None and time.time() - row.ended > UNSETTLED for row in answer.queued
    )


def left_out_of(stages: Sequence[PlannedStage]) -> list[LeftOut]:
    """The runs that read a result of these and are not planned themselves, each once."""
    return list(dict.fromkeys(run for stage in stages for run in stage.left_out))

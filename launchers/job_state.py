"""The state of a run from Slurm's two answers and the files of its folder: one decision, as a table (docs/slurm.md).

Where these cannot tell, the state is `unknown` with the reason: never a guess. Nothing is read or asked here.
"""

from __future__ import annotations

import os
import time
from typing import Literal

from adhmr.preference.progress import Progress
from launchers.run_files import SHARED, RunFiles, allowed_silence
from launchers.slurm_queue import Answer, JobRow

State = Literal[
    "not started", "pending", "blocked", "held", "requeued", "running", "suspended", "ending",
    "done", "stopped", "failed", "cancelled", "preempted", "unknown",
]  # fmt: skip
UNSETTLED = 60.0  # s in which Slurm may not know a new job yet, and may still put a job of a failed node back
LATE = 600.0  # s from the start of a job to that of its stage that call for a look
CLOCKS = 60.0  # s by which the clocks of two machines may differ

# In these Slurm's word is not the last: the job goes on, or is about to.
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REVOKED")
HELD = ("REQUEUE_HOLD", "SPECIAL_EXIT")
ACTIVE = ("RUNNING", "RESIZING")
LEAVING = ("COMPLETING", "SIGNALING", "STAGE_OUT")
OF_THE_END = ("NonZeroExitCode", "RaisedSignal", "TimeLimit", "NodeDown")  # reasons that a requeued job still has
HALTED = ("SUSPENDED", "STOPPED")
FAILED = ("FAILED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "NODE_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL")

Verdict = tuple[State, str]  # and why, "" where there is nothing to add

COMPLETED: Verdict = (
    "unknown",
    "Slurm says COMPLETED, but stage.json does not say done: a file system that lags, or an end that was lost",
)

# Of the tasks of an array, whose state the whole is shown with.
FOREMOST: tuple[State, ...] = (
    "running", "ending", "suspended", "requeued", "pending", "held", "blocked",
    "unknown", "failed", "preempted", "cancelled", "stopped", "done", "not started",
)  # fmt: skip


def decide(files: RunFiles, answer: Answer | None) -> Verdict:
    """answer: of Slurm on the run's job; None for a run without one."""
    if files.done:
        return "done", ""
    if answer is None:
        return _by_files(files)
    if answer.queued is None:
        return _without_squeue(files, answer)
    queued, others = _mine(files, answer.queued)
    accounted, more_others = _mine(files, answer.accounted or ())
    if queued:
        known = {row.task for row in queued}
        rest = [row for row in accounted if row.task not in known and None not in known]  # of an array
        return _of_all([*(_by_squeue(files, row) for row in queued), *(_by_sacct(files, row) for row in rest)])
    note = _strangers([*others, *more_others])
    if accounted:
        return _of_all([_by_sacct(files, row) for row in accounted], note)
    return _not_in_slurm(files, note, answer)


def _by_files(files: RunFiles) -> Verdict:
    """Without Slurm: its processes and what they wrote."""
    if files.life == "alive":
        return ("ending", "it was asked to stop and saves") if files.cancelled else ("running", "")
    ended, begun, last = files.ended, files.begun, files.last_end()
    if files.trained:
        return "done", ""
    if files.units is not None and not files.cancelled and last.get("decision") != "stop":
        return _by_units(files.units)
    if begun is None and files.record is None and not files.events:
        return "not started", ""
    if files.cancelled and files.life != "silent":
        return "cancelled", ""
    if last.get("decision") == "stop":
        return "failed", last.get("reason", "")
    refused = [line for line in files.attempts if line["event"] == "refused"]
    if refused and begun is not None and refused[-1]["time"] > begun["time"]:
        return "failed", "it fails at every start; see its log"
    if ended is not None:
        if ended["outcome"] in ("left", "hung"):
            return "stopped", ended["reason"] or "saved; the same command goes on"
        if ended["outcome"] == "failed":
            return "failed", ended["reason"]
        return "unknown", "its attempt finished, but its folder does not say that it is done"
    if files.life == "dead":
        return "failed", f"its process {begun['pid']} on {begun['host']} is gone without a word: killed"
    if files.life == "silent":
        return "unknown", f"no heartbeat for {_duration(files.silence)}; it ran on {begun['host']}"
    return "unknown", "it was begun and is not done; no process of it is on this machine"


def _by_units(units: Progress) -> Verdict:
    """Of work that is shared by a ledger, wherever its workers are."""
    if units.workers:
        return "running", ""
    if units.done == units.total:
        return "done", ""
    if units.done + units.failed == units.total:
        return "failed", ""  # which units, the status adds
    return "stopped", "no worker gives a sign of life; the same command goes on"


def _by_squeue(files: RunFiles, row: JobRow) -> Verdict:
    """Slurm's controller knows the job: its word counts, but for an end that may not be one."""
    word = row.state
    if word in (*WAITING, *HELD):
        if "NeverSatisfied" in row.reason:
            return "blocked", "a job that it waits for failed or was cancelled: it will never start"
        if word in HELD or "Held" in row.reason or "held" in row.reason:
            return "held", f"{row.reason or word}; scontrol release {row.id} lets it go on"
        before = _started_before(files, row)
        last = files.last_end(row.task).get("reason", "") if before else ""
        return ("requeued" if before else "pending"), "; ".join(
            filter(None, (last, "" if row.reason in OF_THE_END else row.reason))
        )
    if word == "CONFIGURING":
        return "pending", "its nodes are being prepared"
    if word in HALTED:
        return "suspended", ""
    if word in LEAVING:
        return "ending", ""
    if word in ACTIVE:
        return _running(files, row)
    return _ended(files, row)


def _running(files: RunFiles, row: JobRow) -> Verdict:
    if files.cancelled:
        return "ending", "it was asked to stop and saves"
    begun = files.begun
    trains = "train" in files.config and files.config.get("stage") not in SHARED
    if trains and not attempt_has_begun(files, row):
        late = row.started is not None and time.time() - row.started > LATE
        return "running", "started, but no attempt has begun" if late else "starting"
    if trains and begun is not None and files.ended is None:
        allowed = allowed_silence(begun["world_size"])
        now = time.time()
        silent = [beat for beat, written in files.heartbeats.values() if now - written > allowed]
        if silent and now - begun["time"] > allowed:
            who = ", ".join(f"rank {beat.rank} ({beat.host})" for beat in silent[:4])
            more = f" and {len(silent) - 4} more" if len(silent) > 4 else ""
            return "running", f"no heartbeat of {who}{more} for {_duration(min(now - beat.time for beat in silent))}"
    return "running", ""


def attempt_has_begun(files: RunFiles, row: JobRow) -> bool:
    """Whether the latest attempt is of this start of the job, and not of one before."""
    begun = files.begun
    if begun is None or (row.started is not None and begun["time"] < row.started - CLOCKS):
        return False
    started = [event for event in files.events if event["event"] == "started"]
    return not started or int(begun.get("restart") or 0) == started[-1].get("restart", 0)


def _ended(files: RunFiles, row: JobRow) -> Verdict:
    """Slurm says that the job is over, and the folder does not say that the stage is done."""
    word, last = row.state, files.last_end(row.task)
    if word == "CANCELLED" and not files.cancelled and files.job is not None and files.job.after and not row.nodes:
        return "cancelled", "a job that it waited for did not succeed"  # sbatch --kill-on-invalid-dep
    if files.cancelled or word == "CANCELLED":
        return "cancelled", "" if files.cancelled else "by scancel, not by adhmr cancel"
    if word == "PREEMPTED":
        return "preempted", "its partition cancels what it preempts; adhmr retry goes on"
    if word == "NODE_FAIL" and (row.ended is None or time.time() - row.ended < UNSETTLED):
        return "unknown", f"a node of {row.nodes} failed; Slurm puts the job back in a moment, if it may"
    if word == "COMPLETED":
        return COMPLETED
    if word in FAILED:
        if last.get("decision") == "stop":
            return "failed", last.get("reason", "")
        said = f"Slurm says {word}" + (f" ({row.reason})" if row.reason else "")
        if word == "TIMEOUT":
            said = "the time limit was reached before it could save and leave; adhmr retry goes on"
        if last.get("decision") in ("requeue", "exclude"):
            said += "; it asked to be started again, but Slurm has ended it"
        return "failed", said
    return "unknown", f"Slurm's state {word} is not known here"


def _by_sacct(files: RunFiles, row: JobRow) -> Verdict:
    """The controller has forgotten the job, so it is over: an end in the records is its end."""
    if row.state in (*WAITING, *HELD, *ACTIVE, *LEAVING, *HALTED, "CONFIGURING"):
        if files.life == "alive":
            return "unknown", f"sacct says {row.state} and it writes heartbeats, but squeue does not know the job"
        return "unknown", f"sacct says {row.state}, but squeue does not know the job: ask again in a moment"
    return _ended(files, row)


def _without_squeue(files: RunFiles, answer: Answer) -> Verdict:
    """sacct alone may be late, and takes a job that is about to be requeued for an ended one."""
    accounted, _ = _mine(files, answer.accounted or ())
    if _alive_in_job(files):
        return "running", f"by its heartbeats; {answer.problem}"
    words = ", ".join(sorted({row.state for row in accounted}))
    return "unknown", answer.problem + (f"; sacct's last word is {words}" if words else "")


def _not_in_slurm(files: RunFiles, note: str, answer: Answer) -> Verdict:
    last = files.last_end()
    if last.get("decision") == "stop":
        return ("cancelled", "") if files.cancelled else ("failed", last.get("reason", ""))
    if _alive_in_job(files):
        return "running", "; ".join(filter(None, ("by its heartbeats; squeue does not know the job", note)))
    if time.time() - files.job.submitted < UNSETTLED:
        return "unknown", f"Slurm does not know job {files.job.job_id} yet"
    if files.cancelled:
        return "cancelled", ""
    gone = note or f"Slurm knows no job {files.job.job_id}: forgotten, or of another cluster (SLURM_CONF)"
    return "unknown", "; ".join(filter(None, (gone, answer.problem)))


def _mine(files: RunFiles, rows: tuple[JobRow, ...]) -> tuple[list[JobRow], list[JobRow]]:
    """The rows of this very run, and others: a cluster that was set up anew gives the same numbers again."""
    job = files.job
    folder = os.path.realpath(files.folder)
    mine = []
    for row in rows:
        elsewhere = row.scripts and not any(script.startswith(f"{folder}{os.sep}") for script in row.scripts)
        unnamed = not row.scripts and job.name != row.name
        if not elsewhere and not unnamed and row.submitted >= job.submitted - CLOCKS:
            mine.append(row)
    return mine, [row for row in rows if row not in mine]


def _strangers(rows: list[JobRow]) -> str:
    if not rows:
        return ""
    return f"job {rows[0].job} of this cluster is another run's ({rows[0].name}): numbers are given again"


def _of_all(verdicts: list[Verdict], note: str = "") -> Verdict:
    """One verdict for the tasks of an array; of a single job its own."""
    if len(verdicts) > 1:  # a worker may end before the others do
        verdicts = [("done", "") if verdict == COMPLETED else verdict for verdict in verdicts]
    states = [state for state, _ in verdicts]
    state = min(states, key=FOREMOST.index)
    if state == "done":
        return COMPLETED
    reasons = list(dict.fromkeys(reason for its, reason in verdicts if its == state and reason))
    if len(verdicts) > 1:
        reasons = [", ".join(f"{states.count(one)} {one}" for one in FOREMOST if one in states), *reasons[:1]]
    return state, "; ".join(filter(None, (*reasons, note)))


def _started_before(files: RunFiles, row: JobRow) -> bool:
    if any(event["event"] == "started" and event.get("worker") == row.task for event in files.events):
        return True
    return any(line["event"] == "begun" and line.get("job") == row.job for line in files.attempts)


def _alive_in_job(files: RunFiles) -> bool:
    begun = files.begun or {}
    return files.life == "alive" and begun.get("time", 0) >= files.job.submitted - CLOCKS


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "ever"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

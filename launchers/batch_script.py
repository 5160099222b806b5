"""The batch script of a stage, written by submitit: what sbatch is told, the lines before the ranks, after them.

Whether it may be submitted is in checks.py; the submission in submission.py.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any

from submitit import SlurmExecutor

from launchers.cluster import Allocation, ClusterConfig, container_words
from launchers.launch_folder import LaunchFolder
from launchers.snapshot import import_variables


class StageExecutor(SlurmExecutor):
    """submitit's, which makes the text also where there is no SLURM (--dry-run)."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def make_executor(
    folder: LaunchFolder, name: str, owner: str, allocation: Allocation, cluster: ClusterConfig, after: list[str]
) -> StageExecutor:
    """`folder` has absolute paths. after: jobs that must have ended with exit code 0."""
    srun_options, before_python = container_words(cluster)
    python = shlex.join([*before_python, cluster.python or sys.executable])
    array = allocation.array is not None
    executor = StageExecutor(folder.submission, python=python)
    parameters: dict[str, Any] = {
        "job_name": name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "nodes": allocation.nodes,
        "ntasks_per_node": allocation.tasks_per_node,
        "cpus_per_task": allocation.cpus_per_task,
        "gpus_per_node": allocation.gpus_per_node or None,
        "mem": f"{allocation.memory_gb * 1024:.0f}M" if allocation.memory_gb else None,
        "time": allocation.time_minutes,
        "exclude": ",".join(folder.excluded()) or None,
        "dependency": f"afterok:{':'.join(after)}" if after else None,
        "array_parallelism": cluster.array_parallel,
        "signal_delay_s": cluster.signal_seconds,
        "stderr_to_stdout": True,
        "setup": _setup(folder, owner, cluster),
        "teardown": _teardown(folder, owner),
        "srun_args": [
            f"--output={folder.logs / ('worker-%a.log' if array else 'rank-%t.log')}",
            "--open-mode=append",  # over restarts
            "--kill-on-bad-exit=1",  # a rank that fails takes the others along, which would wait for it
            *([f"--cpus-per-task={allocation.cpus_per_task}"] if allocation.cpus_per_task else []),
            *srun_options,
        ],
        "additional_parameters": {
            "requeue": True,
            "chdir": os.getcwd(),  # paths in stage files are relative to it
            "output": str(folder.batch_log()) if not array else str(folder.logs / "batch-%a.log"),
            "kill-on-invalid-dep": "yes",
            **cluster.sbatch_options,
        },
    }
    executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})
    return executor


def script_text(executor: StageExecutor, array: int | None) -> str:
    """What sbatch will get."""
    if array is not None:
        executor.parameters["map_count"] = array
    text = executor._make_submission_file_text(executor._submitit_command_str, "")
    executor.parameters.pop("map_count", None)
    return text


def _setup(folder: LaunchFolder, owner: str, cluster: ClusterConfig) -> list[str]:
    """step_begin says on stdout when the job ends; when it refuses, no rank is started."""
    variables = {**cluster.environment, **import_variables(folder.code)}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    modules = [f"module load {shlex.quote(module)}" for module in cluster.modules]
    return [
        "trap : TERM  # this shell lives on for its last lines",
        *(["type module >/dev/null 2>&1 || . /etc/profile", *modules] if modules else []),
        *exports,
        f"ADHMR_JOB_END=$({_step('begin', folder, owner)}) || exit",
        "export ADHMR_JOB_END",
    ]


def _teardown(folder: LaunchFolder, owner: str) -> list[str]:
    return ["adhmr_code=$?", f'{_step("end", folder, owner)} "$adhmr_code"', "exit"]


def _step(name: str, folder: LaunchFolder, owner: str) -> str:
    return shlex.join([sys.executable, "-m", f"launchers.step_{name}", str(folder.run_dir), owner])

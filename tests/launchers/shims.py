"""Stand-ins for SLURM's commands on PATH, and a job that runs a batch script as SLURM would, a rank after the other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

SBATCH = """
import json, os, pathlib, sys
home = pathlib.Path(os.environ["SHIMS"])
if (home / "sbatch_refuses").exists():
    sys.exit("sbatch: error: " + (home / "sbatch_refuses").read_text())
number = 1000 + len(list(home.glob("job-*")))
(home / f"job-{number}").write_text(json.dumps({"script": pathlib.Path(sys.argv[1]).read_text(), "environment": dict(os.environ)}))
print(f"Submitted batch job {number}")
"""  # noqa: E501
SRUN = """
import os, pathlib, subprocess, sys
words, output = sys.argv[1:], None
while words[0].startswith("-"):
    option = words.pop(0)
    if option == "--output":
        output = words.pop(0)
    elif option.startswith("--output="):
        output = option.partition("=")[2]
tasks, each = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
worst = 0
for rank in range(tasks):
    mine = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % each, "SLURM_NODEID": rank // each}
    mine["SLURMD_NODENAME"] = f"n{rank // each + 1}"
    name = output.replace("%t", str(rank)).replace("%a", os.environ.get("SLURM_ARRAY_TASK_ID", ""))
    with open(name, "ab") as log:
        environment = {**os.environ, **{key: str(value) for key, value in mine.items()}}
        code = subprocess.run(words, env=environment, stdout=log, stderr=log).returncode
    worst = max(worst, code if code >= 0 else 128 - code)
home = pathlib.Path(os.environ["SHIMS"])
if (home / "job_state_after").exists():
    os.replace(home / "job_state_after", home / "job_state")
sys.exit(worst)
"""
SCONTROL = """
import os, pathlib, sys
home = pathlib.Path(os.environ["SHIMS"])
if sys.argv[1] == "show":
    print((home / "job_state").read_text())
else:
    with open(home / "scontrol", "a") as file:
        print(*sys.argv[1:], file=file)
    if (home / "scontrol_refuses").exists():
        sys.exit("Requested operation is presently disabled")
"""
SINFO = """
import sys
print("n1\\nn2\\nn3" if "--Node" in sys.argv else "debug|2:00:00|3\\nlong|infinite|3")
"""
SQUEUE = """
import os, pathlib
print((pathlib.Path(os.environ["SHIMS"]) / "squeue").read_text(), end="")
"""
# In place of the stage: ends as RUN/codes says (a number a rank), and says whose code it is.
STAGE = """
import json, os, pathlib, sys
run = pathlib.Path(sys.argv[2]).parent
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "ADHMR_JOB_END")
print("code of", __file__, {name: os.environ.get(name) for name in names}, flush=True)
number = int(os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ["RANK"])
print("error: the stage is wrong" if (run / "codes").exists() else "fine", flush=True)
code = json.loads((run / "codes").read_text())[number] if (run / "codes").exists() else 0
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class Shims:
    """One imaginary cluster; its files are in `home`."""

    def __init__(self, home: Path, monkeypatch) -> None:
        self.home = home
        commands = home / "bin"
        commands.mkdir(parents=True)
        texts = {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "sinfo": SINFO, "squeue": SQUEUE, "sacct": ""}
        for name, text in texts.items():
            (commands / name).write_text(f"#!{sys.executable}\n{text}")
            (commands / name).chmod(0o755)
        (home / "squeue").write_text("")
        self.state("RUNNING")
        monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
        monkeypatch.setenv("SHIMS", str(home))

    def state(self, state: str, restarts: int = 0, end: str = "2030-01-01T00:00:00", after: bool = False) -> None:
        """What scontrol says of the job; `after` its ranks have ended."""
        file = self.home / ("job_state_after" if after else "job_state")
        file.write_text(f"JobId=1000 JobState={state} Restarts={restarts} EndTime={end}")

    def submitted(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted(self.home.glob("job-*"))]

    def asked(self) -> list[str]:
        """What scontrol was told since the last time."""
        path = self.home / "scontrol"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def run(
        self, number: int = 1000, restart: int = 0, nodes: int = 1, tasks: int = 1, worker: int | None = None
    ) -> int:
        """The exit code of the batch script of a job."""
        variables = {
            "SLURM_JOB_ID": number if worker is None else number + worker,
            "SLURM_JOB_NUM_NODES": nodes,
            "SLURM_NTASKS": nodes * tasks,
            "SLURM_NTASKS_PER_NODE": tasks,
            "SLURM_JOB_NODELIST": "n1" if nodes == 1 else f"n[1-{nodes}]",
            "SLURM_RESTART_COUNT": restart,
        }
        if worker is not None:
            variables |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": worker}
        job = json.loads((self.home / f"job-{number}").read_text())
        environment = job["environment"] | {key: str(value) for key, value in variables.items()}
        script = self.home / f"script-{number}.sh"
        script.write_text(job["script"])
        return subprocess.run(["bash", str(script)], env=environment, capture_output=True, timeout=120).returncode


def stand_in(run_dir: Path, codes: list[int] | None = None) -> None:
    """Puts STAGE in place of the command in the snapshot; `codes` are the exit codes of ranks or workers."""
    (run_dir / "launch/code/adhmr/cli/__main__.py").write_text(STAGE)
    (run_dir / "codes").unlink(missing_ok=True)
    if codes is not None:
        (run_dir / "codes").write_text(json.dumps(codes))


def write_profile(path: Path, **values) -> Path:
    path.write_text(yaml.safe_dump({"kind": "slurm", "partition": "debug", "preflight": False, **values}))
    return path


def copy_packages(target: Path) -> Path:
    """A checkout that is no git repository."""
    source = Path(__file__).resolve().parents[2]
    for package in ("adhmr", "launchers"):
        shutil.copytree(source / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return target

"""The code that a job runs: a copy of the packages `adhmr` and `launchers` in RUN/launch/code, made at the submission.

A job that waits for days, or comes back after one, runs what was submitted, whatever was done to the checkout since.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import adhmr

PACKAGES = ("adhmr", "launchers")
SOURCE = Path(adhmr.__file__).resolve().parents[1]  # a checkout, an installation, or a snapshot itself
ORIGIN = "origin.json"


def take_snapshot(target: Path) -> None:
    """Replaces `target` by the packages as they are now; origin.json says where they came from.

    A former snapshot is taken away by a rename, so that nobody imports half of each.
    """
    temporary, former = target.with_name(f".{target.name}.tmp"), target.with_name(f".{target.name}.former")
    for leftover in (temporary, former):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    for package in PACKAGES:
        shutil.copytree(SOURCE / package, temporary / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (temporary / ORIGIN).write_text(json.dumps({"source": str(SOURCE), **_git_state()}, indent=1) + "\n")
    if target.exists():
        os.rename(target, former)
    os.rename(temporary, target)
    shutil.rmtree(former, ignore_errors=True)


def import_variables(code: Path) -> dict[str, str]:
    """What a Python process needs to import from `code`, wherever it is started and whatever is installed."""
    further = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    # Without PYTHONSAFEPATH, `python -m` imports from the current folder first: the checkout, as often as not.
    return {"PYTHONPATH": os.pathsep.join([str(code), *further]), "PYTHONSAFEPATH": "1"}


def _git_state() -> dict[str, str]:
    """Commit and changed files, where the source is a checkout; {} elsewhere."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changes = _git("diff", "HEAD", "--", *PACKAGES)
        new = _git("ls-files", "--others", "--exclude-standard", "--", *PACKAGES)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit, "diff": changes, "untracked": new}


def _git(*words: str) -> str:
    ran = subprocess.run(
        ["git", "-C", str(SOURCE), *words], capture_output=True, text=True, errors="replace", check=True
    )
    return ran.stdout

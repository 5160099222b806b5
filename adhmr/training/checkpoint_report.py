"""The checkpoints of a run as a table, and their files against their hashes: `adhmr checkpoint show | verify`.

Nothing is changed here, so both may look at a run that is training.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from adhmr.errors import AdhmrError
from adhmr.training.checkpoint import step_folders, step_of
from adhmr.training.checkpoint_folder import read_manifest, verify
from adhmr.training.run_folder import store_of

COLUMNS = ("step", "size", "written", "kept", "state", "evaluation")
SHOWN_FIGURES = 3  # of an evaluation, without train.best_metric


def show(run: Path) -> str:
    """A line for each checkpoint, oldest first; the state is told by the sizes of the files alone.

    kept, by RUN/config.yaml: "last", "every", "best". evaluation: train.best_metric, or the first few figures.
    """
    store = store_of(run)
    rows = [COLUMNS]
    for folder, reasons in store.kept().items():
        problem = verify(folder, hashes=False)
        if not folder.exists():  # deleted meanwhile by a run that is training
            continue
        manifest = read_manifest(folder) or {"files": {}, "evaluation": {}}
        megabytes = sum(file["size"] for file in manifest["files"].values()) / 1e6
        when = manifest.get("written")
        written = "?" if when is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
        evaluation = _figures(manifest["evaluation"], store.best_metric)
        state = "whole" if problem is None else f"damaged: {problem}"
        rows.append((str(step_of(folder)), f"{megabytes:.1f} MB", written, ", ".join(reasons), state, evaluation))
    aside = [f"{folder} was damaged and is set aside" for folder in sorted(store.folder.glob("damaged-step-*"))]
    if len(rows) == 1:
        return "\n".join([f"{run} has no checkpoint", *aside])
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *aside])


def _figures(evaluation: Mapping[str, float], best_metric: str | None) -> str:
    names = [best_metric] if best_metric in evaluation else [*evaluation][:SHOWN_FIGURES]
    rest = len(evaluation) - len(names)
    return ", ".join(f"{name} {evaluation[name]:.4g}" for name in names) + (f", and {rest} more" if rest else "")


def verified(run: Path) -> Iterator[tuple[Path, str | None]]:
    """Each checkpoint, oldest first, and what is wrong with it. Raises AdhmrError when there is none."""
    store = store_of(run)
    folders = step_folders(store.folder)
    if not folders:
        raise AdhmrError(f"{run} has no checkpoint")
    for folder in folders:
        problem = verify(folder)
        if folder.exists():  # else deleted meanwhile
            yield folder, problem

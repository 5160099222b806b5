"""What a report says of a finished clean stage: how many labels were kept, how many known mistakes were found, and the
pictures that the stage has left. The figures are the stage's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adhmr.evaluation.sections import Part, Picture, Table

COUNTS = ("labels", "kept", "dropped", "unusable")
RAW_SCORES = ("raw_5%", "raw_50%", "raw_95%")
TRUTH_FIGURES = {
    "pve_all": "PVE of all labels (mm)",
    "pve_kept": "of the kept",
    "pve_dropped": "of the dropped",
    "pve_kept_at_best": "of the kept, had the worst been dropped",
    "plcc": "PLCC of score and -PVE",
    "srcc": "SRCC of score and -PVE",
    "gross_auc": "a gross mistake scores below another label",
}
PICTURES = {  # file without its ending -> title
    "histogram": "labels by score",
    "mistakes": "found mistakes by limit",
    "kept": "kept labels",
    "dropped": "dropped labels",
}


def section(folder: Path, metric: str) -> tuple[list[str], list[Part]]:
    """Paragraphs and parts; labels are judged by PVE alone."""
    figures = json.loads((folder / "figures.json").read_text())
    limit = f"scores of at least {figures['threshold']}"
    if figures["threshold"] is None:
        limit = f"all but the {figures['percentile']:g} % of lowest scores, set by set"
    sets = figures["sets"]
    parts: list[Part] = [Table("cleaning", "labels kept and dropped", count_rows(sets), sets)]
    known = [one for one in sets if "truth" in one]
    if known:
        parts.append(Table("truth", "score and truth", truth_rows(known), [_truth_record(one) for one in known]))
    for one in known:
        kinds = one["truth"]["kinds"] | {"any mistake": one["truth"]["any mistake"]}
        records = [{"kind": kind, **found} for kind, found in kinds.items()]
        parts.append(Table(f"mistakes-{one['set']}", f"{one['set']}: mistakes found", mistake_rows(kinds), records))
    for one in sets:
        for name, title in PICTURES.items():
            for path in sorted((folder / one["set"]).glob(f"{name}.*")):
                if path.suffix in (".png", ".jpg"):
                    name_here = f"{name}-{one['set']}"
                    parts.append(Picture(name_here, f"{one['set']}: {title}", path.read_bytes, path.suffix[1:]))
    return [f"Labels were kept with {limit}."], parts


def count_rows(sets: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["set", *COUNTS, "share kept", "raw score 5 %", "50 %", "95 %"]]
    for one in sets:
        counts = [f"{one[name]:,}" for name in COUNTS]
        scores = [f"{one[name]:.3f}" for name in RAW_SCORES]
        rows.append([one["set"], *counts, f"{one['kept'] / one['labels']:.1%}", *scores])
    return rows


def truth_rows(known: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["", *(one["set"] for one in known)]]
    for key, title in TRUTH_FIGURES.items():
        digits = 1 if key.startswith("pve") else 3
        rows.append([title, *(_number(one["truth"][key], digits) for one in known)])
    return rows


def mistake_rows(kinds: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A line a kind of mistake: how many labels have it, and how many of these were dropped."""
    rows = [["labels that are", "labels", "dropped", "recall", "share of the dropped"]]
    for kind, one in kinds.items():
        rows.append([kind, *(f"{one[name]:,}" for name in ("labels", "dropped")), _percent(one["recall"])])
        rows[-1].append(_percent(one["precision"]))
    return rows


def _truth_record(one: dict[str, Any]) -> dict[str, Any]:
    return {"set": one["set"], **{key: one["truth"][key] for key in TRUTH_FIGURES}}


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"

"""How well a limit finds wrong labels, where a set's folder holds the truth of its labels (rendered pseudo-labels:
adhmr/data/synthetic/labels.py). Figures and curves; they are drawn in pictures.py, and no choice depends on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import roma
import torch
from scipy.stats import pearsonr, rankdata, spearmanr

from adhmr.body.body_model import BodyModel
from adhmr.data.schema import SAMPLE_DTYPE
from adhmr.data.shard_reader import ShardReader
from adhmr.data.synthetic.build import TRUTH_KIND_NAME, TRUTH_NAME
from adhmr.data.synthetic.labels import GROSS, KIND_NAMES, MILD
from adhmr.errors import AdhmrError
from adhmr.preference.mesh_errors import mesh_errors

BODIES_AT_ONCE = 64
PERCENTILES = np.arange(0, 100.0)
THRESHOLDS = np.linspace(0, 1, 101)
MILLIMETRES = 1e3


class Truth(NamedTuple):
    """What is wrong with each label of a set."""

    errors: np.ndarray  # (rows,) metres, PVE of the label against the true body; NaN where it has no score
    kinds: np.ndarray  # (rows,) indices of KIND_NAMES


def read_truth(reader: ShardReader, body: BodyModel, raw: np.ndarray) -> Truth | None:
    """The truth of a set whose folder has it, else None. raw (rows,): labels whose score is NaN are not read.

    Raises AdhmrError for truth that has another number of rows than the set.
    """
    paths = [Path(reader.index.folder) / name for name in (TRUTH_NAME, TRUTH_KIND_NAME)]
    if not all(path.exists() for path in paths):
        return None
    records, kinds = (np.load(path) for path in paths)
    for path, array in zip(paths, (records, kinds), strict=True):
        if array.shape != raw.shape:
            raise AdhmrError(f"{path}: has {len(array)} rows, its data set {len(raw)}; render the set again")
    errors = np.full(len(raw), np.nan, np.float32)
    known = np.flatnonzero(~np.isnan(raw))
    for first in range(0, len(known), BODIES_AT_ONCE):
        rows = known[first : first + BODIES_AT_ONCE]
        labels = np.array([reader.read_record(int(row)) for row in rows], SAMPLE_DTYPE)
        errors[rows] = vertex_errors(body, labels, records[rows])
    return Truth(errors, kinds)


@torch.no_grad()
def vertex_errors(body: BodyModel, labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) metres: PVE, pelvis on pelvis, of labels (N,) SAMPLE_DTYPE against the truth (N,) SAMPLE_DTYPE."""
    device = body.v_template.device
    pose, betas, target_pose, target_betas = (
        torch.from_numpy(np.ascontiguousarray(records[name])).to(device)
        for records in (labels, truth)
        for name in ("pose", "betas")
    )
    rotations, target = roma.rotvec_to_rotmat(pose)[:, None], roma.rotvec_to_rotmat(target_pose)
    return mesh_errors(body, rotations, betas[:, None], target, target_betas, ("pve",))[:, 0, 0].cpu().numpy()


def judged(raw: np.ndarray, kept: np.ndarray, truth: Truth) -> dict[str, Any]:
    """Figures of one limit over the labels that have a score; raw (rows,), kept (rows,) bool. Errors in millimetres.

    precision: share of the dropped that are mistakes; recall: share of the mistakes that are dropped; both null where
    there is nothing to divide by.
    """
    known = ~np.isnan(raw)
    raw, kept, errors, kinds = raw[known], kept[known], truth.errors[known] * MILLIMETRES, truth.kinds[known]
    dropped, gross = ~kept, kinds == GROSS
    best = np.sort(errors)[: kept.sum()]  # had the labels with the largest errors been dropped, as many
    return {
        "labels": len(raw),
        "dropped": int(dropped.sum()),
        "gross": _precision_recall(dropped, gross),
        "any mistake": _precision_recall(dropped, kinds != MILD),
        "kinds": {name: _precision_recall(dropped, kinds == kind) for kind, name in enumerate(KIND_NAMES)},
        "gross_auc": _auc(-raw, gross),
        "plcc": _of_pairs(pearsonr, raw, -errors),
        "srcc": _of_pairs(spearmanr, raw, -errors),
        "pve_all": _mean(errors),
        "pve_kept": _mean(errors[kept]),
        "pve_dropped": _mean(errors[dropped]),
        "pve_kept_at_best": _mean(best),
    }


def curves(raw: np.ndarray, score: np.ndarray, truth: Truth) -> dict[str, np.ndarray]:
    """What every limit would do: over PERCENTILES of raw scores and over THRESHOLDS of scores, arrays that begin with
    `percentile_` and `threshold_`: limit, kept (share), precision and recall of gross mistakes, recall of each kind
    (kinds, limits), pve_kept (millimetres). NaN where there is nothing to divide by."""
    known = ~np.isnan(raw)
    errors, kinds = truth.errors[known] * MILLIMETRES, truth.kinds[known]
    found = {}
    for name, value, limits in (
        ("percentile", raw[known], np.percentile(raw[known], PERCENTILES)),
        ("threshold", score[known], THRESHOLDS),
    ):
        dropped = value[None] < limits[:, None]  # (limits, labels)
        hits = np.stack([(dropped & (kinds == kind)).sum(1) for kind in range(len(KIND_NAMES))])  # (kinds, limits)
        of_kind = np.bincount(kinds, minlength=len(KIND_NAMES))[:, None]
        found |= {
            f"{name}_limit": PERCENTILES if name == "percentile" else THRESHOLDS,
            f"{name}_kept": 1 - dropped.mean(1),
            f"{name}_precision": _share(hits[GROSS], dropped.sum(1)),
            f"{name}_recall": _share(hits[GROSS], of_kind[GROSS]),
            f"{name}_recall_of_kinds": _share(hits, of_kind),
            f"{name}_pve_kept": _share((~dropped * errors).sum(1), (~dropped).sum(1)),
        }
    return found


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def _precision_recall(dropped: np.ndarray, mistake: np.ndarray) -> dict[str, Any]:
    hits = int((dropped & mistake).sum())
    return {
        "labels": int(mistake.sum()),
        "dropped": hits,
        "precision": hits / int(dropped.sum()) if dropped.any() else None,
        "recall": hits / int(mistake.sum()) if mistake.any() else None,
    }


def _auc(value: np.ndarray, positive: np.ndarray) -> float | None:
    """The probability that a positive has a larger value than a negative."""
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return None
    return float((rankdata(value)[positive].sum() - count * (count + 1) / 2) / (count * others))


def _of_pairs(correlation: Any, first: np.ndarray, second: np.ndarray) -> float | None:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(correlation(first, second).statistic)


def _mean(errors: np.ndarray) -> float | None:
    return float(errors.mean()) if len(errors) else None

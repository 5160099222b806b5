"""The errors of a frozen reference at the positions of a run, computed before by stage reference: what they depend on,
their files, and how a run reads them. They are made in reference_stage.py.

FOLDER/reference.json   all that they depend on, and `unit`
FOLDER/NNNNNN.npy       the unit's positions, from NNNNNN * unit on: elements of `errors_dtype`
FOLDER/index.json       SHA-256 of each of these files; written last
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.config.alignment import DpoStage
from adhmr.data.sampler import PLAN_VERSION, Plan
from adhmr.data.step_plan import StepPlan
from adhmr.data.stream import make_plan, open_sets
from adhmr.errors import AdhmrError
from adhmr.models.weights import weights_hash
from adhmr.training.data import data_of

REQUEST_NAME, INDEX_NAME = "reference.json", "index.json"
MAX_UNITS = 4  # in memory; positions are read in order, so that the former one is seldom asked for again


def errors_dtype(hypotheses: int) -> np.dtype:
    """One position: a mark of the sample that it showed, and the mean errors of joints and of twists of each of its
    hypotheses."""
    return np.dtype([("sample", "<u4"), ("errors", "<f4", (hypotheses, 2))])


def sample_mark(dataset: str, key: str) -> int:
    """CRC-32 of a sample's name. Where a sample was unreadable for one of the two runs alone, they showed different
    ones at that position."""
    return zlib.crc32(f"{dataset}/{key}".encode())


def unit_file(unit: str) -> str:
    return f"{unit}.npy"


def plan_of(config: DpoStage) -> StepPlan:
    """What the steps of the run draw, as its configuration says."""
    data = data_of(config)
    return StepPlan(make_plan(open_sets(data), data, config.seed), config.train.global_batch, config.phases)


def request_of(config: DpoStage, plan: Plan, stored_features: bool) -> dict[str, Any]:
    """All that the errors at a position depend on, as JSON types. No part of it: beta, weights, norm and weighting of
    the objective, the optimizer, how many steps and samples a step, which positions are skipped."""
    mixtures = [{"start": phase.start, "weights": phase.weights, "bases": phase.bases} for phase in plan.phases]
    request = {
        "reference": weights_hash(config.reference or config.base),
        "plan": PLAN_VERSION,
        **{name: getattr(plan, name) for name in ("seed", "period", "block", "window")},
        "mixtures": mixtures,
        "preferences": {plan_set.name: plan_set.source for plan_set in plan.sets},
        "showing": config.showing,
        "pairs_per_image": config.pairs_per_image,
        "group_size": config.group_size if config.showing == "group" else None,
        "noise": config.noise,
        "mask": config.mask,
        "augment": None if config.augment is None else config.augment.model_dump(mode="json"),
        "precision": config.train.precision,
        "features": "stored" if stored_features else "images",
    }
    return json.loads(json.dumps(request))  # as it is read back


class ReferenceErrors:
    """The finished output of a reference stage, for the run that makes this request; may be sent to loader processes.

    Raises AdhmrError: it is unfinished, or was made for another request.
    """

    def __init__(self, folder: Path, request: dict[str, Any]):
        self.folder = folder
        found, self._hashes = (_read(folder, name) for name in (REQUEST_NAME, INDEX_NAME))
        self._unit = found.pop("unit")
        differing = list(_differences(found, request))
        if differing:
            raise AdhmrError(
                f"reference_errors: {folder} was made for another run: {'; '.join(differing)}. Make the keys equal, or "
                "run stage reference with this run's into another folder"
            )
        self._loaded: OrderedDict[str, np.ndarray] = OrderedDict()

    def at(self, position: int, dataset: str, key: str) -> np.ndarray:
        """(H, 2) float32 at a position that shows this sample."""
        number, row = divmod(position, self._unit)
        name = unit_file(f"{number:06d}")
        if name not in self._hashes:
            raise AdhmrError(
                f"reference_errors: {self.folder} holds {len(self._hashes) * self._unit} positions, the run has come "
                f"to position {position}: run its reference stage again with more train.steps (what is there is kept), "
                "then start this run again"
            )
        element = self._file(name)[row]
        if element["sample"] != sample_mark(dataset, key):
            raise AdhmrError(
                f"reference_errors: {self.folder}: position {position} showed another sample than {dataset}, {key}; "
                "one of the two could not be read at the time, or the run goes on with another history of phases: "
                "delete the folder and run its reference stage again"
            )
        return element["errors"]

    def _file(self, name: str) -> np.ndarray:
        if name not in self._loaded:
            content = (self.folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != self._hashes[name]:
                raise AdhmrError(f"{self.folder / name}: is not what was written: delete it and run stage reference")
            self._loaded[name] = np.load(io.BytesIO(content), allow_pickle=False)
            if len(self._loaded) > MAX_UNITS:
                self._loaded.popitem(last=False)
        return self._loaded[name]


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads((folder / name).read_text())
    except FileNotFoundError:
        raise AdhmrError(
            f"reference_errors: {folder}: has no {name}; expected the output of a finished reference stage"
        ) from None


def _differences(found: Any, wanted: Any, key: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in {**found, **wanted}:
            yield from _differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
    elif found != wanted:
        yield f"{key} was {json.dumps(found)}, here {json.dumps(wanted)}"

"""Stage reference: the errors of the frozen reference at the positions of an alignment, before it runs. Units are
runs of positions, shared by any number of workers (adhmr.preference.worker); the files are in reference_errors.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from adhmr.atomic_file import write_atomically
from adhmr.config.alignment import ReferenceStage
from adhmr.data.claim import claim_folder
from adhmr.data.index import canonical_json
from adhmr.data.stream import Batch, build_stream, open_sets
from adhmr.diffusion.schedule import LinearSchedule
from adhmr.models.weights import load_model
from adhmr.preference.ledger import FileNote, Ledger
from adhmr.preference.progress import LEDGERS
from adhmr.preference.records import encode_array
from adhmr.preference.sharing import STOP_MARGIN, check_device, own_device, share
from adhmr.preference.worker import Work, writing
from adhmr.signals import StopRequest
from adhmr.training.data import data_of
from adhmr.training.reference_errors import (
    INDEX_NAME,
    REQUEST_NAME,
    errors_dtype,
    plan_of,
    request_of,
    sample_mark,
    unit_file,
)
from adhmr.training.tasks.pairs import PairTransform, shown
from adhmr.training.tasks.reference import Reference


class PositionErrors:
    """The reference's errors at all positions that the steps of a run may draw, unit by unit. Positions that it skips
    are among them, and the last unit is whole: some that only rewinds come to.

    Raises AdhmrError: the folder holds what was made with other models, data or settings.
    """

    def __init__(self, config: ReferenceStage):
        self.config, self.device = config, own_device()
        self.data = data_of(config)
        self.readers = open_sets(self.data)
        base = load_model(config.base, "base")
        self.reference = Reference(config.model_copy(update={"reference_errors": None}), base)
        self.reference.to(self.device)
        self.schedule = LinearSchedule()
        self.schedule.to(self.device)
        self.transform = PairTransform(config, base.config.crop_size, self.reference.stored_features)
        steps = plan_of(config)
        self.plan = steps.plan.altered(skip_ranges=())  # the stream's indices are positions
        positions = steps.plan.position_of(steps.sizes.first_index(config.train.steps) - 1) + 1
        self.units = [f"{number:06d}" for number in range(-(-positions // config.unit))]
        request = {"unit": config.unit, **request_of(config, steps.plan, self.reference.stored_features)}
        claim_folder(config.output, REQUEST_NAME, request)
        self.name = "positions-" + hashlib.sha256(canonical_json(request)).hexdigest()[:8]

    def works(self, worker: str) -> list[Work]:
        """The units, and after them the index that makes them readable."""
        output, ledger = self.config.output, self.config.ledger
        folder, common = output / LEDGERS / self.name, (output, worker, ledger.lease_seconds, ledger.attempts)
        self.ledger = Ledger(folder, self.units, *common)
        # More steps make more units, and another index.
        index = Ledger(folder / "closing", [f"index-{len(self.units)}"], *common)
        return [Work(self.ledger, self._make), Work(index, self._close, after=self.ledger)]

    def _make(self, unit: str, pause: Callable[[], None]) -> list[FileNote]:
        config = self.config
        batches = config.unit // config.images_per_batch
        stream = build_stream(
            self.readers,
            self.plan,
            self.transform,
            global_batch=config.images_per_batch,
            start_step=int(unit) * batches,
            stop_step=(int(unit) + 1) * batches,
            workers=config.workers,
            quarantine=config.output / "quarantine.jsonl",
            max_corrupt_fraction=self.data.max_corrupt_fraction,
        )
        parts = []
        with closing(stream):
            for batch in stream:
                parts.append(self._elements(batch))
                pause()
        content = encode_array(np.concatenate(parts))
        return [self._written(unit_file(unit), content)]

    @torch.no_grad()
    def _elements(self, batch: Batch) -> np.ndarray:
        """(N,) of errors_dtype."""
        batch = {name: v.to(self.device) if torch.is_tensor(v) else v for name, v in batch.items()}
        x0, noise, t = shown(batch)
        features = self.reference.features(batch)
        errors = self.reference.errors(batch, self.schedule.q_sample(x0, t, noise), t, noise, features)  # (N, H, 2)
        elements = np.zeros(len(errors), errors_dtype(errors.shape[1]))
        elements["errors"] = errors.float().cpu().numpy()
        elements["sample"] = [sample_mark(*names) for names in zip(batch["dataset"], batch["key"], strict=True)]
        return elements

    def _close(self, unit: str, pause: Callable[[], None]) -> list[FileNote]:
        files = {}
        for name in sorted(unit_file(unit) for unit in self.ledger.marked()):
            files[name] = hashlib.sha256((self.config.output / name).read_bytes()).hexdigest()
            pause()
        print(f"{self.config.output}: the reference's errors at {len(files) * self.config.unit} positions", flush=True)
        return [self._written(INDEX_NAME, (json.dumps(files, indent=1) + "\n").encode())]

    def _written(self, name: str, content: bytes) -> FileNote:
        with writing(self.config.output):
            write_atomically(Path(self.config.output) / name, content)
        return FileNote(name, len(content), hashlib.sha256(content).hexdigest())


def run_stage(config: ReferenceStage) -> None:
    """Be one of the workers on the output of the stage, until all is done or a signal says to leave."""
    with StopRequest(margin=STOP_MARGIN) as stop:
        errors = PositionErrors(config)
        units = {errors.name: len(errors.units)}
        device = errors.device
        share(config.output, config.ledger, units, errors.works, device, stop, lambda: check_device(device))

"""The global batch of one step of a run again: its samples as a list, and its crops with their labels drawn.

Reads the run folder's config.yaml and the data state of its newest checkpoint; no weights are loaded, nothing trains.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.body.codec import PoseCodec
from adhmr.config.alignment import DpoStage
from adhmr.config.common import TrainingStage
from adhmr.config.stages import ScorerStage
from adhmr.data.stream import PositionDataSet, open_sets
from adhmr.data.transforms import LabelledCrop, PersonCrop
from adhmr.errors import AdhmrError
from adhmr.models.weights import read_metadata
from adhmr.training.data import ShardData
from adhmr.training.run import data_of
from adhmr.training.run_folder import config_of
from adhmr.training.tasks.pairs import PairTransform
from adhmr.visualization.drawing import draw_skeleton, draw_text, grid

COLUMNS = 8
SMALLEST_CELL = 160  # pixels a side: smaller crops are enlarged, so that their text can be read
WINNER_COLOUR, LOSER_COLOUR = (90, 220, 90), (240, 80, 80)


@dataclass(frozen=True)
class ReplayedSample:
    """One sample of a global batch; `substituted`: it stands for another that could not be read."""

    position: int
    set: str
    epoch: int
    row: int
    key: str
    shard: str
    substituted: bool


def replay(run: str | Path, step: int, output: str | Path | None = None, limit: int | None = None) -> list[str]:
    """Write OUTPUT/step-S.json, the samples of a step in order of position, and OUTPUT/step-S.jpg, the crops of the
    first `limit` as the network saw them; returns what there is to say, in lines.

    Raises AdhmrError: no training run, a step that it does not have, data that cannot be read or have changed so that
    the step's samples are not known.
    """
    run = Path(run)
    config = config_of(run)
    if not 0 <= step < config.train.steps:
        raise AdhmrError(f"step {step}: {run} has steps 0 to {config.train.steps - 1}")
    data, lines = _data_of(run, config)
    lines += _changes(data, step)
    output = Path(output) if output is not None else run / "replay"
    samples, cells = [], []
    for sample, item in _items(data, step):
        samples.append(sample)
        if limit is None or len(cells) < limit:
            note = " substitute" if sample.substituted else ""
            cells.append(draw_text(_drawn(item), f"{sample.position} {sample.set} e{sample.epoch} {sample.key}{note}"))
    document = {"run": str(run), "step": step, "global_batch": len(samples), "samples": [asdict(s) for s in samples]}
    write_atomically(output / f"step-{step}.json", json.dumps(document, indent=1) + "\n")
    sheet = cv2.cvtColor(grid(cells, min(COLUMNS, len(cells))), cv2.COLOR_RGB2BGR)
    write_atomically(output / f"step-{step}.jpg", cv2.imencode(".jpg", sheet)[1].tobytes())
    counts = {name: sum(sample.set == name for sample in samples) for name in sorted({s.set for s in samples})}
    shares = ", ".join(f"{count} of {name}" for name, count in counts.items())
    lines.append(f"step {step}: {len(samples)} samples from position {samples[0].position} on ({shares})")
    return [*lines, f"{output / f'step-{step}.json'}, {output / f'step-{step}.jpg'}"]


def _data_of(run: Path, config: TrainingStage) -> tuple[ShardData, list[str]]:
    """The data of the run with the history of its newest checkpoint, and a line when there is none."""
    settings = data_of(config)
    data = ShardData(open_sets(settings), settings, config.train, config.seed, crop_transform(config))
    states = sorted(run.glob("checkpoints/step-*/state.json"))
    if not states:
        return data, [f"{run} has no checkpoint: taken as {run / 'config.yaml'} plans it"]
    try:
        state = json.loads(states[-1].read_text())["data"]
    except (OSError, ValueError, KeyError) as error:
        raise AdhmrError(
            f"{states[-1]} holds no state of the data ({error!r}): it was written by another adhmr"
        ) from None
    data.step_plan = data.step_plan.recalled(state)
    return data, []


def _changes(data: ShardData, step: int) -> list[str]:
    """A line for each set whose settings have changed since the step; AdhmrError when its samples are others."""
    lines = []
    phase = data.step_plan.plan.phase_at(data.step_plan.position_of_step(step))
    sources = {plan_set.name: plan_set.source for plan_set in data.step_plan.first.sets}
    for name, then in phase.sources.items():
        now = sources[name]
        if now["fingerprint"] != then["fingerprint"]:
            raise AdhmrError(
                f"data set {name} has changed since step {step} (fingerprint {then['fingerprint'][:12]} then, "
                f"{now['fingerprint'][:12]} now): its samples of that step are not known; restore the former data"
            )
        for key in sorted({*then, *now} - {"fingerprint"}):
            if then.get(key) != now.get(key):
                lines.append(f"data set {name}: {key} was {then.get(key)} in step {step}, drawn with {now.get(key)}")
    return lines


def crop_transform(config: TrainingStage) -> PersonCrop | PairTransform:
    """The images and labels that the stage's task trains on, without what it draws for its loss."""
    if isinstance(config, DpoStage):
        crop_size = read_metadata(config.base)["config"]["crop_size"]
        return PairTransform(config, crop_size, stored_features=False)
    kind = LabelledCrop if isinstance(config, ScorerStage) else PersonCrop
    return kind(config.data.crop, config.data.augment, config.data.sets)


def _items(data: ShardData, step: int) -> Iterator[tuple[ReplayedSample, dict]]:
    plan, sizes = data.step_plan.plan, data.sizes
    loaded = PositionDataSet(data.readers, plan, data.transform, None, data.config.max_corrupt_fraction)
    first = sizes.first_index(step)
    for index in range(first, first + sizes.at(step)):
        item = loaded[index]
        position = item["position"]
        number, epoch, planned = plan.sample_at(position)
        index_of_set = data.readers[number].index
        row = next(r for r in (planned, *plan.substitutes_at(position)) if index_of_set.keys[r] == item["key"])
        shard = index_of_set.locate(row).shard
        name = plan.sets[number].name
        yield ReplayedSample(position, name, epoch, row, item["key"], shard, row != planned), item


def _drawn(item: dict) -> np.ndarray:
    """The crop with its label; of a preference sample twice, with the winners and with the losers
    of its pairs, or the better and the worse half of its groups."""
    image = np.ascontiguousarray(item["image"].transpose(1, 2, 0))  # (H, W, 3)
    scale = max(1, -(-SMALLEST_CELL // image.shape[0]))
    size = image.shape[0]
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    if "value" not in item:
        return draw_skeleton(image, scale * item["uvd"][:, :2], item["uvd_weight"][:, 0])
    groups, value = item["x0"], item["value"]  # (G, M, 133), (G, M); best first
    members = value.shape[1]
    better = value > 0 if members == 1 else np.broadcast_to(np.arange(members) < members // 2, value.shape)
    sides = []
    for chosen, colour in ((better, WINNER_COLOUR), (~better, LOSER_COLOUR)):
        picture = image
        for x0 in groups[chosen]:  # (133,)
            uvd, _ = PoseCodec(size).decode(x0[:87], x0[87:])
            picture = draw_skeleton(picture, scale * uvd[:, :2], colour=colour)
        sides.append(picture)
    return np.concatenate(sides, axis=1)

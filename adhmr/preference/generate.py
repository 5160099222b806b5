"""The generation of preferences (paper section 4.3): sample M hypotheses an image, rank them, pair them. What becomes
of the samples is in preference_set.py, how workers share the work in worker.py."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch

from adhmr.body.body_model import BodyModel, body_hash
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.root_depth import estimate_root_depth
from adhmr.config.generation import GenerateStage
from adhmr.data.randomness import RandomKey, generator_for
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardSample
from adhmr.data.stream import Batch, collate
from adhmr.data.transforms import LabelledCrop, PersonCrop
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model, weights_hash
from adhmr.preference.distances import distance_matrix
from adhmr.preference.hypotheses import fresh_noise, hypothesis_noise, pose_hypotheses, sample_hypotheses
from adhmr.preference.mesh_errors import errors_of_hypotheses
from adhmr.preference.pairing import PairRule, make_pairs, pair_records, truth_record
from adhmr.preference.preference_set import PreferenceSet
from adhmr.preference.rankings import RANKINGS, RankingContext
from adhmr.preference.records import encode_array, encoder_hash, features_to_array, hypothesis_records
from adhmr.preference.sharing import STOP_MARGIN, check_device, own_device, share
from adhmr.preference.worker import Work
from adhmr.signals import StopRequest

JPEG_QUALITY = 95
BY_LABEL = {"error", "truth"}  # rankings that need exact labels


class Generator:
    """Models and settings of one generation run; `batches` makes the samples of a unit for every ranking."""

    def __init__(self, config: GenerateStage):
        self.config = config
        self.device = own_device()
        self.base = load_model(config.base, "base").to(self.device)
        self.scorer = None if config.scorer is None else load_model(config.scorer, "scorer").to(self.device)
        if self.base.config.crop_size != config.crop.size:
            trained = self.base.config.crop_size
            raise AdhmrError(f"crop.size is {config.crop.size}, but {config.base} was trained on crops of {trained} px")
        self.body = BodyModel(config.body).to(self.device)
        self.provenance = {
            "base": weights_hash(config.base),
            "encoder": encoder_hash(self.base.encoder),
            "scorer": None if config.scorer is None else weights_hash(config.scorer),
            "seed": config.seed,
            "hypotheses": config.hypotheses,
            "pairs": config.pairs,
            **config.model_dump(include={"strategy", "margin", "confidence", "distinct"}),
            "body": body_hash(config.body),
            "keep": config.keep,
            "features": config.features,
            "precision": config.precision,
            "sampler": config.sampler.model_dump(),
            "ik": config.ik,
        }

    def batches(self, reader: ShardReader, rows: range, rankings: list[str]) -> Iterator[dict[str, list[ShardSample]]]:
        """The preference samples of some rows of a data set, by ranking, batch by batch."""
        for start in range(0, len(rows), self.config.images_per_batch):
            yield self._batch(reader, rows[start : start + self.config.images_per_batch], rankings)

    def check_device(self) -> None:
        """Raises when the device is lost to this process."""
        check_device(self.device)

    @torch.no_grad()
    def _batch(self, reader: ShardReader, rows: range, rankings: list[str]) -> dict[str, list[ShardSample]]:
        config = self.config
        raw = [reader.read(row) for row in rows]
        exact = not BY_LABEL.isdisjoint(rankings)
        crop = LabelledCrop(config.crop) if exact else PersonCrop(config.crop)
        items = [crop(sample, RandomKey(config.seed, row)) for sample, row in zip(raw, rows)]
        batch = {k: v.to(self.device) if torch.is_tensor(v) else v for k, v in collate(items).items()}
        keys = [sample.key for sample in raw]
        features = self.base.encoder(batch["image"])
        noise = hypothesis_noise(config.seed, keys, config.hypotheses)
        fresh = fresh_noise(config.seed, keys, config.hypotheses)
        hypotheses = sample_hypotheses(
            self.base, features, noise, config.crop.size, config.precision, config.sampler, fresh
        )
        errors = None
        if exact or self._scores_rotations():
            hypotheses = self._posed(hypotheses, features.betas, batch)
        if exact:
            errors = errors_of_hypotheses(self.body, hypotheses, features.betas, batch, ["pve"])[..., 0]
        context = RankingContext(
            keys, batch["image"], features, hypotheses, config.crop.size, config.seed, self.scorer, errors
        )
        uvd, twists = hypotheses.uvd.cpu().numpy(), hypotheses.twists.cpu().numpy()
        known = np.full(uvd.shape[:2], np.nan, np.float32) if errors is None else errors.cpu().numpy()  # (N, M)
        images = [np.ascontiguousarray(item["image"].transpose(1, 2, 0)) for item in items]
        jpegs = [_jpeg(image) for image in images]
        packed = None
        if config.features != "none":
            packed = [encode_array(features_to_array(features, n, config.features)) for n in range(len(raw))]
        apart = [distance_matrix(one, config.crop.size) if config.distinct else None for one in uvd]  # (M, M) pixels
        result = {}
        for ranking in rankings:
            values = None if ranking == "truth" else RANKINGS[ranking](context).cpu().numpy()  # (N, M)
            rule = PairRule.of(self.provenance, ranking)
            result[ranking] = []
            for n, sample in enumerate(raw):
                if values is None:
                    records = truth_record(items[n], uvd[n, 0], twists[n, 0], known[n, 0], rule.margin)
                else:
                    rng = generator_for(config.seed, "pairs", ranking, sample.key)
                    pairs = make_pairs(values[n], rule, rng, apart[n])
                    records = pair_records(pairs, uvd[n], twists[n], values[n], known[n])
                if not len(records) and config.keep == "pairs":
                    continue
                extras = {"pairs.npy": encode_array(records)}
                if config.keep == "all":
                    value = -known[n] if values is None else values[n]
                    extras["hypotheses.npy"] = encode_array(hypothesis_records(uvd[n], twists[n], value, known[n]))
                if packed is not None:
                    extras["features.npy"] = packed[n]
                record = _in_crop(sample.record, items[n], config.crop.size)
                provenance = {
                    **self.provenance,
                    "ranking": ranking,
                    "dataset": sample.dataset,
                    "affine": items[n]["affine"].tolist(),  # from pixels of the stored image to pixels of the crop
                    "source": sample.provenance,
                }
                result[ranking].append(ShardSample(sample.key, jpegs[n], record, provenance, extras))
        return result

    def _scores_rotations(self) -> bool:
        return self.scorer is not None and self.scorer.config.variant == "pose6d"

    def _posed(self, hypotheses: Hypotheses, betas: torch.Tensor, batch: Batch) -> Hypotheses:
        """With rotations, at the label's root depth; at the hypothesis' own where the label knows none (is 0)."""
        depth = batch["root_depth"][:, None].expand(hypotheses.uvd.shape[:2])  # (N, M) metres
        if (depth == 0).any():
            estimated = estimate_root_depth(self.body, hypotheses, betas, batch["intrinsics"], self.config.ik)
            depth = torch.where(depth == 0, estimated, depth)
        rotations = pose_hypotheses(self.body, hypotheses, betas, batch["intrinsics"], depth, self.config.ik)
        return hypotheses._replace(rotations=rotations)


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _in_crop(record: np.void, item: dict, size: int) -> np.void:
    """The label record in the frame of the network crop, which is the image that a preference sample stores."""
    moved = record.copy()
    moved["joints29_px"], moved["intrinsics"] = item["uvd"][:, :2], item["intrinsics"]
    moved["image_size"] = size
    return moved


def generate(generator: Generator, stop: StopRequest) -> None:
    """Be one of the workers on the output of a stage, until all is done or `stop` says to leave."""
    config = generator.config
    sets = [PreferenceSet(generator, chosen) for chosen in config.sets]

    def works_of(worker: str) -> list[Work]:
        return [work for chosen in sets for work in chosen.works(worker)]

    units = {chosen.name: len(chosen.units) for chosen in sets}
    share(config.output, config.ledger, units, works_of, generator.device, stop, generator.check_device)


def run_stage(config: GenerateStage) -> None:
    with StopRequest(margin=STOP_MARGIN) as stop:
        generate(Generator(config), stop)

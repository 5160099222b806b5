"""The generation worker (paper section 4.3): sample M hypotheses an image, rank them, write preference shards, unit by
unit. A unit is one output shard; a unit whose shards exist is skipped, so an interrupted run continues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from adhmr.atomic_file import write_atomically
from adhmr.body.body_model import BodyModel, body_hash
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.root_depth import estimate_root_depth
from adhmr.config.stages import GenerateSet, GenerateStage
from adhmr.data.claim import claim_folder
from adhmr.data.index_build import write_index
from adhmr.data.randomness import RandomKey, generator_for
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardSample, shard_name, write_shard
from adhmr.data.stream import Batch, collate
from adhmr.data.transforms import LabelledCrop, PersonCrop
from adhmr.errors import AdhmrError
from adhmr.models.weights import load_model, weights_hash
from adhmr.preference.hypotheses import fresh_noise, hypothesis_noise, pose_hypotheses, sample_hypotheses
from adhmr.preference.mesh_errors import errors_of_hypotheses
from adhmr.preference.pairing import make_pairs, pair_records, truth_record
from adhmr.preference.rankings import RANKINGS, RankingContext
from adhmr.preference.records import encode_array, encoder_hash, features_to_array
from adhmr.progress import track

JPEG_QUALITY = 95
BY_LABEL = {"error", "truth"}  # rankings that need exact labels
REQUEST_NAME = "generation.json"  # what the shards of a folder depend on


class Generator:
    """Models and settings of one generation run; `unit` makes the samples of one output shard for every ranking."""

    def __init__(self, config: GenerateStage):
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
            "margin": config.margin,
            "body": body_hash(config.body),
            "sampler": config.sampler.model_dump(),
            "ik": config.ik,
        }

    def unit(self, reader: ShardReader, rows: range, rankings: list[str]) -> dict[str, list[ShardSample]]:
        """The preference samples of some rows of a data set, by ranking."""
        samples: dict[str, list[ShardSample]] = {ranking: [] for ranking in rankings}
        for start in range(0, len(rows), self.config.images_per_batch):
            batch = rows[start : start + self.config.images_per_batch]
            for ranking, made in self._batch(reader, batch, rankings).items():
                samples[ranking] += made
        return samples

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
        packed = [encode_array(features_to_array(features, n)) for n in range(len(raw))] if config.features else None
        result = {}
        for ranking in rankings:
            values = None if ranking == "truth" else RANKINGS[ranking](context).cpu().numpy()  # (N, M)
            result[ranking] = []
            for n, sample in enumerate(raw):
                if values is None:
                    records = truth_record(items[n], uvd[n, 0], twists[n, 0], known[n, 0], config.margin)
                else:
                    rng = generator_for(config.seed, "pairs", ranking, sample.key)
                    pairs = make_pairs(values[n], config.pairs, config.margin, rng)
                    records = pair_records(pairs, uvd[n], twists[n], values[n], known[n])
                if not len(records):
                    continue
                extras = {"pairs.npy": encode_array(records)}
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


def pending_units(folders: list[Path], rows: range, unit: int) -> Iterator[tuple[int, range]]:
    """(shard number, rows) of the units that lack a shard in one of the folders."""
    for number, start in enumerate(range(0, len(rows), unit)):
        if not all((folder / shard_name(number)).exists() for folder in folders):
            yield number, rows[start : start + unit]


def pair_statistics(folder: Path) -> dict[str, float]:
    """Counts and means over all pairs of a preference folder; errors in millimetres where they are known."""
    reader = ShardReader(folder)
    pairs = np.concatenate([reader.read(row).extras["pairs.npy"] for row in range(len(reader))])
    figures = {"images": len(reader), "pairs": len(pairs)}
    for side in ("winner", "loser"):
        figures[f"{side}_value"] = float(pairs[f"{side}_value"].mean())
        if not np.isnan(pairs[f"{side}_error"]).any():
            figures[f"{side}_pve_mm"] = float(1000 * pairs[f"{side}_error"].mean())
    if "winner_pve_mm" in figures:
        figures["right_order"] = float((pairs["winner_error"] < pairs["loser_error"]).mean())
    return figures


def generate_set(generator: Generator, chosen: GenerateSet, output: Path) -> None:
    """Preference folders of one data set, one a ranking: output/<set>-<ranking>/.

    Raises:
        AdhmrError: a folder holds shards that were made with other models or settings.
    """
    reader = ShardReader(chosen.path)
    folders = [output / f"{reader.name}-{ranking}" for ranking in chosen.rankings]
    rows = range(0, len(reader), chosen.stride)[: chosen.limit]
    settings = generator.config.model_dump(mode="json", include={"crop", "features", "unit", "precision"})
    for folder in folders:
        which = {"data": reader.index.fingerprint, "images": len(rows), "stride": chosen.stride}
        claim_folder(folder, REQUEST_NAME, {**generator.provenance, **settings, **which})
    units = list(pending_units(folders, rows, generator.config.unit))
    for number, part in track(units, f"preferences {reader.name}", "units"):
        samples = generator.unit(reader, part, chosen.rankings)
        for folder, ranking in zip(folders, chosen.rankings):
            write_shard(folder / shard_name(number), samples[ranking])
    for folder, ranking in zip(folders, chosen.rankings):
        source = f"preferences of {reader.index.source} ranked by {ranking}"
        write_index(folder, source=source, split=reader.index.split, licence=reader.index.licence)
        figures = pair_statistics(folder)
        write_atomically(folder / "statistics.json", json.dumps(figures, indent=1))
        print(f"{folder.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)


def run_stage(config: GenerateStage) -> None:
    generator = Generator(config)
    for chosen in config.sets:
        generate_set(generator, chosen, config.output)

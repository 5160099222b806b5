"""From what the device made of a batch to the samples of the preference shards: pairs are chosen and all is encoded,
on the host, while the device goes on. The arrays are described in records.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from adhmr.body.hypotheses import Hypotheses
from adhmr.config.generation import GenerateStage
from adhmr.data.randomness import generator_for
from adhmr.data.shard_writer import ShardSample
from adhmr.models.encoder import ImageFeatures
from adhmr.preference.crops import Crop
from adhmr.preference.distances import distance_matrix
from adhmr.preference.pairing import PairRule, make_pairs, pair_records, truth_record
from adhmr.preference.records import encode_array, features_to_array, hypothesis_records


@dataclass(frozen=True)
class Sampled:
    """Of N images, on the device, where it may still be being made."""

    hypotheses: Hypotheses
    values: dict[str, Tensor]  # by ranking, (N, M); of all rankings but truth
    errors: Tensor | None  # (N, M) PVE in metres, where labels are exact
    features: ImageFeatures | None  # to be stored


def pack(
    config: GenerateStage,
    provenance: dict[str, Any],
    rankings: Sequence[str],
    crops: Sequence[Crop],
    sampled: Sampled,
) -> dict[str, list[ShardSample]]:
    """By ranking, the samples of those images that have any pair, or of all with `keep: all`."""
    uvd, twists = (part.cpu().numpy() for part in (sampled.hypotheses.uvd, sampled.hypotheses.twists))
    errors = np.full(uvd.shape[:2], np.nan, np.float32) if sampled.errors is None else sampled.errors.cpu().numpy()
    features = _encoded_features(sampled.features, config, len(crops))
    apart = [distance_matrix(one, config.crop.size) if config.distinct else None for one in uvd]  # (M, M) pixels
    result: dict[str, list[ShardSample]] = {}
    for ranking in rankings:
        values = -errors if ranking == "truth" else sampled.values[ranking].cpu().numpy()  # (N, M)
        rule = PairRule.of(provenance, ranking)
        result[ranking] = []
        for n, crop in enumerate(crops):
            item = crop.item
            if ranking == "truth":
                records = truth_record(item, uvd[n, 0], twists[n, 0], errors[n, 0], rule.margin)
            else:
                rng = generator_for(config.seed, "pairs", ranking, item["key"])
                pairs = make_pairs(values[n], rule, rng, apart[n])
                records = pair_records(pairs, uvd[n], twists[n], values[n], errors[n])
            if not len(records) and config.keep == "pairs":
                continue
            extras = {"pairs.npy": encode_array(records), **features[n]}
            if config.keep == "all":
                extras["hypotheses.npy"] = encode_array(hypothesis_records(uvd[n], twists[n], values[n], errors[n]))
            where_from = {
                **provenance,
                "ranking": ranking,
                "dataset": item["dataset"],
                "affine": item["affine"].tolist(),  # from pixels of the stored image to pixels of the crop
                "source": crop.provenance,
            }
            result[ranking].append(ShardSample(item["key"], crop.jpeg, crop.record, where_from, extras))
    return result


def _encoded_features(features: ImageFeatures | None, config: GenerateStage, images: int) -> list[dict[str, bytes]]:
    """The member of each image, none where they are not stored."""
    if features is None:
        return [{} for _ in range(images)]
    here = ImageFeatures(*(None if part is None else part.cpu() for part in features))
    arrays = [features_to_array(here, n, config.features) for n in range(images)]
    return [{"features.npy": encode_array(array)} for array in arrays]

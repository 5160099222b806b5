"""Stage "clean": score every label of a set, keep those above a limit, write them as a set of their own. A rerun goes
on after the units that were scored and the shards that were written."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from adhmr.atomic_file import write_atomically
from adhmr.cleaning.known_mistakes import curves, judged, read_truth
from adhmr.cleaning.pictures import histogram, mistakes_plot, write_sheets
from adhmr.cleaning.report import statistics, table
from adhmr.cleaning.scoring import LabelScorer
from adhmr.config.stages import CleanStage
from adhmr.data.claim import claim_folder
from adhmr.data.schema import decode_record
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardWriter
from adhmr.errors import AdhmrError
from adhmr.models.scorer import SCORE_SLOPE, score_of
from adhmr.progress import track

REQUEST_NAME = "cleaning.json"  # what the shards of a folder depend on
SCORES_NAME, SCORE_PARTS = "scores.npz", "score-parts"
KEPT_NAME = "kept.txt"


def kept_rows(raw: np.ndarray, threshold: float | None, percentile: float | None) -> np.ndarray:
    """(rows,) bool: whose score sigmoid(5 raw) reaches `threshold`, or which are not among the lowest `percentile` per
    cent. Rows without a score (NaN) are never kept."""
    if threshold is not None:
        return scores_of(raw) >= threshold
    return raw >= np.nanpercentile(raw, percentile)


def scores_of(raw: np.ndarray) -> np.ndarray:
    """(rows,) scores in [0, 1] of raw ones; NaN stays NaN."""
    return score_of(torch.from_numpy(raw)).numpy()


def raw_of(threshold: float) -> float:
    """The raw score whose score is the threshold: the inverse of scores_of; infinite at 0 and 1."""
    return float(torch.tensor(threshold, dtype=torch.float64).logit()) / SCORE_SLOPE


def score_set(scorer: LabelScorer, reader: ShardReader, folder: Path, unit: int) -> np.ndarray:
    """Raw scores (rows,) of a data set, NaN where a sample cannot be used. Scored units are not scored again."""
    if (folder / SCORES_NAME).exists():
        with np.load(folder / SCORES_NAME) as stored:
            return stored["raw"]
    parts = [folder / SCORE_PARTS / f"{number:06d}.npy" for number in range(-(-len(reader) // unit))]
    missing = [number for number, part in enumerate(parts) if not part.exists()]
    for number in track(missing, f"scores of {reader.name}", "units"):
        rows = range(number * unit, min((number + 1) * unit, len(reader)))
        buffer = io.BytesIO()
        np.save(buffer, scorer.raw_scores(reader, rows, folder / "quarantine.jsonl"))
        write_atomically(parts[number], buffer.getvalue())
    return np.concatenate([np.load(part) for part in parts])


def clean_set(scorer: LabelScorer, path: str | Path, config: CleanStage) -> dict:
    """Writes output/<set>/ and returns its figures.

    Raises:
        AdhmrError: the folder belongs to another request, a sample is not labelled, or nothing is kept.
    """
    reader = ShardReader(path)
    folder = config.output / reader.name
    limit = {"threshold": config.threshold, "percentile": config.percentile}
    request = {**scorer.provenance, **limit, "unit": config.unit, "data": reader.index.fingerprint}
    claim_folder(folder, REQUEST_NAME, request)
    raw = score_set(scorer, reader, folder, config.unit)
    score, kept = scores_of(raw), kept_rows(raw, config.threshold, config.percentile)
    if not (folder / SCORES_NAME).exists():
        buffer = io.BytesIO()
        np.savez_compressed(buffer, keys=np.array(reader.index.keys), raw=raw, score=score, kept=kept)
        write_atomically(folder / SCORES_NAME, buffer.getvalue())
    shutil.rmtree(folder / SCORE_PARTS, ignore_errors=True)
    if not kept.any():
        best = "none has a score" if np.isnan(raw).all() else f"the best score is {np.nanmax(score):.3f}"
        raise AdhmrError(f"{path}: no label is kept ({best}); see {folder / SCORES_NAME}, and change the limit")
    figures = _describe(scorer, reader, folder, raw, kept, config)
    write_atomically(folder / KEPT_NAME, "".join(f"{key}\n" for key in np.array(reader.index.keys)[kept]))
    _write_shards(reader, folder, np.flatnonzero(kept), score, {"scorer": request["scorer"], **limit}, config.unit)
    return figures


def _describe(
    scorer: LabelScorer, reader: ShardReader, folder: Path, raw: np.ndarray, kept: np.ndarray, config: CleanStage
) -> dict:
    """Writes the figures of a set, which it returns, and its pictures."""
    score = scores_of(raw)
    figures = statistics(reader.name, raw, score, kept)
    limit = raw_of(config.threshold) if config.percentile is None else np.nanpercentile(raw, config.percentile)
    limits = (float(limit), float(scores_of(np.float64(limit)[None])[0]))
    histogram(reader.name, raw, score, kept, limits, folder / "histogram.png")
    truth = read_truth(reader, scorer.body, raw)
    if truth is not None:
        figures["truth"] = judged(raw, kept, truth)
        found = curves(raw, score, truth)
        mistakes_plot(reader.name, raw, kept, truth, found, folder / "mistakes.png")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, pve=truth.errors, kind=truth.kinds, **found)
        write_atomically(folder / "mistakes.npz", buffer.getvalue())
    write_sheets(reader, scorer.crop, raw, kept, truth, config.pictures, folder)
    write_atomically(folder / "statistics.json", json.dumps(figures, indent=1))
    return figures


def _write_shards(
    reader: ShardReader, folder: Path, rows: np.ndarray, score: np.ndarray, provenance: dict, samples_per_shard: int
) -> None:
    """The chosen rows of a set, bytes unchanged but for the provenance, in shards of their own."""
    source = f"{reader.index.source}, cleaned by scorer {provenance['scorer']}"
    description = {"source": source, "split": reader.index.split, "licence": reader.index.licence}
    with ShardWriter(folder, **description, samples_per_shard=samples_per_shard) as writer:
        for row in rows[writer.completed_samples :]:
            members = reader.read_members(row)
            image, record = members.pop("jpg"), decode_record(members.pop("npy"))
            origin = {**json.loads(members.pop("json", b"{}")), "cleaning": {**provenance, "score": float(score[row])}}
            writer.write(reader.index.keys[row], image, record, origin, members)


def run_stage(config: CleanStage) -> None:
    scorer = LabelScorer(config)
    figures = [clean_set(scorer, path, config) for path in config.sets]
    limit = {"threshold": config.threshold, "percentile": config.percentile}
    write_atomically(config.output / "figures.json", json.dumps({**limit, "sets": figures}, indent=1))
    text = table(figures)
    write_atomically(config.output / "table.txt", text)
    print(text, end="", flush=True)

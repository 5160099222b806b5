"""Filters: the predicates, and evaluating them once over all records of a data set into a table beside the shards.

A filtered set is opened by index.py through filter_rows.py; nothing is filtered while training.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

from adhmr.config.data import FilterConfig
from adhmr.data.filter_rows import describe_filter, filter_names
from adhmr.data.index import DataSetIndex, canonical_json
from adhmr.data.schema import boxed_points
from adhmr.data.shard_pool import over_shards
from adhmr.data.shard_reader import CorruptSampleError, ShardReader
from adhmr.data.storage import read_file
from adhmr.errors import AdhmrError

BODY_JOINTS = 24


def box_side(record: np.void) -> float:
    """Longer side of the tight box of the known body joints, or of an unlabelled person's, pixels of the stored image;
    0 when neither is known."""
    points = boxed_points(record)
    return float(np.ptp(points, axis=0).max()) if len(points) else 0.0


def visible_joints(record: np.void) -> int:
    """Body joints with a confidence above 0 inside the stored image."""
    height, width = record["image_size"]
    u, v = record["joints29_px"][:BODY_JOINTS].T  # (24,) each
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return int((inside & (record["joints_conf"][:BODY_JOINTS] > 0)).sum())


def build_filter(folder: str | Path, filter: FilterConfig, processes: int = 1) -> DataSetIndex:
    """Write the table of a filter beside the shards, unless it is there, and open the filtered set.

    Raises AdhmrError: files that cannot be read or are about other samples, a record that cannot be read, nothing left.
    """
    index = DataSetIndex.load(folder)
    description = describe_filter(index.fingerprint, filter)
    manifest, rows_name = filter_names(description)
    try:
        index.storage.read(manifest)
    except FileNotFoundError:
        rows = _rows(index, filter, processes)  # (kept,)
        if not len(rows):
            raise AdhmrError(
                f"{folder}: the filter leaves none of {index.num_samples} samples; lower its limits"
            ) from None
        buffer = io.BytesIO()
        np.save(buffer, rows)
        content = buffer.getvalue()
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        index.storage.write(rows_name, content)
        document = {**description, "num_samples": len(rows), "rows": entry}
        index.storage.write(manifest, canonical_json(document))  # last: the table is built when this is there
    return DataSetIndex.load(folder, filter=filter)


def _rows(index: DataSetIndex, filter: FilterConfig, processes: int) -> np.ndarray:
    """The rows that the filter leaves, ascending; (kept,) uint32."""
    kept = np.ones(index.num_samples, bool)
    if filter.exclude is not None:
        kept &= ~_named(index, filter.exclude)
    if filter.min_score is not None:
        kept &= _scores(index, filter.scores) >= filter.min_score  # NaN, no score, is not
    if filter.min_box is not None or filter.min_joints is not None:
        rows = np.split(np.flatnonzero(kept), np.searchsorted(np.flatnonzero(kept), index.first_row[1:-1]))
        shared = ShardReader.of(index), filter
        kept[np.concatenate(list(over_shards(_failing_rows, shared, rows, processes, f"filter {index.name}")))] = False
    return np.flatnonzero(kept).astype(np.uint32)


def _failing_rows(shared: tuple[ShardReader, FilterConfig], rows: np.ndarray) -> np.ndarray:
    """Those of a shard's rows whose record fails a predicate."""
    (reader, filter), failing = shared, []
    for row in rows.tolist():
        try:
            record = reader.read_record(row)
        except CorruptSampleError as error:
            raise AdhmrError(
                f"{error}; list what is damaged by `adhmr data verify {reader.index.folder} --list FILE`, and give "
                "that as the filter's exclude"
            ) from error
        small = filter.min_box is not None and not box_side(record) >= filter.min_box  # NaN is small
        if small or (filter.min_joints is not None and visible_joints(record) < filter.min_joints):
            failing.append(row)
    reader.close()
    return np.asarray(failing, np.int64)


def _named(index: DataSetIndex, path: str) -> np.ndarray:
    """(rows,) bool: whose key is a line of the file."""
    names = set(read_file(path).decode(errors="replace").split())
    found = np.fromiter((key in names for key in index.keys), bool, index.num_samples)
    if names and not found.any():
        raise AdhmrError(f"{path}: none of its {len(names)} lines is a key of {index.folder}; expected one key a line")
    return found


def _scores(index: DataSetIndex, path: str) -> np.ndarray:
    """(rows,) scores in [0, 1] by key, from a clean stage's scores.npz."""
    try:
        with np.load(io.BytesIO(read_file(path)), allow_pickle=False) as stored:
            score_of = dict(zip(stored["keys"].tolist(), stored["score"].tolist(), strict=True))
    except (ValueError, KeyError, OSError) as error:
        raise AdhmrError(f"{path} is not the scores.npz of a clean stage ({error})") from error
    try:
        return np.fromiter((score_of[key] for key in index.keys), np.float64, index.num_samples)
    except KeyError as error:
        raise AdhmrError(
            f"{path} has no score of sample {error} of {index.folder}: its scores are of another data set; clean this"
        ) from None

"""Looking at a shard folder: a sheet of its images with their labels drawn, and a table of what it holds.

The drawing itself is in visualization/drawing.py.
"""

from pathlib import Path

import numpy as np

from adhmr.data.schema import boxed_points
from adhmr.data.shard_reader import ShardReader
from adhmr.visualization.drawing import draw_box, draw_skeleton, draw_text, grid
from adhmr.visualization.picture_file import write_picture

DESCRIBED_RECORDS = 2000
COLUMNS = 8


def contact_sheet(folder: str | Path, count: int, path: str | Path) -> Path:
    """Write a picture of `count` samples spread evenly over the folder, each with its skeleton, or box, and
    key.

    Raises AdhmrError for a folder that is no data set, a corrupt sample, and a picture that cannot be written.
    """
    reader = ShardReader(folder)
    cells = []
    for row in spread(len(reader), count):
        sample = reader.read(row)
        image = draw_skeleton(sample.image, sample.record["joints29_px"], sample.record["joints_conf"])
        if not sample.record["joints_conf"].any() and len(corners := boxed_points(sample.record)):
            image = draw_box(image, [*corners.min(0).tolist(), *corners.max(0).tolist()])
        cells.append(draw_text(image, sample.key))
    return write_picture(path, grid(cells, min(COLUMNS, len(cells))))


def describe(folder: str | Path) -> str:
    """A table of what a shard folder holds; ranges and shares are of up to 2000 records spread over it."""
    reader = ShardReader(folder)
    index = reader.index
    rows = spread(len(reader), DESCRIBED_RECORDS)
    records = np.stack([np.asarray(reader.read_record(row)) for row in rows])  # (R,) SAMPLE_DTYPE
    known = records["joints_conf"] > 0  # (R, 29)
    sizes, counts = np.unique(records["image_size"], axis=0, return_counts=True)
    common = ", ".join(f"{h} x {w}: {n / len(rows):.0%}" for n, (h, w) in sorted(zip(counts, sizes.tolist()))[:-4:-1])
    lines = [
        ("data set", f"{index.name} ({index.folder})"),
        ("samples", f"{index.num_samples:,} in {len(index.shard_names)} shards, {index.num_bytes / 1e6:,.1f} MB"),
        ("source, split", f"{index.source}, {index.split}"),
        ("licence", index.licence),
        ("fingerprint", index.fingerprint[:16]),
        ("records read", f"{len(rows):,}"),
        ("image height x width", common),
        *(
            (name, f"{records[name].astype(bool).mean():.1%}")
            for name in records.dtype.names
            if name.startswith("has_")
        ),
        ("joints with confidence", f"{known.mean():.1%}"),
    ]
    for label, field, names, unit in (("joints", "joints29_px", "xy", "px"), ("joints", "joints29", "XYZ", "m")):
        values = records[field][known]  # (K, 2 or 3)
        for axis, name in enumerate(names if len(values) else ""):
            low, high = np.nanmin(values[:, axis]), np.nanmax(values[:, axis])
            lines.append((f"{label} {name}", f"{low:.2f} to {high:.2f} {unit}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def spread(total: int, count: int) -> list[int]:
    """Up to `count` of the numbers below `total`, evenly."""
    return np.unique(np.linspace(0, total - 1, min(total, max(1, count))).astype(int)).tolist()

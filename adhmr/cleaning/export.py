"""`adhmr clean export`: the labels of a shard folder as files that other programs train on. The formats themselves are
in export_human_data.py and export_coco.py; copies of the owners' own files, in filter_originals.py."""

from __future__ import annotations

from pathlib import Path

from adhmr.body.body_model import BodyModel
from adhmr.body.smplx_body import SmplxBody
from adhmr.cleaning.export_coco import IMAGES, write_coco
from adhmr.cleaning.export_human_data import write_human_data
from adhmr.cleaning.portable_labels import crops_as_images, in_original_images
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError

FORMATS = ("human-data", "coco")


def export(
    folder: str | Path,
    format: str,
    output: Path,
    images: bool = False,
    smplx: Path | None = None,
    body: Path | None = None,
) -> list[str]:
    """Writes the labels of a shard folder below `output` and returns what there is to say, in lines.

    Args:
        format: one of FORMATS.
        images: export the stored crops too, and labels in their pixels; else labels are for the owners' images.
        smplx: coco's fits are of this SMPL-X body; null: of SMPL.
        body: what the labels were made with, null for the open body; needed for smplx only.

    Raises:
        AdhmrError: a sample without a whole label, or that cannot be told in its original image.
    """
    if smplx is not None and format != "coco":
        raise AdhmrError(f"--smplx is for --format coco; {format} takes SMPL's parameters as they are")
    reader = ShardReader(folder)
    place = output / (IMAGES if format == "coco" else "images")
    labels = list(crops_as_images(reader, place) if images else in_original_images(reader))
    if format == "coco":
        bodies = None if smplx is None else (BodyModel(body), SmplxBody(smplx, "smpl"))
        written = write_coco(labels, output, bodies)
        again = (
            f"adhmr data convert coco-neuralannot --root {output}{'' if smplx is None else f' --smplx neutral={smplx}'}"
        )
    else:
        written = [output / f"{reader.name}.npz"]
        write_human_data(labels, written[0], f"{reader.index.source}, {reader.index.split}")
        again = f"adhmr data convert human-data --root {place if images else 'IMAGES'} --file {written[0]}"
    lines = [f"{len(labels):,} labels of {folder}", *(f"wrote {path}" for path in written)]
    if images:
        lines.append(f"wrote {len(labels):,} images to {place}")
    unknown = sum(not one.record["has_betas"] for one in labels)
    if unknown:
        lines.append(
            f"{unknown:,} of them have no known shape: the formats cannot say so, theirs is that of the record"
        )
    if format == "coco" and not images:
        lines.append(f"link the folder of the images to {place}")
    return [*lines, f"read it with: {again} --out FOLDER"]

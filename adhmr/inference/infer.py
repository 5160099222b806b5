"""The command `adhmr infer`: everybody in some images, batch by batch; outputs appear as soon as they are made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adhmr.body.body_model import body_hash
from adhmr.data.boxes import parse_box, read_boxes
from adhmr.errors import AdhmrError
from adhmr.inference.images import find_images, read_image
from adhmr.inference.outputs import SHEET_COLUMNS, write_person, written_request
from adhmr.inference.persons import Person, find_persons
from adhmr.inference.predictor import Prediction, Predictor
from adhmr.models.weights import read_metadata, weights_hash

DEFAULT_PADDING = 1.25  # for weight files that do not say what crops they learnt with


@dataclass(frozen=True)
class InferenceSettings:
    """The options of the command, whose help says what each means."""

    checkpoint: Path
    scorer: Path | None
    body: Path | None
    output: Path
    hypotheses: int
    seed: int
    ik: str
    precision: str
    batch: int
    meshes: str
    save_hypotheses: int
    overwrite: bool

    def identity(self) -> dict[str, Any]:
        """Of all but the person that the outputs of a person depend on."""
        if self.save_hypotheses > self.hypotheses:
            raise AdhmrError(
                f"--save-hypotheses {self.save_hypotheses}: only {self.hypotheses} are sampled; raise --hypotheses"
            )
        return {
            "checkpoint": weights_hash(self.checkpoint),
            "scorer": None if self.scorer is None else weights_hash(self.scorer),
            "body": body_hash(self.body),
            "hypotheses": self.hypotheses,
            "seed": self.seed,
            "ik": self.ik,
            "precision": self.precision,
            "meshes": self.meshes,
            "save_hypotheses": self.save_hypotheses,
        }


def infer(
    images: Sequence[Path],
    settings: InferenceSettings,
    *,
    boxes_file: Path | None = None,
    boxes: Sequence[str] = (),
    padding: float | None = None,
    focal: float | None = None,
) -> None:
    """Write the outputs of everybody and say one line of each.

    `padding` None takes what the checkpoint says that it learnt with. People whose outputs are there for the very same
    request are left as they are.

    Raises:
        AdhmrError: before anything is computed, what is wrong with images, boxes, weights, or outputs of another
            request; later, an image that turns out to be cut off.
    """
    files = find_images(images)
    if padding is None:
        padding = read_metadata(settings.checkpoint).get("crop_padding", DEFAULT_PADDING)
    people = find_persons(files, *_boxes(files, boxes_file, boxes), padding, focal)
    for path in sorted(set(files) - {person.image for person in people}):
        print(f"{path}: no box, nobody to look at", flush=True)
    identity = settings.identity()
    requests = {person.name: _request(person, identity) for person in people}
    todo = [person for person in people if not _is_there(settings, person, requests[person.name])]
    if not todo:
        return
    predictor = Predictor(
        settings.checkpoint,
        settings.scorer,
        settings.body,
        hypotheses=settings.hypotheses,
        seed=settings.seed,
        ik=settings.ik,
        precision=settings.precision,
        meshes=min(settings.hypotheses, max(SHEET_COLUMNS, settings.save_hypotheses)),
    )
    for batch, pixels in _batches(todo, settings.batch):
        located = predictor.locate(batch, pixels)
        for person, image, prediction in zip(located, pixels, predictor(located, pixels), strict=True):
            folder = settings.output / person.name
            write_person(
                folder,
                person,
                image,
                prediction,
                predictor.body.faces,
                requests[person.name],
                settings.meshes,
                settings.save_hypotheses,
            )
            print(f"{folder}: {_summary(prediction)}", flush=True)


def _boxes(
    files: Sequence[Path], boxes_file: Path | None, boxes: Sequence[str]
) -> tuple[dict[str, list[tuple[float, float, float, float]]] | None, str]:
    """Boxes by image name, or None, and where they come from."""
    if boxes_file is not None and boxes:
        raise AdhmrError("--box and --boxes: give one of them")
    if boxes_file is not None:
        return read_boxes(boxes_file), str(boxes_file)
    if not boxes:
        return None, "the whole image"
    if len(files) > 1:
        raise AdhmrError(
            f"--box is for one image, but {len(files)} were given; write the boxes into a file for --boxes"
        )
    return {files[0].name: [parse_box(text) for text in boxes]}, "--box"


def _request(person: Person, identity: dict[str, Any]) -> dict[str, Any]:
    own = {
        "image": person.image.name,
        "image_sha256": _file_hash(person.image),
        "person": person.number,
        "box": list(person.box),
        "box_of": person.box_of,
        "padding": person.padding,
        "focal": person.focal,
    }
    return {**own, **identity}


def _is_there(settings: InferenceSettings, person: Person, request: dict[str, Any]) -> bool:
    """Whether the person's outputs need not be made; raises AdhmrError when another request's are in their place."""
    folder = settings.output / person.name
    if settings.overwrite or not folder.exists():
        return False
    written = written_request(folder)
    if written == request:
        print(f"{folder}: there already, made with the same settings", flush=True)
        return True
    if written is None:
        difference = "is not a person's outputs"
    else:
        name = next(name for name in request if written.get(name) != request[name])
        difference = f"was made with {name} {written.get(name)}, asked for {request[name]}"
    raise AdhmrError(f"{folder}: {difference}; choose another --output, or --overwrite to replace it")


def _batches(people: Sequence[Person], size: int) -> Iterator[tuple[list[Person], list[np.ndarray]]]:
    """People in batches with their images; an image is read once for neighbouring people."""
    former: tuple[Path, np.ndarray] | None = None
    for start in range(0, len(people), size):
        batch = list(people[start : start + size])
        pixels = []
        for person in batch:
            if former is None or former[0] != person.image:
                former = person.image, read_image(person.image)
            pixels.append(former[1])
        yield batch, pixels


def _summary(prediction: Prediction) -> str:
    arrays = prediction.arrays
    count = len(arrays["hypothesis"])
    text = f"{count} {'hypothesis' if count == 1 else 'hypotheses'}, pelvis {arrays['transl'][0][2]:.2f} m away"
    if "scores" in arrays:
        scores = arrays["scores"]
        text += f", best score {scores[0]:.3f} (hypothesis {arrays['hypothesis'][0]}), worst {scores[-1]:.3f}"
    return text


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise AdhmrError(f"{path}: cannot be read ({error.strerror})") from error

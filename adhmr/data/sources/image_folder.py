"""A folder of images without labels, for alignment in the wild: people by a file of boxes, or each image one person.

What a file of boxes looks like is in adhmr.data.boxes. Records of such people are made in labels.py."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np

from adhmr.data.boxes import read_boxes
from adhmr.data.sources.person import Person, person_key
from adhmr.data.sources.source import Rejected, Release, Source
from adhmr.errors import AdhmrError

ENDINGS = (".jpg", ".jpeg", ".png")


class ImageFolder(Source):
    """Images without labels, of the root and folders below it; --file: boxes of people, else each image is one."""

    # Images that the file has no box of show nobody. Pixels are those of the image as its EXIF orientation turns it, as
    # people see it and as detectors do. Images of one folder are one group (a video's frames), those of the root none.

    name = "images"
    licence = "as that of the images"
    splits = ("all",)

    def __init__(self, release: Release) -> None:
        self.image_root, self._boxes_file = release.root, release.file
        found = (path for path in release.root.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        names = sorted(path.relative_to(release.root).as_posix() for path in found)
        if not names:
            raise AdhmrError(f"{release.root}: holds no image; expected files that end in {', '.join(ENDINGS)}")
        boxes = None if release.file is None else read_boxes(release.file, folders=True)
        if boxes is not None:
            self._check(boxes, names)
        chosen = names[:: release.stride]
        self._people = [
            (name, number, box)
            for name in chosen
            for number, box in enumerate([None] if boxes is None else boxes.get(name, []))
        ]

    def _check(self, boxes: dict[str, list], names: list[str]) -> None:
        unknown = sorted(set(boxes) - set(names))
        if unknown:
            raise AdhmrError(
                f"{self._boxes_file}: has boxes of {unknown[0]} and of {len(unknown) - 1} others that are not below "
                f"{self.image_root}; names are paths from there"
            )

    def files(self) -> list[Path]:
        return [] if self._boxes_file is None else [self._boxes_file]

    def __len__(self) -> int:
        return len(self._people)

    def people(self, rows: range) -> list[Person | Rejected]:
        people: list[Person | Rejected] = []
        for row in range(rows.start, min(rows.stop, len(self))):
            name, number, box = self._people[row]
            folder = PurePath(name).parent.as_posix()
            people.append(
                Person(
                    key=person_key(str(PurePath(name).with_suffix("")), row),
                    image=name,
                    group=name if folder == "." else folder,
                    upright=True,
                    box=None if box is None else np.array(box),
                    provenance={"person": number},
                )
            )
        return people

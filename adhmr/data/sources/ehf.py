"""EHF, the expressive hands and faces of the SMPL-X site: 100 images of one person with registered meshes, whose joints
SMPL-X's regressor finds. Nobody knows pose and shape, so there is no PVE against SMPL parameters, but 3-D joints."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from adhmr.data.sources.json_elements import json_elements
from adhmr.data.sources.person import MeshLabel, Person, person_key
from adhmr.data.sources.ply_file import read_ply_vertices
from adhmr.data.sources.source import Rejected, Release, Source
from adhmr.errors import AdhmrError

SIZE = (1200, 1600)  # height, width
#: EHF_camera.txt: pixels; axis-angle, and metres, from the meshes' frame to the camera's.
INTRINSICS = np.array([[1498.22426237, 0, 790.263706], [0, 1498.22426237, 578.90334], [0, 0, 1.0]])
ROTATION, TRANSLATION = (-2.98747896, 0.01172457, -0.05704687), (-0.03609917, 0.43416458, 2.37101226)


class Ehf(Source):
    """EHF: registered SMPL-X meshes, for their joints. EHF.json, where it is there, gives boxes."""

    name = "EHF"
    licence = "non-commercial research, on registration: smpl-x.is.tue.mpg.de"
    splits = ("test",)

    def __init__(self, release: Release) -> None:
        self.image_root = release.path("data", "EHF") if not any(release.root.glob("*_align.ply")) else release.root
        self._meshes = sorted(self.image_root.glob("*_align.ply"))[:: release.stride]
        if not self._meshes:
            raise AdhmrError(
                f"{self.image_root}: there is no mesh 01_align.ply (nor any other); docs/datasets.md says what to "
                "download and where it goes"
            )
        self._boxes = self._read_boxes(self.image_root / "EHF.json")
        extrinsics = np.column_stack([cv2.Rodrigues(np.array(ROTATION))[0], TRANSLATION])
        self._camera = {"intrinsics": INTRINSICS, "extrinsics": extrinsics, "size": SIZE}

    @staticmethod
    def _read_boxes(path: Path) -> dict[str, np.ndarray]:
        """(4,) x, y, width, height by the number of the image, as names begin with it."""
        if not path.exists():
            return {}
        names, boxes = {}, {}
        try:
            for kind, element in json_elements(path, ("images", "annotations")):
                if kind == "images":
                    names[element["id"]] = Path(element["file_name"]).name.split("_")[0]
                else:
                    boxes[element["image_id"]] = np.asarray(element["body_bbox"], np.float64).reshape(4)
        except (KeyError, ValueError) as error:
            raise AdhmrError(f"{path}: an element without {error}; get the file again, or delete it") from None
        return {names[image]: box for image, box in boxes.items() if image in names}

    def files(self) -> list[Path]:
        return self._meshes

    def __len__(self) -> int:
        return len(self._meshes)

    def people(self, rows: range) -> list[Person | Rejected]:
        return [self._person(path) for path in self._meshes[rows.start : rows.stop]]

    def _person(self, path: Path) -> Person | Rejected:
        number = path.name.split("_")[0]
        key = person_key("EHF", int(re.sub(r"\D", "", number) or 0))
        image = next((n for n in (f"{number}_img.jpg", f"{number}_img.png") if (self.image_root / n).exists()), None)
        if image is None:
            return Rejected(key, "its image is missing")
        box = self._boxes.get(number)
        return Person(
            key=key,
            image=image,
            group="EHF",  # one person
            box=None if box is None else np.concatenate([box[:2], box[:2] + box[2:]]),
            body=MeshLabel(read_ply_vertices(path)),
            provenance={"mesh": path.name},
            **self._camera,
        )

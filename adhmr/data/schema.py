"""The label record of one person, the same for every data set, and its horizontal mirror.

How records are stored in shards is in shard_writer.py and shard_reader.py; crops and augmentation are in transforms.py.
"""

import io
import json
from dataclasses import dataclass, field

import numpy as np

from adhmr.body.skeleton import FLIP_H36M, FLIP_JOINTS, FLIP_TWISTS, NUM_BODY_JOINTS
from adhmr.errors import AdhmrError

SCHEMA_VERSION = 2  # 2: joints17

SAMPLE_DTYPE = np.dtype(
    [
        ("pose", "<f4", (24, 3)),  # axis-angle in the camera frame; row 0 is the root
        ("betas", "<f4", (10,)),
        ("transl", "<f4", (3,)),  # metres; vertices in the camera frame = LBS(pose, betas) + transl
        ("joints29", "<f4", (29, 3)),  # camera-frame metres
        ("joints29_px", "<f4", (29, 2)),  # continuous pixels of the stored crop; see also boxed_points
        ("twists", "<f4", (23, 2)),  # cosine and sine
        ("intrinsics", "<f4", (3, 3)),  # of the stored crop: pixel ~ K X
        ("joints_conf", "<f4", (29,)),
        ("twists_conf", "<f4", (23,)),
        ("joints17", "<f4", (17, 3)),  # Human3.6M's joints as annotated, camera-frame metres; the truth of MPJPE
        ("image_size", "<u2", (2,)),  # height, width
        ("has_pose", "u1"),
        ("has_depth", "u1"),
        ("has_betas", "u1"),
        ("has_twists", "u1"),
        ("has_joints17", "u1"),
        ("reserved", "u1", (3,)),  # zeros: the floats of each record in an array of records are aligned
    ]
)

_FLIP_JOINTS = np.asarray(FLIP_JOINTS)  # (29,)
_FLIP_TWISTS = np.asarray(FLIP_TWISTS)  # (23,)
_FLIP_H36M = np.asarray(FLIP_H36M)  # (17,)


def new_record() -> np.void:
    """One record with every number and flag zero, to be filled field by field."""
    return np.zeros((), SAMPLE_DTYPE)[()]


def boxed_points(record: np.void) -> np.ndarray:
    """(K, 2) pixels that the person's box is tight around: the body joints that have a confidence; of an unlabelled
    person, of whom none has, two corners of the box, which stand in the joints' place by turns; else none."""
    points = record["joints29_px"][:NUM_BODY_JOINTS].astype(np.float64)
    known = record["joints_conf"][:NUM_BODY_JOINTS] > 0
    if known.any():
        return points[known]
    corners = np.unique(points, axis=0)
    return corners if len(corners) == 2 else corners[:0]


def box_as_joints(box: np.ndarray) -> np.ndarray:
    """(29, 2) pixels that stand for the joints of an unlabelled person; box (4,) x0, y0, x1, y1 around the joints."""
    return np.resize(np.reshape(box, (2, 2)), (len(FLIP_JOINTS), 2))


def encode_record(record: np.void | np.ndarray) -> bytes:
    """The record as an .npy file of shape (); raises AdhmrError when it has another dtype."""
    array = np.asarray(record)
    if array.dtype != SAMPLE_DTYPE or array.size != 1:
        raise AdhmrError(f"a record has dtype {array.dtype}, shape {array.shape}; expected one SAMPLE_DTYPE element")
    buffer = io.BytesIO()
    np.save(buffer, array.reshape(()), allow_pickle=False)
    return buffer.getvalue()


_HEADER = encode_record(new_record())[: -SAMPLE_DTYPE.itemsize]


def decode_record(data: bytes | memoryview) -> np.void:
    """The inverse of encode_record; raises ValueError when the bytes hold anything else."""
    # Every record of this schema has the same .npy header; comparing it is far cheaper than parsing it.
    if data[: len(_HEADER)] == _HEADER and len(data) == len(_HEADER) + SAMPLE_DTYPE.itemsize:
        return np.frombuffer(bytearray(data[len(_HEADER) :]), SAMPLE_DTYPE)[0]
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype.names and "joints17" not in array.dtype.names:
        raise ValueError(f"its record is of schema 1, this adhmr reads {SCHEMA_VERSION}: the shards must be made again")
    if array.dtype != SAMPLE_DTYPE or array.size != 1:
        raise ValueError(f"record of dtype {array.dtype} and shape {array.shape} is not of schema {SCHEMA_VERSION}")
    return array.reshape(1)[0]


def mirror(record: np.void) -> np.void:
    """The labels of the image flipped left to right (x -> width - x); its own inverse.

    Left and right joints and twists change places, camera-frame X is negated, rotations keep their x component and
    negate y and z, twist angles are negated.
    """
    width = np.float32(record["image_size"][1])
    mirrored = record.copy()
    pose = record["pose"][_FLIP_JOINTS[:24]]  # (24, 3); the 24 body joints map among themselves
    mirrored["pose"] = pose * np.float32([1, -1, -1])
    mirrored["transl"] = record["transl"] * np.float32([-1, 1, 1])
    mirrored["joints29"] = record["joints29"][_FLIP_JOINTS] * np.float32([-1, 1, 1])
    pixels = record["joints29_px"][_FLIP_JOINTS]  # (29, 2)
    mirrored["joints29_px"] = np.stack([width - pixels[:, 0], pixels[:, 1]], axis=-1)
    mirrored["twists"] = record["twists"][_FLIP_TWISTS] * np.float32([1, -1])
    mirrored["joints_conf"] = record["joints_conf"][_FLIP_JOINTS]
    mirrored["twists_conf"] = record["twists_conf"][_FLIP_TWISTS]
    mirrored["joints17"] = record["joints17"][_FLIP_H36M] * np.float32([-1, 1, 1])
    mirrored["intrinsics"][0, 1] = -record["intrinsics"][0, 1]
    mirrored["intrinsics"][0, 2] = width - record["intrinsics"][0, 2]
    return mirrored


@dataclass(slots=True)
class RawSample:
    """One decoded sample: image (H, W, 3) uint8 RGB, its record, and the other members of the tar by extension.

    Extras that end in "npy" are arrays, all others (the provenance "json" among them) are bytes.
    """

    dataset: str
    key: str
    image: np.ndarray
    record: np.void
    extras: dict[str, bytes | np.ndarray] = field(default_factory=dict)

    @property
    def provenance(self) -> dict:
        return json.loads(self.extras.get("json", b"{}"))

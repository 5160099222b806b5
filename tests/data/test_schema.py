import io

import numpy as np
import pytest
import roma
import torch

from adhmr.body.body_model import BodyModel
from adhmr.body.camera import project
from adhmr.body.kinematics import swing_twist
from adhmr.data.schema import SAMPLE_DTYPE, decode_record, encode_record, mirror, new_record
from adhmr.errors import AdhmrError


def test_records_survive_storage(make_record):
    record = make_record(np.random.default_rng(0))
    decoded = decode_record(encode_record(record))
    assert decoded == record
    decoded["betas"] = 0  # a record that was read may be changed
    plain = np.load(io.BytesIO(encode_record(record)), allow_pickle=False)
    assert plain.shape == () and plain[()] == record


def test_other_arrays_are_no_records():
    with pytest.raises(AdhmrError, match="dtype"):
        encode_record(np.zeros(3))
    with pytest.raises(AdhmrError, match="shape"):
        encode_record(np.zeros(2, SAMPLE_DTYPE))
    with pytest.raises(ValueError):
        decode_record(encode_record(new_record())[:-4])


def test_a_record_of_schema_1_says_so():
    names = [name for name in SAMPLE_DTYPE.names if "joints17" not in name and name != "reserved"]
    old = np.zeros((), [(name, SAMPLE_DTYPE[name].base, SAMPLE_DTYPE[name].shape) for name in names])
    assert old.dtype.itemsize == 1356
    buffer = io.BytesIO()
    np.save(buffer, old)
    with pytest.raises(ValueError, match="of schema 1, this adhmr reads 2: the shards must be made again"):
        decode_record(buffer.getvalue())


def test_arrays_of_records_have_aligned_floats():
    floats = [name for name in SAMPLE_DTYPE.names if SAMPLE_DTYPE[name].base == np.float32]
    assert SAMPLE_DTYPE.itemsize % 4 == 0 and all(SAMPLE_DTYPE.fields[name][1] % 4 == 0 for name in floats)


def test_the_joints_of_human36m_are_mirrored_by_their_published_pairs(make_record):
    record = make_record(np.random.default_rng(5))
    mirrored = mirror(record)["joints17"] * [-1, 1, 1]
    order = list(range(17))
    for left, right in ((1, 4), (2, 5), (3, 6), (11, 14), (12, 15), (13, 16)):
        order[left], order[right] = right, left
    np.testing.assert_allclose(mirrored, record["joints17"][order])


def test_mirror_is_its_own_inverse_and_agrees_with_projection(make_record):
    record = make_record(np.random.default_rng(1))
    record["intrinsics"][0, 1] = 3.0  # skew, as an in-plane rotation leaves it
    record["joints29_px"] = project(record["joints29"], record["intrinsics"])
    mirrored = mirror(record)
    np.testing.assert_allclose(
        project(mirrored["joints29"], mirrored["intrinsics"]), mirrored["joints29_px"], atol=1e-3
    )
    twice = mirror(mirrored)
    for name in SAMPLE_DTYPE.names:
        np.testing.assert_allclose(twice[name], record[name], atol=2e-5, err_msg=name)
    assert not np.allclose(mirrored["pose"], record["pose"])


def test_mirrored_pose_gives_mirrored_joints_and_twists(make_record):
    """On a body with symmetric shape; the open body is symmetric to a few millimetres."""
    body = BodyModel().double()
    record = make_record(np.random.default_rng(2))

    def pose_body(pose):
        rotations = roma.rotvec_to_rotmat(torch.from_numpy(pose).double())[None]
        betas = torch.zeros(1, 10, dtype=torch.float64)
        joints = body.joints29(rotations, betas)[0].numpy()
        return joints - joints[0], swing_twist(rotations, body.rest_joints29(betas))[0].numpy()

    joints, twists = pose_body(record["pose"])
    record["joints29"], record["twists"] = joints, twists
    mirrored = mirror(record)
    again, twists_again = pose_body(mirrored["pose"])
    np.testing.assert_allclose(again, mirrored["joints29"], atol=0.02)
    np.testing.assert_allclose(twists_again, mirrored["twists"], atol=0.1)
    assert np.abs(again - joints).max() > 0.1

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

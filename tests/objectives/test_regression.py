"""Parts of the regressor's loss: zero at the truth, the numbers of small cases, labels of no weight."""

import pytest
import roma
import torch

from adhmr.objectives.regression import joints3d_loss, projection_loss, rotation_loss, rotation_weight

CAMERA = torch.tensor([[[100.0, 0.0, 32.0], [0.0, 100.0, 32.0], [0.0, 0.0, 1.0]]])


def test_rotations_cost_the_squared_distance_of_the_joints_that_count():
    target = torch.eye(3).expand(2, 24, 3, 3)
    predicted = target.clone()
    predicted[0, 3] = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.5, 0.0]))
    weight = torch.zeros(2, 24)
    assert rotation_loss(predicted, target, weight) == 0
    weight[0, 3] = weight[1, 3] = 1.0
    expected = 4 * (1 - torch.cos(torch.tensor(0.5))) / 2  # squared Frobenius distance, mean of two joints
    torch.testing.assert_close(rotation_loss(predicted, target, weight), expected)


def test_rotations_count_as_their_twists_do_where_there_is_a_pose():
    twists = torch.zeros(3, 23, 2)
    twists[0, 4], twists[2] = 0.5, 1.0
    weight = rotation_weight(torch.tensor([1, 1, 0]), twists)
    assert weight.shape == (3, 24)
    assert weight[0, 5] == 0.5 and weight[0, 0] == 0.5 and weight[0].count_nonzero() == 2
    assert weight[1:].count_nonzero() == 0  # the second has no twist, the third no pose


def test_joints_are_compared_about_the_pelvis():
    target = torch.randn(2, 29, 3)
    weight = torch.ones(2, 29)
    assert joints3d_loss(target + torch.tensor([1.0, 2.0, 3.0]), target, weight) < 1e-6
    predicted = target.clone()
    predicted[0, 5] += torch.tensor([0.1, -0.2, 0.3])
    assert joints3d_loss(predicted, target, weight).item() == pytest.approx(0.6 / 58, rel=1e-4)
    weight[0, 0] = 0.0  # an unknown pelvis: nothing of that image can be compared
    assert joints3d_loss(predicted, target, weight) == 0


def test_projection_is_in_half_crops_and_a_joint_behind_the_camera_stays_finite():
    joints = torch.zeros(1, 29, 3)
    joints[..., 2] = 2.0
    target = torch.full((1, 29, 2), 32.0)
    weight = torch.ones(1, 29)
    assert projection_loss(joints, CAMERA, target, weight, 64) == 0
    target[0, 3, 0] += 16.0
    assert projection_loss(joints, CAMERA, target, weight, 64).item() == pytest.approx(0.5 / 29, rel=1e-5)
    joints = joints.clone().requires_grad_()
    with torch.no_grad():
        joints[0, 1, 2] = -1.0
        joints[0, 1, 0] = 0.5
    loss = projection_loss(joints, CAMERA, target, weight, 64)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(joints.grad).all()

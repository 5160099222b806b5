"""Crops and cameras: the half-pixel rule, round trips, hypotheses over one camera, numpy and torch alike."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adhmr.body.camera import apply_affine, compose_intrinsics, crop_affine, joints_from_uvd, project, uvd_from_joints

CROPS = {
    "centre": st.tuples(st.floats(-50, 700), st.floats(-50, 500)),
    "side": st.floats(20, 900),
    "angle": st.floats(-3, 3),
    "size": st.sampled_from([64, 128, 256]),
}


def _camera(centre: tuple[float, float], side: float, angle: float, size: int) -> np.ndarray:
    intrinsics = np.array([[800.0, 0, 320], [0, 810.0, 240], [0, 0, 1]])
    return compose_intrinsics(crop_affine(np.array(centre), side, angle, size=size), intrinsics)


def _person(seed: int, *batch: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(scale=0.5, size=(*batch, 29, 3)) + np.array([0.3, 0.1, 6.0])


@settings(max_examples=40, deadline=None)
@given(**CROPS)
def test_crop_follows_its_definition(centre: tuple[float, float], side: float, angle: float, size: int) -> None:
    affine = crop_affine(np.array(centre), side, angle, size=size)
    crop_points = np.array([[size / 2, size / 2], [0.0, 0.0], [size, 0.3 * size]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    image_points = np.array(centre) + side / size * (crop_points - size / 2) @ turn.T
    np.testing.assert_allclose(apply_affine(affine, image_points), crop_points, atol=1e-6)


def test_whole_image_at_half_size_keeps_pixel_borders() -> None:
    affine = crop_affine(np.array([128.0, 128.0]), 256.0, 0.0, size=128)
    np.testing.assert_allclose(affine, [[0.5, 0, 0], [0, 0.5, 0]], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), **CROPS)
def test_crop_camera_sees_what_the_crop_shows(
    seed: int, centre: tuple[float, float], side: float, angle: float, size: int
) -> None:
    points = _person(seed)
    intrinsics = np.array([[800.0, 0, 320], [0, 810.0, 240], [0, 0, 1]])
    affine = crop_affine(np.array(centre), side, angle, size=size)
    warped = apply_affine(affine, project(points, intrinsics))
    np.testing.assert_allclose(project(points, compose_intrinsics(affine, intrinsics)), warped, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), **CROPS)
def test_uvd_round_trip(seed: int, centre: tuple[float, float], side: float, angle: float, size: int) -> None:
    points, camera = _person(seed), _camera(centre, side, angle, size)
    uvd = uvd_from_joints(points, camera)
    assert uvd[0, 2] == 0
    np.testing.assert_allclose(joints_from_uvd(uvd, camera, points[0, 2]), points, atol=1e-7)


def test_one_camera_serves_its_hypotheses() -> None:
    points = torch.from_numpy(_person(0, 3, 4)).float()
    cameras = torch.stack([torch.from_numpy(_camera((300, 200), 100.0 + i, 0.1 * i, 128)) for i in range(3)]).float()
    depth = torch.tensor([5.0, 6.0, 7.0])
    uvd = uvd_from_joints(points, cameras)
    back = joints_from_uvd(uvd, cameras, depth)
    assert uvd.shape == back.shape == (3, 4, 29, 3)
    for i in range(3):
        for m in range(4):
            torch.testing.assert_close(uvd[i, m], uvd_from_joints(points[i, m], cameras[i]))
            torch.testing.assert_close(back[i, m], joints_from_uvd(uvd[i, m], cameras[i], depth[i]))
    torch.testing.assert_close(uvd_from_joints(points, cameras[:, None]), uvd)


def test_batched_crops() -> None:
    centres, sides, angles = np.arange(10.0).reshape(5, 2), np.arange(1.0, 6.0), np.linspace(-1, 1, 5)
    batched = crop_affine(centres, sides, angles, size=64)
    for i in range(5):
        np.testing.assert_allclose(batched[i], crop_affine(centres[i], sides[i], angles[i], size=64))


def test_type_in_is_type_out() -> None:
    points, camera = _person(0), _camera((300, 200), 100.0, 0.0, 128)
    assert uvd_from_joints(points, camera).dtype == np.float64
    assert uvd_from_joints(points.astype(np.float32), camera.astype(np.float32)).dtype == np.float32
    given = torch.from_numpy(points).float()
    result = uvd_from_joints(given, torch.from_numpy(camera).float())
    assert isinstance(result, torch.Tensor) and result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), uvd_from_joints(points, camera), rtol=1e-4, atol=1e-3)

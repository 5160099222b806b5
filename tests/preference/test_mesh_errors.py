import numpy as np
import pytest
import roma
import torch

from adhmr.body.hypotheses import Hypotheses
from adhmr.body.vertex_subset import VertexSubset
from adhmr.preference.hypotheses import pose_hypotheses
from adhmr.preference.mesh_errors import ERROR_NAMES, errors_of_hypotheses, mesh_errors


def procrustes(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama's alignment, straight from the paper."""
    mean, target_mean = points.mean(0), target.mean(0)
    a, b = points - mean, target - target_mean
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    return (s * sign.diagonal()).sum() / (a**2).sum() * a @ rotation.T + target_mean


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return np.linalg.norm(a - b, axis=-1).mean()


@pytest.fixture(scope="module")
def bodies():
    generator = torch.Generator().manual_seed(1)
    target = 0.4 * torch.randn(3, 24, 3, generator=generator)
    pose = target[:, None] + 0.2 * torch.randn(3, 4, 24, 3, generator=generator)
    betas = torch.randn(3, 4, 10, generator=generator)
    return roma.rotvec_to_rotmat(pose), betas, roma.rotvec_to_rotmat(target), betas[:, 0].clone()


@pytest.mark.parametrize("chunk", [1, 8, 256])
def test_equal_to_a_plain_loop(body, bodies, chunk):
    rotations, betas, target_rotations, target_betas = bodies
    found = mesh_errors(body, rotations, betas, target_rotations, target_betas, chunk=chunk)
    assert found.shape == (3, 4, 4)
    for n in range(3):
        target = body(target_rotations[n : n + 1], target_betas[n : n + 1])
        v, j = target.vertices[0].double().numpy(), target.joints29[0, :24].double().numpy()
        for m in range(4):
            one = body(rotations[n, m : m + 1], betas[n, m : m + 1])
            w, k = one.vertices[0].double().numpy(), one.joints29[0, :24].double().numpy()
            expected = {
                "pve": distance(w - k[0], v - j[0]),
                "mpjpe": distance(k - k[0], j - j[0]),
                "pa_pve": distance(procrustes(w, v), v),
                "pa_mpjpe": distance(procrustes(k, j), j),
            }
            np.testing.assert_allclose(found[n, m], [expected[name] for name in ERROR_NAMES], atol=2e-6)


def test_names_choose_and_order_the_errors(body, bodies):
    everything = mesh_errors(body, *bodies)
    some = mesh_errors(body, *bodies, names=["pa_mpjpe", "pve"])
    torch.testing.assert_close(some, everything[..., [3, 0]], atol=1e-6, rtol=0)


def test_one_shape_an_image_serves_all_its_hypotheses(body, bodies):
    rotations, _, target_rotations, target_betas = bodies
    shared = mesh_errors(body, rotations, target_betas, target_rotations, target_betas)
    repeated = target_betas[:, None].repeat(1, 4, 1)
    torch.testing.assert_close(shared, mesh_errors(body, rotations, repeated, target_rotations, target_betas))


def test_a_vertex_subset_gives_the_same_joint_errors_and_near_vertex_errors(body, bodies):
    whole, some = mesh_errors(body, *bodies), mesh_errors(VertexSubset(body, 500), *bodies)
    torch.testing.assert_close(some[..., [1, 3]], whole[..., [1, 3]], atol=1e-5, rtol=0)
    torch.testing.assert_close(some[..., [0, 2]], whole[..., [0, 2]], atol=0, rtol=0.15)


def test_the_label_itself_has_almost_no_error_and_a_moved_joint_has(body, batch):
    twists = batch["twists"][:, None].repeat(1, 2, 1, 1)
    uvd = batch["uvd"][:, None].repeat(1, 2, 1, 1)
    uvd[:, 1, 20, 0] += 10.0  # pixels, the left wrist
    hypotheses = Hypotheses(uvd, twists)
    rotations = pose_hypotheses(body, hypotheses, batch["betas"], batch["intrinsics"], batch["root_depth"])
    errors = errors_of_hypotheses(body, hypotheses._replace(rotations=rotations), batch["betas"], batch)
    assert errors[:, 0].max() < 0.01
    assert (errors[:, 1] > errors[:, 0]).all() and errors[:, 1, 0].min() > 0.001

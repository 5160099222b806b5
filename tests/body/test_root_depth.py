import pytest
import roma
import torch

from adhmr.body.camera import uvd_from_joints
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.kinematics import swing_twist
from adhmr.body.root_depth import estimate_root_depth

IMAGES, COUNT = 6, 4


def people(body, distance: float, focal: float):
    """True root depths (N, M), and all that is known of IMAGES x COUNT people seen exactly."""
    generator = torch.Generator().manual_seed(round(10 * distance))

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(IMAGES * COUNT, *shape, generator=generator)

    rotations = roma.rotvec_to_rotmat(torch.cat([draw(1, 3), 0.4 * draw(23, 3)], 1))
    betas = draw(10).unflatten(0, (IMAGES, COUNT))[:, :1].expand(-1, COUNT, -1)  # one shape an image
    transl = torch.stack([0.3 * draw(), 0.3 * draw(), distance * (1 + 0.1 * draw().clamp(-2, 2))], -1)
    joints = body.joints29(rotations, betas.flatten(0, 1), transl).unflatten(0, (IMAGES, COUNT))
    intrinsics = torch.tensor([[focal, 0.02 * focal, 60.0], [-0.02 * focal, focal, 70.0], [0, 0, 1]])
    intrinsics = intrinsics.expand(IMAGES, 3, 3)
    twists = swing_twist(rotations, body.rest_joints29(betas.flatten(0, 1))).unflatten(0, (IMAGES, COUNT))
    hypotheses = Hypotheses(uvd_from_joints(joints, intrinsics), twists)
    return joints[..., 0, 2], hypotheses, betas[:, 0], intrinsics


@pytest.mark.parametrize(("distance", "focal"), [(2.0, 200.0), (5.0, 600.0), (25.0, 2500.0)])
@pytest.mark.parametrize("ik", ["naive", "adaptive"])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_the_depth_of_exact_projections_is_found(body, distance, focal, ik, iterations):
    truth, *known = people(body, distance, focal)
    found = estimate_root_depth(body, *known, ik=ik, iterations=iterations)
    assert ((found / truth - 1).abs() < 3e-3).all()


def test_a_taller_person_stands_further_away(body):
    truth, hypotheses, betas, intrinsics = people(body, 5.0, 600.0)
    taller = betas.clone()
    rest = body.rest_joints29(betas)
    direction = body.rest_joints29(torch.eye(10)) - body.rest_joints29(torch.zeros(1, 10))
    size = (direction[:, 24, 1] - direction[:, 27, 1]).abs().argmax()  # the coefficient that changes height most
    sign = torch.sign(direction[size, 24, 1] - direction[size, 27, 1])
    taller[:, size] += 2 * sign
    grown = body.rest_joints29(taller)
    assert ((grown[:, 24, 1] - grown[:, 27, 1]) > (rest[:, 24, 1] - rest[:, 27, 1])).all()
    assert (estimate_root_depth(body, hypotheses, taller, intrinsics) > truth).all()


def test_noise_of_a_pixel_moves_the_depth_by_a_few_percent(body):
    truth, hypotheses, betas, intrinsics = people(body, 5.0, 600.0)
    noise = torch.randn(hypotheses.uvd.shape) * torch.tensor([1.0, 1.0, 0.01])
    found = estimate_root_depth(body, hypotheses._replace(uvd=hypotheses.uvd + noise), betas, intrinsics)
    assert (found / truth - 1).abs().median() < 0.05


def test_nonsense_still_gives_a_place_before_the_camera(body):
    _, hypotheses, betas, intrinsics = people(body, 5.0, 600.0)
    nonsense = Hypotheses(torch.randn_like(hypotheses.uvd) * torch.tensor([5.0, 5.0, 3.0]), hypotheses.twists)
    found = estimate_root_depth(body, nonsense, betas, intrinsics)
    assert found.isfinite().all()
    assert (found + nonsense.uvd[..., 2].amin(-1) > 0.09).all()
    point = Hypotheses(torch.zeros_like(hypotheses.uvd), hypotheses.twists)  # every joint in one pixel
    assert estimate_root_depth(body, point, betas, intrinsics).isfinite().all()

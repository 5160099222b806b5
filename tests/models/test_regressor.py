"""The regressor: its frames and camera against plain geometry, its first body, its sizes, its weight file."""

import numpy as np
import pytest
import roma
import torch
from pydantic import ValidationError

from adhmr.body.camera import compose_intrinsics, crop_affine, project
from adhmr.config.model import RegressorConfig
from adhmr.models.regressor import TYPICAL_SCALE, Regressor, crop_frame, root_position
from adhmr.models.weights import load_model, save_weights
from tests.tiny import REGRESSOR

SIZE = 64


def intrinsics_of_crop(angle: float, centre: tuple[float, float]) -> torch.Tensor:
    """(1, 3, 3) of a crop of a 400 px image whose camera looks at its middle."""
    image = torch.tensor([[500.0, 0.0, 200.0], [0.0, 500.0, 200.0], [0.0, 0.0, 1.0]])
    affine = crop_affine(torch.tensor(centre), torch.tensor(160.0), torch.tensor(angle), size=SIZE)
    return compose_intrinsics(affine, image)[None]


def batch(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8)
    return images, intrinsics_of_crop(0.0, (200.0, 200.0)).expand(count, -1, -1)


def test_the_crops_camera_is_the_cameras_where_the_crop_is_in_the_middle():
    torch.testing.assert_close(crop_frame(intrinsics_of_crop(0.0, (200.0, 200.0)), SIZE)[0], torch.eye(3))


@pytest.mark.parametrize(("angle", "centre"), [(0.4, (200.0, 200.0)), (-0.2, (330.0, 120.0))])
def test_the_crops_camera_looks_at_its_middle_with_the_crops_axes(angle, centre):
    intrinsics = intrinsics_of_crop(angle, centre)
    frame = crop_frame(intrinsics, SIZE)[0]
    torch.testing.assert_close(frame @ frame.T, torch.eye(3), atol=1e-5, rtol=0)
    assert torch.linalg.det(frame) > 0.99
    # Points before, beside and below the camera, seen in the crop.
    points = frame.T @ torch.tensor([[0.0, 0.0, 3.0], [0.1, 0.0, 3.0], [0.0, 0.1, 3.0]]).T
    pixels = project(points.T[None], intrinsics)[0]
    torch.testing.assert_close(pixels[0], torch.tensor([SIZE / 2, SIZE / 2]), atol=1e-2, rtol=0)
    right, down = pixels[1] - pixels[0], pixels[2] - pixels[0]
    assert right[0] > 5 and abs(right[1]) < 0.05 * right[0]
    assert down[1] > 5 and abs(down[0]) < 0.12 * down[1]  # perspective shears a little beside the image's middle


def test_the_root_stands_where_it_is_seen_and_as_far_as_its_size_says():
    intrinsics = intrinsics_of_crop(0.3, (260.0, 150.0))
    point, log_scale = torch.tensor([[0.2, -0.3]]), torch.tensor([0.5])
    root = root_position(log_scale, point, intrinsics, SIZE)
    pixel = project(root[:, None], intrinsics)[0, 0]
    torch.testing.assert_close(pixel, (point[0] + 1) * SIZE / 2, atol=1e-3, rtol=0)
    focal = 500.0 * SIZE / 160.0
    assert root[0, 2].item() == pytest.approx(focal / (TYPICAL_SCALE * np.exp(0.5) * SIZE / 2), rel=1e-4)


def test_it_starts_at_a_standing_person_that_faces_the_camera(body):
    model = Regressor(RegressorConfig(**REGRESSOR)).eval()
    images, intrinsics = batch()
    with torch.no_grad():
        features, first = model(images, intrinsics)
    torch.testing.assert_close(first.rotations[:, 0], torch.diag(torch.tensor([1.0, -1.0, -1.0])).expand(3, 3, 3))
    torch.testing.assert_close(first.rotations[:, 1:], torch.eye(3).expand(3, 23, 3, 3))
    torch.testing.assert_close(first.betas, features.betas)
    joints = body.joints29(first.rotations, first.betas)
    assert (joints[:, 24, 1] < joints[:, 7, 1]).all()  # the head is above the feet: the image's y points down


@pytest.mark.parametrize("depth_head", [True, False])
def test_it_gives_rotations_whatever_its_weights_are(depth_head):
    model = Regressor(RegressorConfig(**{**REGRESSOR, "encoder": {**REGRESSOR["encoder"], "depth_head": depth_head}}))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    images, intrinsics = batch(2)
    _, made = model(images, intrinsics)
    assert made.rotations.shape == (2, 24, 3, 3) and made.betas.shape == (2, 10) and made.root.shape == (2, 3)
    assert roma.is_rotation_matrix(made.rotations.detach(), epsilon=1e-4)
    assert (made.root[:, 2] > 0).all()


def test_every_weight_has_a_gradient_after_the_first_step():
    model = Regressor(RegressorConfig(**REGRESSOR))
    with torch.no_grad():  # outputs start at zero, so that nothing below them has a gradient in the very first step
        model.head.turns += 0.1 * torch.randn_like(model.head.turns)
        model.head.body.weight += 0.1 * torch.randn_like(model.head.body.weight)
    _, made = model(*batch(2))
    (made.rotations[..., 0].sum() + made.betas.sum() + made.root.sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_weight_file_rebuilds_it(tmp_path):
    config = RegressorConfig(**REGRESSOR)
    model = Regressor(config).eval()
    save_weights(tmp_path / "model.safetensors", model, "regressor", config.model_dump(mode="json"))
    loaded = load_model(tmp_path / "model.safetensors", "regressor")
    assert loaded.config == config
    with torch.no_grad():
        torch.testing.assert_close(loaded(*(given := batch()))[1].rotations, model(*given)[1].rotations)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dim": 64}, "encoder.memory_dim must equal dim"), ({"crop_size": 60}, "must be multiples of 32")],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        RegressorConfig(**{**REGRESSOR, **change})

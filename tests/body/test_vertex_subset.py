import pytest
import roma
import torch

from adhmr.body.vertex_subset import VertexSubset


@pytest.mark.parametrize("count", [1, 37, 400, None])
def test_equal_to_the_whole_body_on_its_vertices(body, count):
    rotations = roma.rotvec_to_rotmat(0.5 * torch.randn(5, 24, 3))
    betas = torch.randn(5, 10)
    whole, some = body(rotations, betas), VertexSubset(body, count)(rotations, betas)
    number = body.num_vertices if count is None else count
    chosen = torch.linspace(0, body.num_vertices - 1, number).round().long()
    assert len(chosen.unique()) == number
    torch.testing.assert_close(some.vertices, whole.vertices[:, chosen], atol=1e-5, rtol=0)
    torch.testing.assert_close(some.joints29, whole.joints29, atol=1e-5, rtol=0)

"""The token graph against the row sums and densities of the official one."""

import pytest

from adhmr.models.graph import joint_adjacency, token_adjacency, within_hops

ROW_SUMS = [7, 5, 5, 5, 6, 6, 6, 6, 6, 10, 5, 5, 6, 6, 6, 5, 6, 6, 6, 6, 6, 6, 5, 5, 3, 3, 3, 3, 3]
ROW_SUMS += [8, 8, 8, 7, 7, 9, 7, 7, 14, 6, 6, 9, 10, 10, 6, 8, 8, 8, 8, 7, 7, 6, 6]


def test_row_sums_are_the_official_ones():
    adjacency = token_adjacency()
    assert adjacency.sum(1).tolist() == ROW_SUMS
    assert (adjacency == adjacency.T).all()


@pytest.mark.parametrize(
    ("adjacency", "shares"),
    [
        (token_adjacency(), [0.979, 0.923, 0.808, 0.636, 0.440, 0.124]),
        (joint_adjacency(), [0.646, 0.541, 0.439, 0.344, 0.256, 0.101]),
    ],
    ids=["denoiser", "scorer"],
)
def test_allowed_share_of_each_block(adjacency, shares):
    for reach, share in zip([7, 6, 5, 4, 3, 1], shares, strict=True):
        assert within_hops(adjacency, reach).float().mean().item() == pytest.approx(share, abs=6e-4)


def test_density_of_the_masked_layers():
    near = within_hops(token_adjacency(), 2).float()
    assert near[:29, :29].mean().item() == pytest.approx(0.175, abs=6e-4)
    assert near[29:, 29:].mean().item() == pytest.approx(0.388, abs=6e-4)

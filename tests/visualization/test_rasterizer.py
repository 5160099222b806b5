import numpy as np
import pytest

from adhmr.visualization.rasterizer import Rasterizer, render_mesh, render_mesh_side, vertex_normals

INTRINSICS = np.array([[20.0, 0, 10], [0, 20.0, 10], [0, 0, 1]])
TOWARDS_CAMERA = [[0, 2, 1], [0, 3, 2]]  # counter-clockwise seen from the camera, which looks along +z with y down


def square(low, high, depth):
    return np.array([[low, low, depth], [high, low, depth], [high, high, depth], [low, high, depth]], np.float32)


def box(half=(0.5, 0.5, 0.5), depth=4.0):
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = [triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))]
    return signs * np.float32(half) + np.float32([0, 0, depth]), np.array(faces)


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_a_square_covers_exactly_its_pixels(supersample):
    rasterizer = Rasterizer(TOWARDS_CAMERA, (20, 24), supersample)
    rasterizer.draw(square(-0.5, 0.5, 2.0), INTRINSICS)  # pixels 5 to 15 either way
    expected = np.zeros((20, 24), bool)
    expected[5:15, 5:15] = True
    np.testing.assert_array_equal(rasterizer.mask(), expected)


def test_the_half_pixel_rule():
    rasterizer = Rasterizer(TOWARDS_CAMERA, (20, 20), 1)
    rasterizer.draw(square(-0.5, 0.5, 2.0) + np.float32([0.04, 0, 0]), INTRINSICS)  # 5.4 to 15.4: centres 5.5 … 14.5
    columns = np.flatnonzero(rasterizer.mask().any(axis=0))
    assert (columns[0], columns[-1]) == (5, 14)
    rasterizer.draw(square(-0.5, 0.5, 2.0) + np.float32([0.06, 0, 0]), INTRINSICS)  # 5.6 to 15.6: centres 6.5 … 15.5
    columns = np.flatnonzero(rasterizer.mask().any(axis=0))
    assert (columns[0], columns[-1]) == (6, 15)


@pytest.mark.parametrize("near_first", [True, False])
def test_the_nearer_triangle_wins_in_any_order(near_first):
    near, far = square(-0.2, 0.2, 1.0), square(-2.0, 2.0, 3.0)
    vertices = np.concatenate([near, far] if near_first else [far, near])
    faces = np.array(TOWARDS_CAMERA + [[a + 4, b + 4, c + 4] for a, b, c in TOWARDS_CAMERA])
    rasterizer = Rasterizer(faces, (20, 20), 1)
    rasterizer.draw(vertices, INTRINSICS)
    near_triangles = (0, 1) if near_first else (2, 3)
    assert rasterizer.triangle[10, 10] in near_triangles
    assert rasterizer.triangle[2, 2] not in near_triangles


def test_barycentrics_are_perspective_correct():
    vertices = np.array([[-1, 1, 2], [1, 1, 2], [0, -1, 6]], np.float32)
    rasterizer = Rasterizer([[0, 1, 2]], (20, 20), 1)
    rasterizer.draw(vertices, INTRINSICS)
    row, column = 12, 9
    assert rasterizer.triangle[row, column] == 0
    w0, w1 = rasterizer.barycentric[row, column]
    point = w0 * vertices[0] + w1 * vertices[1] + (1 - w0 - w1) * vertices[2]
    pixel = INTRINSICS @ point
    np.testing.assert_allclose(pixel[:2] / pixel[2], [column + 0.5, row + 0.5], atol=1e-3)


def test_back_faces_and_what_is_behind_the_camera_are_not_drawn():
    rasterizer = Rasterizer(np.array(TOWARDS_CAMERA)[:, ::-1], (20, 20))
    rasterizer.draw(square(-0.5, 0.5, 2.0), INTRINSICS)
    assert not rasterizer.mask().any()
    rasterizer = Rasterizer(TOWARDS_CAMERA, (20, 20))
    rasterizer.draw(square(-0.5, 0.5, -2.0), INTRINSICS)
    assert not rasterizer.mask().any()


def test_a_drawing_leaves_nothing_of_the_one_before():
    rasterizer = Rasterizer(TOWARDS_CAMERA, (20, 20))
    rasterizer.draw(square(-0.9, -0.5, 2.0), INTRINSICS)
    rasterizer.draw(square(0.5, 0.9, 2.0), INTRINSICS)
    fresh = Rasterizer(TOWARDS_CAMERA, (20, 20))
    fresh.draw(square(0.5, 0.9, 2.0), INTRINSICS)
    np.testing.assert_array_equal(rasterizer.mask(), fresh.mask())


def test_vertex_normals_of_a_box_point_outwards():
    vertices, faces = box()
    normals = vertex_normals(vertices, faces)
    outwards = vertices - vertices.mean(axis=0)
    assert ((normals * outwards).sum(axis=1) > 0.5).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)


def test_render_mesh_changes_the_mesh_only_and_mixes_by_alpha():
    vertices, faces = box()
    image = np.full((20, 20, 3), 200, np.uint8)
    solid = render_mesh(image, vertices, faces, INTRINSICS, colour=(0, 0, 0), alpha=1.0)
    half = render_mesh(image, vertices, faces, INTRINSICS, colour=(0, 0, 0), alpha=0.5)
    assert (image == 200).all()
    assert (solid[10, 10] == 0).all() and (half[10, 10] == 100).all()
    assert (solid[0] == 200).all() and (half[:, 0] == 200).all()


def test_render_mesh_follows_a_turned_camera():
    """Intrinsics of a crop that is turned a quarter: the long axis of the box turns with it."""
    vertices, faces = box(half=(0.9, 0.2, 0.2))
    turn = np.array([[0, -1, 20.0], [1, 0, 0], [0, 0, 1]])
    white = np.full((20, 20, 3), 255, np.uint8)
    level = (render_mesh(white, vertices, faces, INTRINSICS) < 250).any(axis=2)
    turned = (render_mesh(white, vertices, faces, turn @ INTRINSICS) < 250).any(axis=2)
    assert level.any(axis=0).sum() > 2 * level.any(axis=1).sum()
    assert turned.any(axis=1).sum() > 2 * turned.any(axis=0).sum()


def test_the_side_view_shows_depth():
    vertices, faces = box(half=(0.1, 0.5, 0.9))
    image = render_mesh_side(vertices, faces, size=60)
    seen = (image < 250).any(axis=2)
    assert seen.any(axis=0).sum() > 1.5 * seen.any(axis=1).sum()
    assert (image[0] == 255).all() and (image[:, 0] == 255).all()

import io

import numpy as np
import pytest
import trimesh

from adhmr.visualization.mesh_files import encode_mesh


@pytest.mark.parametrize("kind", ["obj", "glb"])
def test_a_mesh_comes_back_upright_with_its_vertices_and_faces(body, kind):
    vertices = body.v_template.numpy() * [1, -1, -1] + np.array([0.1, -0.2, 3.0])  # stands in front of the camera
    content = encode_mesh(vertices, body.faces, kind)
    loaded = trimesh.load(io.BytesIO(content), file_type=kind, process=False, force="mesh")
    np.testing.assert_allclose(loaded.vertices * [1, -1, -1], vertices, atol=1e-6)
    np.testing.assert_array_equal(loaded.faces, body.faces)
    assert loaded.volume > 0.04  # cubic metres: the faces look outwards
    head, feet = loaded.vertices[:, 1].max(), loaded.vertices[:, 1].min()
    assert head - feet > 1.4 and loaded.vertices[vertices[:, 1].argmin(), 1] == head

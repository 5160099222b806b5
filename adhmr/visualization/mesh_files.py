"""Meshes as files that other programs open: .obj and .glb, by trimesh. Pictures of meshes are in rasterizer.py."""

import numpy as np
import trimesh

#: Camera axes (y down, z forward) to those of viewers and glTF (y up, z towards the viewer): half a turn about x.
VIEWER_FROM_CAMERA = np.array([1.0, -1.0, -1.0])


def encode_mesh(vertices_cam: np.ndarray, faces: np.ndarray, kind: str) -> bytes:
    """The content of a mesh file that stands upright in viewers.

    Args:
        vertices_cam: (V, 3) metres in camera axes; their order is kept.
        faces: (F, 3), counter-clockwise seen from outside.
        kind: "obj" or "glb".
    """
    mesh = trimesh.Trimesh(vertices_cam * VIEWER_FROM_CAMERA, faces, process=False)
    content = mesh.export(file_type=kind)
    return content.encode() if isinstance(content, str) else content

"""CPU triangle rasterizer: a numba z-buffer with supersampling, and shaded mesh overlays for pictures and reports.

Geometry and coverage only: how a synthetic person is dressed and lit lives in `adhmr.data.synthetic.person`.
Camera axes everywhere: x right, y down, z forward, metres; pixel i covers [i, i + 1).
"""

import numpy as np
from numba import njit

NEAR_PLANE = 0.05  # metres; triangles that touch it are dropped, people stand well behind it


@njit(cache=True, nogil=True)
def _fill_depth(points, faces, region, inverse_depth, triangle, barycentric):
    """points (V, 3): x, y in (sub)pixels and depth in metres. Keeps the nearest triangle of each pixel of `region`."""
    top, bottom, left, right = region[0], region[1], region[2], region[3]
    inverse_depth[top:bottom, left:right] = 0.0
    triangle[top:bottom, left:right] = -1
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        x0, y0, z0 = points[a, 0], points[a, 1], points[a, 2]
        x1, y1, z1 = points[b, 0], points[b, 1], points[b, 2]
        x2, y2, z2 = points[c, 0], points[c, 1], points[c, 2]
        if z0 < NEAR_PLANE or z1 < NEAR_PLANE or z2 < NEAR_PLANE:
            continue
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area >= 0.0:  # faces away: outward triangles wind clockwise once y points down
            continue
        first_x = max(left, int(np.ceil(min(x0, x1, x2) - 0.5)))
        last_x = min(right - 1, int(np.floor(max(x0, x1, x2) - 0.5)))
        first_y = max(top, int(np.ceil(min(y0, y1, y2) - 0.5)))
        last_y = min(bottom - 1, int(np.floor(max(y0, y1, y2) - 0.5)))
        scale = 1.0 / area
        inverse0, inverse1, inverse2 = 1.0 / z0, 1.0 / z1, 1.0 / z2
        for y in range(first_y, last_y + 1):
            centre_y = y + 0.5
            for x in range(first_x, last_x + 1):
                centre_x = x + 0.5
                w0 = ((x1 - centre_x) * (y2 - centre_y) - (x2 - centre_x) * (y1 - centre_y)) * scale
                w1 = ((x2 - centre_x) * (y0 - centre_y) - (x0 - centre_x) * (y2 - centre_y)) * scale
                w2 = 1.0 - w0 - w1
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    continue
                inverse = w0 * inverse0 + w1 * inverse1 + w2 * inverse2
                if inverse > inverse_depth[y, x]:
                    inverse_depth[y, x] = inverse
                    triangle[y, x] = t
                    barycentric[y, x, 0] = w0 * inverse0 / inverse  # perspective-correct
                    barycentric[y, x, 1] = w1 * inverse1 / inverse


@njit(cache=True, nogil=True)
def vertex_normals(vertices, faces):
    """Area-weighted unit normals (V, 3) of vertices (V, 3) under outward, counter-clockwise faces (F, 3)."""
    normals = np.zeros_like(vertices)
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        wx, wy, wz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        for corner in (a, b, c):
            normals[corner, 0] += nx
            normals[corner, 1] += ny
            normals[corner, 2] += nz
    for i in range(normals.shape[0]):
        squared = normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2
        length = 1.0 / (np.sqrt(squared) + 1e-12)
        normals[i, 0] *= length
        normals[i, 1] *= length
        normals[i, 2] *= length
    return normals


@njit(cache=True, nogil=True)
def _shade_matt(region, triangle, barycentric, faces, normals, colour, light, colours):
    for y in range(region[0], region[1]):
        for x in range(region[2], region[3]):
            t = triangle[y, x]
            if t < 0:
                continue
            w0, w1 = barycentric[y, x, 0], barycentric[y, x, 1]
            w2 = 1.0 - w0 - w1
            a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
            nx = w0 * normals[a, 0] + w1 * normals[b, 0] + w2 * normals[c, 0]
            ny = w0 * normals[a, 1] + w1 * normals[b, 1] + w2 * normals[c, 1]
            nz = w0 * normals[a, 2] + w1 * normals[b, 2] + w2 * normals[c, 2]
            length = 1.0 / (np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9)
            diffuse = max(0.0, (nx * light[0] + ny * light[1] + nz * light[2]) * length)
            shade = 0.35 + 0.7 * diffuse
            for k in range(3):
                colours[y, x, k] = min(255.0, colour[k] * shade)


@njit(cache=True, nogil=True)
def _composite(region, supersample, triangle, colours, alpha, image):
    """Box filter of the (sub)pixel colours over `image` (H, W, 3) uint8, in place."""
    share = 1.0 / (supersample * supersample)
    for y in range(region[0] // supersample, region[1] // supersample):
        for x in range(region[2] // supersample, region[3] // supersample):
            covered, red, green, blue = 0, 0.0, 0.0, 0.0
            for row in range(y * supersample, (y + 1) * supersample):
                for column in range(x * supersample, (x + 1) * supersample):
                    if triangle[row, column] >= 0:
                        covered += 1
                        red += colours[row, column, 0]
                        green += colours[row, column, 1]
                        blue += colours[row, column, 2]
            if covered:
                kept = 1.0 - alpha * covered * share
                image[y, x, 0] = np.uint8(min(255.0, kept * image[y, x, 0] + alpha * share * red + 0.5))
                image[y, x, 1] = np.uint8(min(255.0, kept * image[y, x, 1] + alpha * share * green + 0.5))
                image[y, x, 2] = np.uint8(min(255.0, kept * image[y, x, 2] + alpha * share * blue + 0.5))


class Rasterizer:
    """Reusable buffers for one picture size and one mesh topology.

    `draw` finds what is seen where; a shading kernel then writes `colours` from `triangle` (-1: nothing) and
    `barycentric` inside `region`; `composite` puts the result over a background.

    Args:
        faces: (F, 3) integer, counter-clockwise seen from outside.
        size: (height, width) in pixels.
        supersample: subpixels a side; 1 is no anti-aliasing.
    """

    def __init__(self, faces: np.ndarray, size: tuple[int, int], supersample: int = 2) -> None:
        self.faces = np.ascontiguousarray(faces, np.int32)  # (F, 3)
        self.size, self.supersample = (int(size[0]), int(size[1])), supersample
        height, width = self.size[0] * supersample, self.size[1] * supersample
        self.inverse_depth = np.zeros((height, width), np.float32)
        self.triangle = np.full((height, width), -1, np.int32)
        self.barycentric = np.zeros((height, width, 2), np.float32)
        self.colours = np.zeros((height, width, 3), np.float32)
        self.region = np.zeros(4, np.int64)  # top, bottom, left, right in subpixels, whole pixels

    def draw(self, vertices_cam: np.ndarray, intrinsics: np.ndarray) -> None:
        """Z-buffer of vertices_cam (V, 3) metres under intrinsics (3, 3) pixels; only the mesh's own box is touched."""
        x, y, depth = np.asarray(intrinsics, np.float32) @ vertices_cam.T  # (V,) each
        in_front = depth > NEAR_PLANE
        safe_depth = np.where(in_front, depth, np.float32(1.0))
        x, y = x / safe_depth, y / safe_depth
        self.region[:] = 0
        if in_front.any():
            low = np.array([x[in_front].min(), y[in_front].min()])
            high = np.array([x[in_front].max(), y[in_front].max()])
            limits = np.array([self.size[1], self.size[0]])
            first = np.clip(np.floor(low), 0, limits).astype(np.int64)
            last = np.clip(np.ceil(high), 0, limits).astype(np.int64)
            self.region[:] = first[1], last[1], first[0], last[0]
            self.region *= self.supersample
        points = np.stack([x * self.supersample, y * self.supersample, depth], axis=1)  # (V, 3)
        _fill_depth(points, self.faces, self.region, self.inverse_depth, self.triangle, self.barycentric)

    def composite(self, background: np.ndarray, alpha: float = 1.0) -> np.ndarray:
        """The last drawing over a copy of background (H, W, 3) uint8."""
        image = background.copy()
        _composite(self.region, self.supersample, self.triangle, self.colours, alpha, image)
        return image

    def mask(self) -> np.ndarray:
        """(H, W) bool: pixels of which at least half is covered by the last drawing."""
        s = self.supersample
        covered = np.zeros((self.size[0] * s, self.size[1] * s), bool)
        top, bottom, left, right = self.region
        covered[top:bottom, left:right] = self.triangle[top:bottom, left:right] >= 0
        return covered.reshape(self.size[0], s, self.size[1], s).mean(axis=(1, 3)) >= 0.5


def render_mesh(
    image: np.ndarray,
    vertices_cam: np.ndarray,
    faces: np.ndarray,
    intrinsics: np.ndarray,
    colour: tuple[float, float, float] = (120.0, 170.0, 235.0),
    alpha: float = 0.85,
) -> np.ndarray:
    """A shaded mesh over a picture.

    Args:
        image: (H, W, 3) uint8 RGB; left as it is.
        vertices_cam: (V, 3) metres in camera axes.
        faces: (F, 3).
        intrinsics: (3, 3), pixels of `image`.
        colour: RGB in 0-255.
        alpha: opacity of the mesh.

    Returns:
        (H, W, 3) uint8.
    """
    rasterizer = Rasterizer(faces, image.shape[:2])
    vertices = np.ascontiguousarray(vertices_cam, np.float32)
    rasterizer.draw(vertices, intrinsics)
    light = np.array([-0.35, -0.55, -0.76], np.float32)  # from above, left of and behind the camera
    _shade_matt(
        rasterizer.region,
        rasterizer.triangle,
        rasterizer.barycentric,
        rasterizer.faces,
        vertex_normals(vertices, rasterizer.faces),
        np.asarray(colour, np.float32),
        light,
        rasterizer.colours,
    )
    return rasterizer.composite(np.ascontiguousarray(image), alpha)


def render_mesh_side(
    vertices: np.ndarray,
    faces: np.ndarray,
    size: int = 256,
    colour: tuple[float, float, float] = (120.0, 170.0, 235.0),
) -> np.ndarray:
    """The mesh (V, 3), camera axes, from its side: a quarter turn about the vertical through its middle, on white.

    Returns:
        (size, size, 3) uint8; depth errors that the camera's own view hides show up here.
    """
    centred = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    turned = np.stack([centred[:, 2], centred[:, 1], -centred[:, 0]], axis=1)  # (V, 3)
    extent = max(float(np.ptp(turned[:, :2], axis=0).max()), 1e-3)
    focal, depth = 8.0 * size, 8.0 * extent / 0.85  # a long lens: close to orthographic
    turned[:, 2] += depth
    intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32)
    white = np.full((size, size, 3), 255, np.uint8)
    return render_mesh(white, turned, faces, intrinsics, colour, alpha=1.0)

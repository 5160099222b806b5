"""Clothes, hair and face of a synthetic person, painted per pixel from where the pixel lies on the body at rest.

No textures and no vertex ids: borders are planes, ellipses and bands in the rest pose (T-pose, y up, facing +z), placed
by joint positions, so any body file works at any mesh size. Front and back always differ (face, hair, neckline, front
of the shirt, belt, toes): which way a person faces must be visible at 128 pixels.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from adhmr.visualization.rasterizer import Rasterizer, vertex_normals

SKIN_TONES = np.array(
    [
        [0.96, 0.80, 0.69],
        [0.88, 0.67, 0.54],
        [0.78, 0.57, 0.44],
        [0.62, 0.42, 0.30],
        [0.45, 0.30, 0.22],
        [0.33, 0.22, 0.17],
    ]
)
HAIR_TONES = np.array(
    [
        [0.08, 0.06, 0.05],
        [0.20, 0.12, 0.08],
        [0.40, 0.26, 0.15],
        [0.75, 0.60, 0.35],
        [0.58, 0.57, 0.56],
        [0.45, 0.15, 0.08],
    ]
)

# Rows of a palette.
SKIN, HAIR, TOP, TROUSERS, SHOES, SOCKS, ACCENT, BELT, BUCKLE, SOLE, BAND, LIPS, EYE_WHITE, PUPIL = range(14)
# Entries of the measures: positions in the rest pose in metres, but for the last two (a share, and a style below).
SLEEVE, WAIST, HEM, SHOE, SOLE_TOP, TOE, NECK_Y, NECK_DEPTH, NECK_WIDTH = range(9)
HAIRLINE, HAIR_SLOPE, HAIR_LENGTH, EYE_X, EYE_Y, MOUTH_Y, BEARD = range(9, 16)
FRONT_WIDTH, PRINT_Y, PRINT_HEIGHT, BELT_HEIGHT, BAND_FROM, BAND_TO, BACK_SHADE, FRONT_STYLE = range(16, 24)
# Values of FRONT_STYLE: what the front of the shirt shows.
PLACKET, JACKET, PRINT, DISC, PANEL = range(5)


@dataclass(frozen=True)
class Light:
    direction: np.ndarray  # (3,) unit, camera axes, towards the light
    key: np.ndarray  # (3,) colour
    ambient: np.ndarray  # (3,) colour


@dataclass(frozen=True)
class Outfit:
    palette: np.ndarray  # (14, 3) albedo in 0-1
    measures: np.ndarray  # (24,) see above
    frequency: np.ndarray  # (3 cloths, 3 axes) radians a metre
    strength: np.ndarray  # (3 cloths,) of the pattern


@njit(cache=True, nogil=True)
def _material(x, y, z, front, head, m):
    """Palette row at rest position x, y, z; front: z of the rest normal; head: skinning weight of the head."""
    if head > 0.5:
        if y > m[HAIRLINE] + m[HAIR_SLOPE] * z + 0.005 * np.sin(90.0 * x):
            return HAIR
        if front > 0.1:
            side = abs(x) - m[EYE_X]
            rise = y - m[EYE_Y]
            if (side / 0.019) ** 2 + (rise / 0.013) ** 2 < 1.0:
                return PUPIL if (side / 0.010) ** 2 + (rise / 0.012) ** 2 < 1.0 else EYE_WHITE
            if abs(side) < 0.022 and abs(rise - 0.024) < 0.006:
                return HAIR  # eyebrows
            if (x / 0.030) ** 2 + ((y - m[MOUTH_Y]) / 0.009) ** 2 < 1.0:
                return LIPS
            if y < m[BEARD]:
                return HAIR
        return SKIN
    if front < 0.25 and abs(x) < 0.10 and y > m[HAIR_LENGTH]:
        return HAIR
    if abs(x) > m[SLEEVE]:
        return BAND if m[BAND_FROM] < x < m[BAND_TO] else SKIN
    if front > 0.0:
        if (x / m[NECK_WIDTH]) ** 2 + (max(0.0, m[NECK_Y] - y) / m[NECK_DEPTH]) ** 2 < 1.0:
            return SKIN
    elif y > m[NECK_Y] + 0.015 and abs(x) < m[NECK_WIDTH]:
        return SKIN
    if y > m[WAIST]:
        if front > 0.1:
            style = int(m[FRONT_STYLE])
            width = m[FRONT_WIDTH]
            if style == PLACKET:
                if abs(x) < 0.25 * width:
                    return ACCENT
            elif style == JACKET:
                if abs(x) < 0.7 * width + 0.06 * (y - m[WAIST]):
                    return ACCENT
            elif style == PRINT:
                if abs(x) < width and abs(y - m[PRINT_Y]) < m[PRINT_HEIGHT]:
                    return ACCENT
            elif style == DISC:
                if (x / width) ** 2 + ((y - m[PRINT_Y]) / width) ** 2 < 1.0:
                    return ACCENT
            elif abs(x) < 2.0 * width:
                return ACCENT
        return TOP
    if y > m[WAIST] - m[BELT_HEIGHT]:
        return BUCKLE if front > 0.1 and abs(x) < 0.028 else BELT
    if y > m[HEM]:
        return TROUSERS
    if y > m[SHOE]:
        return SOCKS
    if y < m[SOLE_TOP] or z > m[TOE]:
        return SOLE
    return SHOES


@njit(cache=True, nogil=True)
def _paint(
    region, triangle, barycentric, faces, normals, rest, palette, m, frequency, strength, light, key, ambient, colours
):
    """rest (V, 5): rest position, z of the rest normal, head weight. normals (V, 3) in camera axes."""
    at = np.empty(5, np.float32)
    for row in range(region[0], region[1]):
        for column in range(region[2], region[3]):
            t = triangle[row, column]
            if t < 0:
                continue
            w0, w1 = barycentric[row, column, 0], barycentric[row, column, 1]
            w2 = 1.0 - w0 - w1
            a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
            for k in range(5):
                at[k] = w0 * rest[a, k] + w1 * rest[b, k] + w2 * rest[c, k]
            x, y, z, front = at[0], at[1], at[2], at[3]
            nx = w0 * normals[a, 0] + w1 * normals[b, 0] + w2 * normals[c, 0]
            ny = w0 * normals[a, 1] + w1 * normals[b, 1] + w2 * normals[c, 1]
            nz = w0 * normals[a, 2] + w1 * normals[b, 2] + w2 * normals[c, 2]
            length = 1.0 / (np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9)
            nx, ny, nz = nx * length, ny * length, nz * length

            material = _material(x, y, z, front, at[4], m)
            shade = 1.0
            if TOP <= material <= SHOES:
                cloth = material - TOP
                if strength[cloth] > 0.0:
                    waves = x * frequency[cloth, 0], y * frequency[cloth, 1], z * frequency[cloth, 2]
                    shade += 0.5 * strength[cloth] * (np.sin(waves[0]) + np.sin(waves[1]) + np.sin(waves[2]))
                # Folds: the same for every outfit, faint.
                shade += 0.05 * np.sin(x * 61.0 + 3.0 * np.sin(y * 23.0))
                if front < 0.0:
                    shade *= 1.0 - m[BACK_SHADE] * min(1.0, -front * 2.0)
            elif material == HAIR:
                shade += 0.2 * np.sin(x * 300.0 + 20.0 * np.sin(z * 40.0))
            diffuse = max(0.0, nx * light[0] + ny * light[1] + nz * light[2])
            for k in range(3):
                lit = ambient[k] * (0.72 - 0.28 * ny) + key[k] * diffuse
                value = palette[material, k] * shade * lit
                # A soft shoulder instead of clipping, as a camera has.
                colours[row, column, k] = 255.0 * min(1.0, value * (1.0 + 0.1 * value) / (1.0 + 0.4 * value))


class PersonPainter:
    """Paints posed bodies of one body file.

    Args:
        v_template: (V, 3) rest vertices, metres, y up, facing +z.
        rest_joints: (>= 24, 3) joints of the template.
        weights: (V, 24) skinning weights.
        faces: (F, 3).
    """

    def __init__(self, v_template: np.ndarray, rest_joints: np.ndarray, weights: np.ndarray, faces: np.ndarray) -> None:
        self.faces = np.ascontiguousarray(faces, np.int32)
        vertices = np.ascontiguousarray(v_template, np.float32)
        normals = vertex_normals(vertices, self.faces)
        rest = np.concatenate([vertices, normals[:, 2:], weights[:, 15:16]], axis=1)  # (V, 5)
        self.rest = np.ascontiguousarray(rest, np.float32)
        self.joints = np.asarray(rest_joints, np.float64)  # (>= 24, 3)
        head = vertices[weights[:, 15] > 0.5]
        self.head_top, self.head_front, self.head_back = head[:, 1].max(), head[:, 2].max(), head[:, 2].min()
        self.floor, self.toe = vertices[:, 1].min(), vertices[vertices[:, 1] < self.joints[7, 1], 2].max()

    def dress(self, rng: np.random.Generator) -> Outfit:
        """Draws skin, hair, clothes and their cut."""
        joints = self.joints
        palette = np.zeros((14, 3))
        palette[SKIN] = SKIN_TONES[rng.integers(len(SKIN_TONES))] * rng.uniform(0.92, 1.06)
        palette[HAIR] = HAIR_TONES[rng.integers(len(HAIR_TONES))] * rng.uniform(0.8, 1.2)
        palette[[TOP, TROUSERS]] = rng.beta(0.9, 0.9, (2, 3)) * 0.9 + 0.06
        palette[SHOES] = rng.beta(0.7, 1.4, 3)
        palette[SOCKS] = palette[SKIN] if rng.random() < 0.6 else rng.beta(1.0, 1.0, 3)
        # The accent stands out from the shirt, or the front could not be told from the back.
        accent = rng.beta(0.8, 0.8, 3)
        top_brightness = palette[TOP].mean()
        if abs(accent.mean() - top_brightness) < 0.3:
            accent = np.clip(accent + (0.45 if top_brightness < 0.5 else -0.45), 0.03, 0.97)
        palette[ACCENT] = accent
        palette[BELT] = palette[TROUSERS] * 0.45
        palette[BUCKLE] = (0.85, 0.75, 0.35)
        palette[SOLE] = np.clip(palette[SHOES] * 0.4 + 0.55, 0, 1)
        palette[BAND] = rng.beta(0.6, 0.6, 3)
        palette[LIPS] = palette[SKIN] * (0.75, 0.42, 0.42)
        palette[EYE_WHITE], palette[PUPIL] = (0.95, 0.95, 0.95), (0.06, 0.05, 0.05)

        measures = np.zeros(24)
        shoulder, elbow, wrist = (abs(joints[j, 0]) for j in (16, 18, 20))
        knee_y, ankle_y, hip_y = joints[4, 1], joints[7, 1], joints[1, 1]
        measures[SLEEVE] = wrist * 0.99 if rng.random() < 0.45 else rng.uniform(shoulder + 0.07, elbow)
        measures[WAIST] = joints[0, 1] + rng.uniform(-0.03, 0.08)
        measures[HEM] = ankle_y + 0.04 if rng.random() < 0.7 else rng.uniform(knee_y - 0.05, hip_y - 0.18)
        measures[SHOE] = ankle_y + rng.uniform(-0.02, 0.05)
        measures[SOLE_TOP] = self.floor + 0.022
        measures[TOE] = self.toe - rng.uniform(0.02, 0.07)
        measures[NECK_Y] = joints[12, 1] - 0.01
        measures[NECK_DEPTH] = rng.uniform(0.05, 0.13)
        measures[NECK_WIDTH] = rng.uniform(0.06, 0.085)
        head_height = self.head_top - joints[15, 1]
        forehead = joints[15, 1] + rng.uniform(0.66, 0.78) * head_height
        nape = joints[15, 1] + rng.uniform(-0.1, 0.1) * head_height
        depth = 0.85 * self.head_front - self.head_back
        measures[HAIR_SLOPE] = (forehead - nape) / depth
        measures[HAIRLINE] = nape - measures[HAIR_SLOPE] * self.head_back
        measures[HAIR_LENGTH] = joints[16, 1] - rng.uniform(-0.05, 0.12) if rng.random() < 0.35 else self.head_top + 1.0
        measures[EYE_X], measures[EYE_Y] = 0.031, joints[15, 1] + 0.46 * head_height
        measures[MOUTH_Y] = joints[15, 1] + 0.15 * head_height
        measures[BEARD] = joints[15, 1] + 0.12 * head_height if rng.random() < 0.2 else self.floor
        measures[FRONT_STYLE] = rng.integers(5)
        measures[FRONT_WIDTH] = rng.uniform(0.055, 0.085)
        measures[PRINT_Y] = joints[9, 1] + rng.uniform(-0.06, 0.06)
        measures[PRINT_HEIGHT] = rng.uniform(0.03, 0.09)
        measures[BELT_HEIGHT] = rng.uniform(0.025, 0.045)
        measures[BAND_FROM], measures[BAND_TO] = 9.0, 9.0
        if rng.random() < 0.4:  # a watch or an armband, on either side alike
            start, side = rng.uniform(elbow, wrist - 0.04), 1.0 if rng.random() < 0.5 else -1.0
            band = sorted((side * start, side * (start + 0.04)))
            measures[BAND_FROM], measures[BAND_TO] = band
        measures[BACK_SHADE] = rng.uniform(0.1, 0.4)
        return Outfit(
            palette.clip(0.02, 1.0).astype(np.float32),
            measures.astype(np.float32),
            rng.choice([0.0, 0.0, 18.0, 35.0, 60.0, 110.0], (3, 3)).astype(np.float32),
            (rng.uniform(0.0, 0.4, 3) * (rng.random(3) < 0.5)).astype(np.float32),
        )

    def paint(self, rasterizer: Rasterizer, vertices_cam: np.ndarray, outfit: Outfit, light: Light) -> None:
        """Fills `rasterizer.colours` for its last drawing, which was of vertices_cam (V, 3)."""
        _paint(
            rasterizer.region,
            rasterizer.triangle,
            rasterizer.barycentric,
            rasterizer.faces,
            vertex_normals(vertices_cam, rasterizer.faces),
            self.rest,
            outfit.palette,
            outfit.measures,
            outfit.frequency,
            outfit.strength,
            light.direction.astype(np.float32),
            light.key.astype(np.float32),
            light.ambient.astype(np.float32),
            rasterizer.colours,
        )

import numpy as np

from adhmr.body.skeleton import JOINT_NAMES, PARENTS
from adhmr.visualization.drawing import LEFT_COLOUR, RIGHT_COLOUR, draw_skeleton, draw_text, grid


def test_joints_are_drawn_where_they_are_in_the_colour_of_their_side():
    image = np.zeros((60, 60, 3), np.uint8)
    left, right = (next(i for i, name in enumerate(JOINT_NAMES) if name.lower().startswith(s)) for s in ("l", "r"))
    joints = np.full((29, 2), np.nan)
    joints[left], joints[right] = (10.5, 20.5), (40.5, 30.5)
    drawn = draw_skeleton(image, joints)
    assert tuple(drawn[20, 10]) == LEFT_COLOUR and tuple(drawn[30, 40]) == RIGHT_COLOUR
    assert image.max() == 0
    joints[left] = (1e9, -1e9)
    assert tuple(draw_skeleton(image, joints, np.ones(29))[30, 40]) == RIGHT_COLOUR
    assert draw_skeleton(image, joints, np.zeros(29)).max() == 0


def test_bones_join_children_to_parents():
    joints = np.full((29, 2), np.nan)
    joints[4], joints[PARENTS[4]] = (5, 5), (45, 25)
    drawn = draw_skeleton(np.zeros((50, 50, 3), np.uint8), joints, colour=(255, 0, 0))
    assert drawn[15, 25, 0] > 100 and drawn[..., 1].max() == 0


def test_text_and_grid():
    cells = [np.full((20, 30 + n, 3), 50 * n, np.uint8) for n in range(5)]
    sheet = grid(cells, columns=3, gap=2)
    assert sheet.shape == (2 * 22 + 2, 3 * 36 + 2, 3)
    assert (sheet[24:44, 38:72] == 200).all()
    assert draw_text(cells[4], "x")[-12:].max() > draw_text(cells[4], "x")[:5].max()

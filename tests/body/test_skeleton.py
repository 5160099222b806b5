"""The joint tree: the facts that the rest of the package takes from it."""

from adhmr.body import skeleton


def test_levels_read_in_order_are_the_joints() -> None:
    # Kinematics joins the levels' results without sorting them.
    assert [joint for level in skeleton.LEVELS for joint in level] == list(range(skeleton.NUM_BODY_JOINTS))


def test_main_children_are_children() -> None:
    for joint, child in enumerate(skeleton.MAIN_CHILD):
        assert (child == -1) == (joint >= skeleton.NUM_BODY_JOINTS)
        if child >= 0:
            assert skeleton.PARENTS[child] == joint


def test_mirroring_is_its_own_inverse_and_keeps_the_tree() -> None:
    flip = skeleton.FLIP_JOINTS
    assert [flip[flip[joint]] for joint in range(skeleton.NUM_JOINTS)] == list(range(skeleton.NUM_JOINTS))
    for joint in range(1, skeleton.NUM_JOINTS):
        assert skeleton.PARENTS[flip[joint]] == flip[skeleton.PARENTS[joint]]
    swapped = {(joint, other) for joint, other in enumerate(flip) if joint < other}
    pairs = [(1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21), (22, 23), (25, 26), (27, 28)]
    assert swapped == set(pairs)


def test_twists_mirror_with_their_joints() -> None:
    assert [k + 1 for k in skeleton.FLIP_TWISTS] == [skeleton.FLIP_JOINTS[k + 1] for k in range(skeleton.NUM_TWISTS)]


def test_bones_lead_from_parent_to_child() -> None:
    assert len(skeleton.BONES) == skeleton.NUM_JOINTS - 1
    assert all(skeleton.PARENTS[child] == parent for parent, child in skeleton.BONES)

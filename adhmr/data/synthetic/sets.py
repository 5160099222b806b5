"""The four named synthetic data sets, as data: who is shown, from where, before what, how clean, and how well labelled.

Nothing is drawn here; `scene`, `person` and `poses` read these numbers.
"""

from dataclasses import dataclass, replace

from adhmr.errors import AdhmrError

TRAIN_PHOTOS = ("chelsea.png", "rocket.jpg", "brick.png", "grass.png", "hubble_deep_field.jpg")
HELD_OUT_PHOTOS = ("coffee.png", "gravel.png", "motorcycle_left.png")


@dataclass(frozen=True)
class DomainSpec:
    """One domain. Angles in degrees unless a name says otherwise, lengths as shares of the image side."""

    name: str
    description: str
    splits: tuple[str, ...]  # which pose splits it may be drawn from
    backgrounds: dict[str, float]  # kind -> weight; kinds are scene.BACKGROUNDS
    photos: tuple[str, ...]  # files of scikit-image's own data folder
    yaw_spread: float  # of the camera about the person, 0 is face to face
    yaw_limit: float
    yaw_uniform_share: float  # of people seen from any side
    key_light: tuple[float, float]
    ambient_light: tuple[float, float]
    occluder_odds: tuple[float, ...]  # probability of 0, 1, 2 … occluders
    noise: tuple[float, float]  # standard deviation in grey levels
    blur_probability: float
    blur: tuple[float, float]  # standard deviation in pixels of a 192-pixel image
    other_arms: float  # share of people whose arms come from another frame
    random_arms: float  # share whose arms are drawn at random
    joint_noise: float  # radians
    pseudo_labels: bool = False  # the record holds an estimator's mistakes, the truth lies beside
    random_legs: float = 0.10  # share whose legs are drawn at random
    bent_share: float = 0.10  # root tilted 30 to 60 degrees from upright
    lying_share: float = 0.01  # root tilted more than 60 degrees from upright
    pitch: tuple[float, float] = (0.10, 0.12)  # mean and spread, radians, positive looks down at the person
    roll: float = 0.05  # radians
    focal: tuple[float, float] = (1.5, 4.0)  # image sides
    fill: tuple[float, float] = (0.60, 0.86)  # longer side of the person


DOMAINS: dict[str, DomainSpec] = {
    spec.name: spec
    for spec in (
        DomainSpec(
            name="synth-studio",
            description="plain and graded backdrops, soft light, exact labels",
            splits=("train", "val", "test"),
            backgrounds={"plain": 0.4, "gradient": 0.6},
            photos=(),
            yaw_spread=25.0,
            yaw_limit=50.0,
            yaw_uniform_share=0.0,
            key_light=(0.45, 0.8),
            ambient_light=(0.55, 0.8),
            occluder_odds=(1.0,),
            noise=(0.5, 2.5),
            blur_probability=0.05,
            blur=(0.4, 0.8),
            other_arms=0.30,
            random_arms=0.15,
            joint_noise=0.05,
        ),
        DomainSpec(
            name="synth-game",
            description="procedural rooms with boxes and photographs as backdrops, hard light, exact labels",
            splits=("train", "val", "test"),
            backgrounds={"room": 0.5, "clutter": 0.2, "photo": 0.3},
            photos=TRAIN_PHOTOS,
            yaw_spread=35.0,
            yaw_limit=70.0,
            yaw_uniform_share=0.0,
            key_light=(0.7, 1.4),
            ambient_light=(0.3, 0.6),
            occluder_odds=(0.9, 0.1),
            noise=(0.5, 4.0),
            blur_probability=0.1,
            blur=(0.4, 0.9),
            other_arms=0.35,
            random_arms=0.20,
            joint_noise=0.06,
        ),
        DomainSpec(
            name="synth-wild",
            description="photographs, occluders, blur and noise; pseudo-labels with an estimator's mistakes",
            splits=("train", "val", "test"),
            backgrounds={"photo": 0.65, "clutter": 0.2, "room": 0.15},
            photos=TRAIN_PHOTOS,
            yaw_spread=40.0,
            yaw_limit=110.0,
            yaw_uniform_share=0.05,
            key_light=(0.5, 1.3),
            ambient_light=(0.35, 0.7),
            occluder_odds=(0.6, 0.3, 0.1),
            noise=(1.0, 7.0),
            blur_probability=0.35,
            blur=(0.4, 1.3),
            other_arms=0.30,
            random_arms=0.30,
            joint_noise=0.07,
            pseudo_labels=True,
        ),
        DomainSpec(
            name="synth-bench",
            description="the benchmark: no train split has poses, bodies or photographs of val and test; exact labels",
            splits=("train", "val", "test"),
            backgrounds={"photo": 0.25, "room": 0.5, "clutter": 0.25},
            photos=HELD_OUT_PHOTOS,
            yaw_spread=25.0,
            yaw_limit=50.0,
            yaw_uniform_share=0.0,
            key_light=(0.5, 1.2),
            ambient_light=(0.4, 0.7),
            occluder_odds=(0.9, 0.1),
            noise=(0.5, 4.0),
            blur_probability=0.1,
            blur=(0.4, 1.0),
            other_arms=0.20,
            random_arms=0.10,
            joint_noise=0.04,
            random_legs=0.05,
            bent_share=0.05,
            lying_share=0.0,
            pitch=(0.10, 0.08),
        ),
    )
}


def domain(name: str, split: str) -> DomainSpec:
    """The named domain, checked to have that split.

    Raises:
        AdhmrError: unknown name, or a split that the domain does not have.
    """
    if name not in DOMAINS:
        raise AdhmrError(f"no synthetic data set {name!r}: choose one of {', '.join(DOMAINS)}")
    spec = DOMAINS[name]
    if split not in spec.splits:
        raise AdhmrError(f"{name} has no split {split!r}: choose one of {', '.join(spec.splits)}")
    if split == "train" and spec.photos == HELD_OUT_PHOTOS:
        return replace(spec, photos=TRAIN_PHOTOS)  # the benchmark's look, but none of its photographs
    return spec

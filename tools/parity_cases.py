"""The cases of the parity check: our code on stored inputs against the reference implementations' stored outputs.

Weights are rebuilt (official_files.py) and imported by the code of `adhmr import-official`. The command is parity.py.
"""

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import roma
import torch
from torch import Tensor, nn

from adhmr.body import BodyModel, JointRegressor
from adhmr.body.hypotheses import Hypotheses
from adhmr.body.kinematics import inverse_kinematics
from adhmr.diffusion.sampler import ddim_sample
from adhmr.diffusion.schedule import LinearSchedule
from adhmr.models.encoder import ImageFeatures
from adhmr.models.official import import_official, read_model
from adhmr.models.scorer import score_of
from adhmr.models.weights import load_model
from adhmr.objectives import preference
from adhmr.objectives.denoising import betas_loss, joints2d_loss, noise_loss
from adhmr.objectives.preference import GroupErrors, denoising_error
from adhmr.objectives.ranking import rank_loss

sys.path.insert(0, str(Path(__file__).parent))
from official_files import write_official_file  # lies beside this file

TOLERANCE = 1e-4  # of the largest absolute value of the compared array, in fp32

LISTINGS = {
    "hyponet": "hyponet_state_dict.json",
    "scorenet": "scorehypo_scorenet_state_dict.json",
    "hmr-scorer": "hmr_scorer_state_dict.json",
}


class Comparison(NamedTuple):
    """One array of ours against the stored one."""

    name: str
    error: float  # largest difference over the largest absolute value of the stored array
    tolerance: float = TOLERANCE
    reason: str = ""  # for another tolerance, or another way of computing


class Reference:
    """A folder of reference numbers, with the models that are rebuilt from it; each is made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._temporary = tempfile.TemporaryDirectory(prefix="adhmr-parity-")
        self.arrays = cache(self._arrays)
        self.body = cache(lambda: BodyModel(self._path("mannequin_smpl.npz")))
        self.official_file = cache(self._official_file)
        self.model = cache(self._model)

    def close(self) -> None:
        """Remove the checkpoints that were rebuilt."""
        self._temporary.cleanup()

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        return path

    def _arrays(self, name: str) -> dict[str, Tensor]:
        with np.load(self._path(name), allow_pickle=False) as archive:
            return {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}

    def _official_file(self, kind: str) -> Path:
        listing = json.loads(self._path(LISTINGS[kind]).read_text())
        path = Path(self._temporary.name) / f"{kind}.pth"
        write_official_file(path, kind, listing)
        return path

    def _model(self, kind: str) -> nn.Module:
        """Imported from its official file as the command does, and loaded as a stage does."""
        report = import_official(self.official_file(kind), kind, "raw")
        assert report.output is not None
        model = load_model(report.output, "base" if kind == "hyponet" else "scorer")
        report.output.unlink()
        return model


def compare(name: str, found: Tensor, expected: Tensor, tolerance: float = TOLERANCE, reason: str = "") -> Comparison:
    """The largest difference, relative to the largest absolute value of the expected array."""
    if found.shape != expected.shape:
        raise ValueError(f"{name} has shape {tuple(found.shape)} here and {tuple(expected.shape)} in the folder")
    difference = (found.double() - expected.double()).abs().max()
    return Comparison(name, (difference / expected.double().abs().max()).item(), tolerance, reason)


def lbs(reference: Reference) -> list[Comparison]:
    """Linear blend skinning: rotations and shape to vertices, 29 joints, Human3.6M's 17."""
    data, body = reference.arrays("smpl_ik.npz"), reference.body()
    regressor = JointRegressor(reference.arrays("mannequin_smpl.npz")["J_regressor_h36m"], body.body_id)
    rotations = roma.rotvec_to_rotmat(data["pose"].view(-1, 24, 3))
    posed = body(rotations, data["betas"])
    return [
        compare("rotations", rotations, data["lbs_rotmats"]),
        compare("vertices", posed.vertices[:, data["vertex_ids"]], data["lbs_vertices"]),
        compare("joints29", posed.joints29, data["lbs_joints29"]),
        compare("joints17", regressor(posed.vertices), data["lbs_joints17"]),
    ]


def ik_adaptive(reference: Reference) -> list[Comparison]:
    """HybrIK's adaptive inverse kinematics, and the mesh of its rotations."""
    data, body = reference.arrays("smpl_ik.npz"), reference.body()
    rest = body.rest_joints29(data["betas"])
    rotations = inverse_kinematics(data["target_joints29"], data["twist_cos_sin"], rest, "adaptive")
    posed = body(rotations, data["betas"])
    return [
        compare("rotations", rotations, data["adaptive_rotmats"]),
        compare("joints29", posed.joints29, data["adaptive_joints29"]),
        compare("vertices", posed.vertices[:, data["vertex_ids"]], data["adaptive_vertices"]),
    ]


def ik_naive(reference: Reference) -> list[Comparison]:
    """The naive inverse kinematics of ScoreHypo and ADHMR."""
    data, body = reference.arrays("smpl_ik.npz"), reference.body()
    rest = body.rest_joints29(data["betas"])
    targets = data["target_joints29"]
    rotations = inverse_kinematics(targets, data["twist_cos_sin"], rest, "naive")
    joints = body.joints29(rotations, data["betas"])
    tolerance = TOLERANCE + _guard_of_the_naive_root(targets, rest)
    reason = "tolerance: the reference's root is no rotation by as much, for the 1e-8 in its sine and cosine"
    return [
        compare("joints29", joints, data["naive_joints29"], tolerance, reason),
        compare("rotations", rotations, data["naive_rotmats"], tolerance, reason),
    ]


def _guard_of_the_naive_root(targets: Tensor, rest: Tensor) -> float:
    """By how much the reference's root is off a rotation: it adds 1e-8 to the product of the distances (about 1 cm) of
    the middle of the hips from the spine, at rest and in the target, before it divides by it."""

    def distance(joints: Tensor) -> Tensor:
        offsets = joints[:, 1:4] - joints[:, :1]  # left hip, right hip, spine
        spine = nn.functional.normalize(offsets[:, 2], dim=-1)
        return torch.linalg.cross(offsets[:, :2].mean(1), spine).norm(dim=-1)

    return (1e-8 / (distance(targets) * distance(rest))).max().item()


def _hyponet_features(data: dict[str, Tensor]) -> ImageFeatures:
    memory = data["ctx_global"].flatten(2).transpose(1, 2)
    return ImageFeatures(memory, None, data["ctx_local"], data["pred_2d"], None, None, data["pred_shape"])


def conditioner(reference: Reference) -> list[Comparison]:
    """HypoNet's image encoder: HRNet-W48 with its fusion, heatmaps and local features."""
    data = reference.arrays("hyponet_forward.npz")
    features = reference.model("hyponet").encoder.encode(data["image"])
    return [
        compare("ctx_global", features.memory, data["ctx_global"].flatten(2).transpose(1, 2)),
        compare("ctx_local", features.local, data["ctx_local"]),
        compare("pred_shape", features.betas, data["pred_shape"]),
        compare("pred_2d", features.joints2d, data["pred_2d"]),
    ]


def denoiser(reference: Reference) -> list[Comparison]:
    """HypoNet's denoiser, one call, several hypotheses an image."""
    data = reference.arrays("hyponet_forward.npz")
    images = len(data["image"])
    x_joint, x_twist, t = (
        data[name].unflatten(0, (images, -1)) for name in ("x_joint", "x_twist", "t")
    )  # (N, M, 87), (N, M, 46), (N, M)
    found = reference.model("hyponet").denoiser(x_joint, x_twist, t.long(), _hyponet_features(data))
    return [compare(name, eps.flatten(0, 1), data[name]) for name, eps in zip(("eps_joint", "eps_twist"), found)]


def _ddim(reference: Reference, steps: int) -> list[Comparison]:
    data = reference.arrays("hyponet_forward.npz")
    noise = torch.cat([data["x_joint"], data["x_twist"]], -1).unflatten(0, (len(data["image"]), -1))  # (N, M, 133)
    model = reference.model("hyponet").denoiser
    found = ddim_sample(model, _hyponet_features(data), noise.shape[1], noise, steps, zero_first=False)
    names = (f"ddim{steps}_joint", f"ddim{steps}_twist")
    return [compare(name, part.flatten(0, 1), data[name]) for name, part in zip(names, found)]


def ddim3(reference: Reference) -> list[Comparison]:
    """The paper's sampler: t = 999, 666, 333, 0."""
    return _ddim(reference, 3)


def ddim10(reference: Reference) -> list[Comparison]:
    """The sampler with ten steps."""
    return _ddim(reference, 10)


def schedule(reference: Reference) -> list[Comparison]:
    """The noise schedule; each value relative to itself, for they span four orders of magnitude."""
    expected = reference.arrays("hyponet_forward.npz")["alphas_cumprod"]
    ratio = LinearSchedule().alphas_cumprod / expected
    return [compare("alphas_cumprod", ratio, torch.ones_like(expected))]


def _averaged(reference: Reference, kind: str) -> list[Comparison]:
    """The averaged weights, a list without names, must become the same model: here both hold the same values."""
    expected = reference.model(kind).state_dict()
    found = read_model(reference.official_file(kind), kind, "ema")[0].state_dict()
    numbers = [name for name in expected if expected[name].is_floating_point()]
    worst = max((compare(name, found[name], expected[name]) for name in numbers), key=lambda one: one.error)
    return [worst]


def hyponet_ema(reference: Reference) -> list[Comparison]:
    """HypoNet's averaged weights against its raw ones."""
    return _averaged(reference, "hyponet")


def scorenet_ema(reference: Reference) -> list[Comparison]:
    """ScoreNet's averaged weights against its raw ones."""
    return _averaged(reference, "scorenet")


def _pixels(points: Tensor, depth: Tensor, shape: tuple[int, int]) -> Tensor:
    """Points in [-1, 1] and depths (...) as UVD in the pixels of a crop of (height, width)."""
    height, width = shape
    return torch.stack([(points[..., 0] + 1) / 2 * width, (points[..., 1] + 1) / 2 * height, depth], -1)


def hmr_scorer(reference: Reference) -> list[Comparison]:
    """HMR-Scorer's head on the stored tokens of its encoder."""
    data, scorer = reference.arrays("hmr_scorer_head.npz"), reference.model("hmr-scorer")
    features = ImageFeatures(*scorer.adapter(data["encoder_tokens"]), *(None,) * 5)
    shape = scorer.config.crop_shape
    uvd = _pixels(data["uvd"][..., :2], data["uvd"][..., 2], shape)
    raw = scorer.score(features, Hypotheses(uvd), shape)
    return [compare("raw", raw, data["raw"]), compare("score", score_of(raw), data["score"])]


def scorenet(reference: Reference) -> list[Comparison]:
    """ScoreHypo's ScoreNet from the image on."""
    data, scorer = reference.arrays("scorehypo_scorenet.npz"), reference.model("scorenet")
    x = data["x"].unflatten(0, (len(data["image"]), -1))  # (N, M, 133)
    joints, twists = x[..., :87].unflatten(-1, (29, 3)), x[..., 87:].unflatten(-1, (23, 2))
    shape = scorer.config.crop_shape
    features = scorer.encoder.encode(data["image"])
    uvd = _pixels(joints[..., :2], joints[..., 2], shape)
    raw = scorer.score(features, Hypotheses(uvd, twists), shape)
    return [compare("pred_2d", features.joints2d, data["pred_2d"]), compare("score", raw.flatten(), data["score"])]


def denoising_loss(reference: Reference) -> list[Comparison]:
    """The base model's loss and its parts."""
    data = reference.arrays("denoising_loss.npz")
    joint_weight, twist_weight = data["joint_weight"], data["twist_weight"].flatten(1)
    parts = {
        "loss_shape": data["weight_shape"] * betas_loss(data["pred_shape"], data["target_shape"]),
        "loss_2d": data["weight_2d"] * joints2d_loss(data["pred_2d"], data["target_2d"], joint_weight[..., :2]),
        "loss_joint": noise_loss(data["eps_joint"][:, None], data["noise_joint"][:, None], joint_weight.flatten(1)),
        "loss_twist": noise_loss(data["eps_twist"][:, None], data["noise_twist"][:, None], twist_weight),
    }
    parts["total"] = torch.stack(list(parts.values())).sum()
    return [compare(name, part, data[name]) for name, part in parts.items()]


def dpo(reference: Reference) -> list[Comparison]:
    """The DPO loss of joints and of twists, and the errors of winners and losers."""
    data = reference.arrays("dpo_loss.npz")
    compared = []
    for part in ("joint", "twist"):
        weight = data[f"{part}_weight"].flatten(1).repeat(2, 1)
        policy, frozen = (  # (G, 2): winners, losers
            torch.stack(denoising_error(data[f"{model}_{part}"], data[f"noise_{part}"], weight).chunk(2), 1)
            for model in ("policy", "ref")
        )
        loss, _ = preference.dpo(GroupErrors(policy, frozen, torch.zeros_like(policy)), beta=float(data["beta"]))
        compared.append(compare(f"loss_{part}", loss, data[f"loss_{part}"]))
        if part == "joint":
            compared.append(compare("losses_joint_w", policy[:, 0], data["losses_joint_w"]))
            compared.append(compare("losses_joint_l", policy[:, 1], data["losses_joint_l"]))
    return compared


def rank(reference: Reference) -> list[Comparison]:
    """The rank loss. The reference takes logarithms, cut at -100, of a rounded sigmoid: a wrongly ordered pair whose
    sigmoid rounds to 0 or 1 costs 100 there and its logit here. Those pairs are counted as there."""
    data = reference.arrays("rank_loss.npz")
    score, error, sigma = data["score"].float(), data["error"].float(), float(data["sigma"])
    first, second = torch.triu_indices(score.shape[1], score.shape[1], 1)
    logits = sigma * (score[:, first] - score[:, second])
    better = error[:, first] < error[:, second]
    rounded = torch.where(better, logits.sigmoid() == 0, logits.sigmoid() == 1)
    excess = (100.0 - logits[rounded].abs()).sum() / len(score)
    reason = f"{int(rounded.sum())} pairs whose sigmoid rounds to 0 or 1 are counted as the reference does"
    return [compare("loss", rank_loss(score, error, sigma) + excess, data["loss"], reason=reason)]


CASES: dict[str, Callable[[Reference], list[Comparison]]] = {
    "lbs": lbs,
    "ik-naive": ik_naive,
    "ik-adaptive": ik_adaptive,
    "schedule": schedule,
    "conditioner": conditioner,
    "denoiser": denoiser,
    "ddim3": ddim3,
    "ddim10": ddim10,
    "hyponet-ema": hyponet_ema,
    "hmr-scorer": hmr_scorer,
    "scorenet": scorenet,
    "scorenet-ema": scorenet_ema,
    "denoising-loss": denoising_loss,
    "dpo-loss": dpo,
    "rank-loss": rank,
}


@torch.no_grad()
def run(folder: Path, names: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """Run the named cases on a folder: whether each holds, and its line. What could not be run does not hold."""
    reference = Reference(folder)
    try:
        for name in names:
            try:
                yield _judged(name, CASES[name](reference))
            except Exception as error:  # a missing file, a damaged archive, weights that do not fit: all count
                yield False, f"{name:15s} could not be run: {error or type(error).__name__}"
    finally:
        reference.close()


def _judged(name: str, compared: list[Comparison]) -> tuple[bool, str]:
    """Whether a case holds, and its line: its largest error, of those over tolerance if there are any."""
    over = [one for one in compared if not one.error <= one.tolerance]  # NaN is over
    worst = max(over or compared, key=lambda one: math.inf if math.isnan(one.error) else one.error)
    largest = f"{worst.error:.1e}, tolerance {worst.tolerance:.1e} ({worst.name})"
    reasons = "; ".join(dict.fromkeys(one.reason for one in compared if one.reason))
    return not over, f"{name:15s} {'OVER' if over else 'ok  '}  {largest}{'; ' + reasons if reasons else ''}"

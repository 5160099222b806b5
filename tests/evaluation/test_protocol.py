"""Protocols against their definitions, written down a second time in plain numpy, and a whole evaluation by one."""

import json
import re

import cv2
import numpy as np
import pytest
import roma
import torch
import yaml
from pydantic import ValidationError

from adhmr.body.body_model import BodyModel, JointRegressor
from adhmr.body.hypotheses import Hypotheses
from adhmr.config.data import CropConfig
from adhmr.config.evaluation import EvaluateStage
from adhmr.config.protocol import PRESETS, ProtocolConfig
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import ShardWriter
from adhmr.data.stream import iterate_set
from adhmr.data.transforms import LabelledCrop
from adhmr.errors import AdhmrError
from adhmr.evaluation import evaluate
from adhmr.evaluation.protocol import official_candidates, rows_of, top_hypothesis
from adhmr.evaluation.tables import EvaluationResult, image_columns
from adhmr.models.weights import load_model
from adhmr.preference.hypotheses import hypothesis_noise, pose_hypotheses, sample_hypotheses
from adhmr.preference.mesh_errors import ERROR_NAMES, AnnotatedJoints, mesh_errors
from tests.tiny import CROP, adhmr

FOURTEEN = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]  # of the published protocol


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - b) ** 2).sum(-1))


def aligned(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity that takes points closest to target, by a search for it among SVD's rotations."""
    a, b = points - points.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(a.T @ b)
    flip = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    return (s * flip).sum() / (a * a).sum() * a @ (u * flip) @ vt + target.mean(0)


def published_errors(mesh, truth_mesh, matrix, joints17, pa_joints) -> dict[str, float]:
    """Of one body (V, 3) against one label: regressed joints against annotated ones, pelvis row 0."""
    found, truth_pelvis = matrix @ mesh, (matrix @ truth_mesh)[0]
    pa = aligned(found, joints17)[FOURTEEN] if pa_joints == 17 else aligned(found[FOURTEEN], joints17[FOURTEEN])
    return {
        "pve": distances(mesh - found[0], truth_mesh - truth_pelvis).mean(),
        "mpjpe": distances((found - found[0])[FOURTEEN], (joints17 - joints17[0])[FOURTEEN]).mean(),
        "pa_pve": distances(aligned(mesh, truth_mesh), truth_mesh).mean(),
        "pa_mpjpe": distances(pa, joints17[FOURTEEN]).mean(),
    }


def made_up_regressor(body: BodyModel) -> JointRegressor:
    """Each of the 17 joints is a mean of forty vertices: no joints of a human, but as much a regressor as any."""
    rng = np.random.default_rng(0)
    matrix = np.zeros((17, body.num_vertices), np.float32)
    for row in matrix:
        row[rng.choice(body.num_vertices, 40, replace=False)] = 1 / 40
    return JointRegressor(matrix, body.body_id)


@pytest.fixture(scope="module")
def regressor(body) -> JointRegressor:
    return made_up_regressor(body)


# ------------------------------------------------------------------------------------------------ the switches
def test_what_the_names_stand_for():
    plain = {"candidates": "strict", "stride": 1, "root": "oracle"}
    released = {"candidates": "official", "stride": 10, "root": "oracle"}
    assert {
        "smpl24": {"joints": "smpl24", "pa_joints": 24, **plain},
        "3dpw": {"joints": "h36m14", "pa_joints": 14, **plain},
        "h36m": {"joints": "h36m14", "pa_joints": 17, **plain},
        "3dpw-official": {"joints": "h36m14", "pa_joints": 14, **released},
        "h36m-official": {"joints": "h36m14", "pa_joints": 17, **released},
    } == PRESETS
    for name, preset in PRESETS.items():
        protocol = ProtocolConfig(name=name)
        assert protocol.model_dump() == {"name": name, **preset} and protocol.title == name
        assert ProtocolConfig(**protocol.model_dump()) == protocol  # as a run folder's config.yaml holds it
    assert ProtocolConfig().name == "smpl24"


def test_keys_beside_the_name_replace_the_presets_and_are_named():
    protocol = ProtocolConfig(name="h36m", pa_joints=14, root="estimated")
    assert (protocol.pa_joints, protocol.root, protocol.candidates) == (14, "estimated", "strict")
    assert protocol.title == "h36m (pa_joints 14, root estimated)"
    with pytest.raises(ValidationError, match="pa_joints is 17, but joints smpl24 need 24"):
        ProtocolConfig(pa_joints=17)
    with pytest.raises(ValidationError, match="pa_joints is 24, but joints h36m14 need 14 or 17"):
        ProtocolConfig(name="3dpw", pa_joints=24)


def make_config(output, tiny_weights, data, **changes) -> EvaluateStage:
    values = {
        "stage": "evaluate",
        "output": output,
        "data": data,
        "crop": CROP,
        "models": [{"name": "base", "weights": tiny_weights / "base.safetensors"}],
        "scorer": tiny_weights / "scorer.safetensors",
        "hypotheses": [2, 7],
        "images_per_batch": 3,
    }
    return EvaluateStage(**{**values, **changes})


def test_what_a_protocol_needs_is_asked_for(tmp_path, tiny_weights):
    with pytest.raises(ValidationError, match="protocol 3dpw counts joints h36m14: regressor must name J_regressor"):
        make_config(tmp_path, tiny_weights, "x", protocol={"name": "3dpw"})
    with pytest.raises(ValidationError, match="protocol smpl24 counts joints smpl24: regressor must be null"):
        make_config(tmp_path, tiny_weights, "x", regressor="y.npy")
    with pytest.raises(ValidationError, match="candidates that a scorer chooses: set scorer"):
        make_config(tmp_path, tiny_weights, "x", protocol={"candidates": "official"}, scorer=None)


def test_the_stride_is_taken_before_the_limit():
    protocol = ProtocolConfig(name="3dpw-official", root="estimated")
    assert list(rows_of(protocol, 35, None)) == [0, 10, 20, 30]
    assert list(rows_of(protocol, 35, 2)) == [0, 10]
    assert list(rows_of(ProtocolConfig(), 3, 9)) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------ joints
@pytest.mark.parametrize("pa_joints", [14, 17])
@pytest.mark.parametrize("chunk", [1, 64])
@pytest.mark.parametrize("kind", ["open body", "reference body"])
def test_errors_on_annotated_joints(request, body, regressor, pa_joints, chunk, kind):
    if kind == "reference body":
        path = request.getfixturevalue("reference_dir") / "mannequin_smpl.npz"
        body, regressor = BodyModel(path), JointRegressor(np.load(path)["J_regressor_h36m"], "smpl")
    generator = torch.Generator().manual_seed(2)
    target = 0.4 * torch.randn(2, 24, 3, generator=generator)
    rotations = roma.rotvec_to_rotmat(target[:, None] + 0.2 * torch.randn(2, 3, 24, 3, generator=generator))
    target, betas = roma.rotvec_to_rotmat(target), torch.randn(2, 3, 10, generator=generator)
    target_mesh = body(target, betas[:, 0]).vertices
    # Annotations lie near the regressed joints, not on them, and somewhere else in space.
    joints17 = regressor(target_mesh) + 0.02 * torch.randn(2, 17, 3, generator=generator) + torch.tensor([0.3, 0, 4.0])
    annotated = AnnotatedJoints(regressor, joints17, pa_joints)
    found = mesh_errors(body, rotations, betas, target, betas[:, 0], chunk=chunk, annotated=annotated)
    matrix = regressor.matrix.double().numpy()
    for n in range(2):
        for m in range(3):
            mesh = body(rotations[n, m : m + 1], betas[n, m : m + 1]).vertices[0].double().numpy()
            truth = target_mesh[n].double().numpy(), matrix, joints17[n].double().numpy()
            expected = published_errors(mesh, *truth, pa_joints)
            np.testing.assert_allclose(found[n, m], [expected[name] for name in ERROR_NAMES], atol=2e-6)
            assert abs(published_errors(mesh, *truth, 31 - pa_joints)["pa_mpjpe"] - expected["pa_mpjpe"]) > 1e-4


# ------------------------------------------------------------------------------------------------ candidates
def test_the_scorers_choice_is_the_mean_of_five_with_the_angles_of_the_released_code():
    generator = torch.Generator().manual_seed(3)
    angles = 6.28 * torch.rand(2, 9, 23, generator=generator)
    length = 0.5 + torch.rand(2, 9, 23, 1, generator=generator)
    twists = length * torch.stack([angles.cos(), angles.sin()], -1)
    hypotheses = Hypotheses(torch.randn(2, 9, 29, 3, generator=generator), twists)
    scores = torch.randn(2, 9, generator=generator)
    found = top_hypothesis(hypotheses, scores)
    assert found.uvd.shape == (2, 1, 29, 3) and found.twists.shape == (2, 1, 23, 2)
    for n in range(2):
        best = np.argsort(-scores[n].numpy())[:5]
        np.testing.assert_allclose(found.uvd[n, 0], hypotheses.uvd[n].numpy()[best].mean(0), atol=1e-6)
        x, y = twists[n].numpy()[best][..., 0], twists[n].numpy()[best][..., 1]
        mean = (np.arctan(y / x) + np.pi * (x < 0)).mean(0)  # (-pi/2, 3 pi/2)
        np.testing.assert_allclose(found.twists[n, 0], np.stack([np.cos(mean), np.sin(mean)], -1), atol=1e-5)


def test_the_angles_of_the_released_code_wrap_around_at_minus_90_degrees():
    def mean_of(*degrees: float) -> float:
        angles = torch.deg2rad(torch.tensor(degrees))[None, :, None].expand(1, len(degrees), 23)
        hypotheses = Hypotheses(torch.zeros(1, len(degrees), 29, 3), torch.stack([angles.cos(), angles.sin()], -1))
        cosine, sine = top_hypothesis(hypotheses, torch.zeros(1, len(degrees))).twists[0, 0, 0]
        return torch.rad2deg(torch.atan2(sine, cosine)).item()

    assert mean_of(170, -170) == pytest.approx(180, abs=1e-3) or mean_of(170, -170) == pytest.approx(-180, abs=1e-3)
    assert mean_of(-80, -100) == pytest.approx(90, abs=1e-3)  # -90 were right


def test_official_candidates_are_of_the_first_hypotheses_only():
    hypotheses = Hypotheses(torch.randn(2, 9, 29, 3), torch.randn(2, 9, 23, 2))
    scores = torch.randn(2, 9)
    found = official_candidates(hypotheses, scores, [1, 6, 9])
    assert found.uvd.shape == (2, 6, 29, 3)
    torch.testing.assert_close(found.uvd[:, :2], hypotheses.uvd[:, [0, 0]])  # of one hypothesis both are itself
    torch.testing.assert_close(found.uvd[:, 3], hypotheses.uvd[:, :6].mean(1))
    torch.testing.assert_close(found.twists[:, 3], hypotheses.twists[:, :6].mean(1))
    shorter = official_candidates(Hypotheses(hypotheses.uvd[:, :6], hypotheses.twists[:, :6]), scores[:, :6], [1, 6])
    torch.testing.assert_close(found.uvd[:, :4], shorter.uvd)


def test_minima_over_m_and_over_m_plus_two():
    rng = np.random.default_rng(0)
    arrays = {"errors": rng.uniform(50, 90, (20, 8, 4)), "mean_errors": rng.uniform(50, 90, (20, 4))}
    strict = image_columns(arrays, "mpjpe", [3, 8])
    arrays["extra_errors"] = rng.uniform(50, 90, (20, 2, 2, 4))
    official = image_columns(arrays, "mpjpe", [3, 8])
    for n in range(20):
        for k, count in enumerate((3, 8)):
            errors = arrays["errors"][n, :count, 1]
            assert strict[f"min {count}"][n] == errors.min()
            assert official[f"min {count}"][n] == min([*errors, *arrays["extra_errors"][n, k, :, 1]])
    np.testing.assert_array_equal(official["top 5"], arrays["extra_errors"][:, 1, 0, 1])
    assert list(official) == ["min 3", "min 8", "top 5", "zero", "mean", "random"]


# ------------------------------------------------------------------------------------------------ whole evaluations
@pytest.fixture(scope="module")
def annotated_set(tmp_path_factory, studio_set, body, regressor):
    """The rendered people with joints17 near the regressed ones."""
    folder, rng = tmp_path_factory.mktemp("annotated") / "studio17", np.random.default_rng(4)
    reader = ShardReader(studio_set)
    with ShardWriter(folder, source="test", split="test", licence="CC0", samples_per_shard=4) as writer:
        for row in range(len(reader)):
            sample = reader.read(row)
            values = (torch.from_numpy(np.array(sample.record[name]))[None] for name in ("pose", "betas", "transl"))
            pose, betas, transl = values
            mesh = body(roma.rotvec_to_rotmat(pose), betas, transl).vertices[0]
            sample.record["joints17"] = regressor(mesh).numpy() + rng.normal(0, 0.02, (17, 3))
            sample.record["has_joints17"] = 1
            jpeg = cv2.imencode(".jpg", sample.image[..., ::-1])[1].tobytes()
            writer.write(sample.key, jpeg, sample.record, {})
    return folder


@pytest.fixture(scope="module")
def regressor_file(tmp_path_factory, regressor):
    path = tmp_path_factory.mktemp("regressor") / "joints17.npz"
    np.savez(path, regressor=regressor.matrix.numpy(), body_id=regressor.body_id)
    return path


def arrays(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "models" / "base.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_an_official_evaluation_by_the_command_line(
    tmp_path, tiny_weights, annotated_set, regressor_file, body, regressor
):
    config = make_config(
        tmp_path / "run",
        tiny_weights,
        annotated_set,
        regressor=regressor_file,
        protocol={"name": "h36m-official", "stride": 3},
    )
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    done = adhmr("run", tmp_path / "evaluate.yaml")
    assert done.returncode == 0, done.stderr
    assert "protocol h36m-official (stride 3)" in done.stdout and "top 5" in done.stdout
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert figures["protocol"] == "h36m-official (stride 3)" and figures["samples"] == 4
    assert figures["settings"]["protocol"] == config.protocol.model_dump()
    assert {"regressor", "body", "sampler", "ik", "scorer", "data"} <= set(figures["settings"])

    made = arrays(tmp_path / "run")
    assert made["errors"].shape == (4, 7, 4) and made["extra_errors"].shape == (4, 2, 2, 4)
    columns = EvaluationResult(tmp_path / "run").columns("base", "pa_mpjpe")
    model, scorer = (load_model(tiny_weights / f"{kind}.safetensors", kind) for kind in ("base", "scorer"))
    crop = LabelledCrop(CropConfig(**CROP), None)
    batch = next(iterate_set(annotated_set, crop, 4, rows=range(0, 10, 3)))
    matrix = regressor.matrix.double().numpy()
    with torch.no_grad():
        features = model.encoder(batch["image"])
        samples = sample_hypotheses(model, features, hypothesis_noise(0, batch["key"], 7), CROP["size"])
        scores = scorer(batch["image"], samples)[1]
        for k, count in enumerate((2, 7)):
            first = Hypotheses(samples.uvd[:, :count], samples.twists[:, :count])
            mean = Hypotheses(first.uvd.mean(1, keepdim=True), first.twists.mean(1, keepdim=True))
            # The order of the released list: the scorer's choice, the samples, the mean of all.
            parts = [top_hypothesis(first, scores[:, :count]), first, mean]
            whole = Hypotheses(torch.cat([p.uvd for p in parts], 1), torch.cat([p.twists for p in parts], 1))
            rotations = pose_hypotheses(body, whole, features.betas, batch["intrinsics"], batch["root_depth"])
            truth = body(roma.rotvec_to_rotmat(batch["pose"]), batch["betas"]).vertices.double().numpy()
            for n in range(4):
                meshes = body(rotations[n], features.betas[n : n + 1]).vertices.double().numpy()
                joints17 = batch["joints17"][n].double().numpy()
                errors = [published_errors(mesh, truth[n], matrix, joints17, 17) for mesh in meshes]
                expected = 1000 * np.array([[error[name] for name in ERROR_NAMES] for error in errors])
                found = np.concatenate(
                    [made["extra_errors"][n, k, :1], made["errors"][n, :count], made["extra_errors"][n, k, 1:]]
                )
                np.testing.assert_allclose(found, expected, atol=0.1)
                assert abs(columns[f"min {count}"][0, n] - expected[:, 3].min()) < 0.1


def test_settings_that_change_errors_change_what_is_kept(tmp_path, tiny_weights, annotated_set, regressor_file):
    common = {"limit": 3, "regressor": regressor_file}
    found = {}
    for title, changes in {
        "3dpw": {"protocol": {"name": "3dpw"}},
        "h36m": {"protocol": {"name": "h36m"}},
        "3dpw (root estimated)": {"protocol": {"name": "3dpw", "root": "estimated"}},
        "smpl24": {"protocol": {"name": "smpl24"}, "regressor": None},
    }.items():
        evaluate.run_stage(make_config(tmp_path, tiny_weights, annotated_set, **{**common, **changes}))
        assert EvaluationResult(tmp_path).protocol == title
        found[title] = arrays(tmp_path)["errors"]
    pa = found["3dpw"][..., 3] - found["h36m"][..., 3]
    assert np.abs(pa).min() > 0
    np.testing.assert_array_equal(found["3dpw"][..., :3], found["h36m"][..., :3])
    difference = np.abs(found["3dpw (root estimated)"] - found["3dpw"])
    assert difference.max() > 0.1  # another depth is another perspective
    assert np.abs(found["smpl24"][..., 0] - found["3dpw"][..., 0]).max() > 0.1  # another pelvis
    np.testing.assert_allclose(found["smpl24"][..., 2], found["3dpw"][..., 2])
    for change in ({"ik": "adaptive"}, {"sampler": {"steps": 2}}, {"sampler": {"eta": 1.0}}):
        evaluate.run_stage(make_config(tmp_path, tiny_weights, annotated_set, limit=3, **change))
        assert not np.allclose(arrays(tmp_path)["errors"], found["smpl24"]), change


def test_stochastic_sampling_does_not_depend_on_batches(tmp_path, tiny_weights, studio_set):
    errors = []
    for size in (2, 5):
        config = make_config(tmp_path, tiny_weights, studio_set, limit=5, sampler={"eta": 1.0}, images_per_batch=size)
        (tmp_path / "models" / "base.npz").unlink(missing_ok=True)
        evaluate.run_stage(config)
        errors.append(arrays(tmp_path)["errors"])
    np.testing.assert_allclose(*errors, atol=0.05)


def test_labels_and_regressors_that_do_not_fit_are_named(tmp_path, tiny_weights, studio_set, regressor_file, body):
    config = {"protocol": {"name": "3dpw"}, "regressor": regressor_file}
    with pytest.raises(AdhmrError, match=r"studio, sample .*: its label has no joints17; protocol 3dpw needs it"):
        evaluate.run_stage(make_config(tmp_path, tiny_weights, studio_set, **config))
    few = tmp_path / "few.npz"
    np.savez(few, regressor=np.zeros((14, body.num_vertices), np.float32), body_id=body.body_id)
    with pytest.raises(AdhmrError, match=rf"{re.escape(str(few))}: gives 14 joints, expected Human3.6M's 17"):
        evaluate.run_stage(make_config(tmp_path, tiny_weights, studio_set, **{**config, "regressor": few}))
    smpl = tmp_path / "J_regressor_h36m.npy"
    np.save(smpl, np.zeros((17, 6890), np.float32))
    with pytest.raises(AdhmrError, match="made for body 'smpl'"):
        evaluate.run_stage(make_config(tmp_path, tiny_weights, studio_set, **{**config, "regressor": smpl}))

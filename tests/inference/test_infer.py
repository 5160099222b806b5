"""The command on two pictures with tiny random networks: what is written, that it fits together, what is refused."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import roma
import torch
import trimesh
from PIL import Image

from adhmr.body.camera import apply_affine, project, uvd_from_joints
from adhmr.body.hypotheses import Hypotheses
from adhmr.data.shard_reader import ShardReader
from adhmr.errors import AdhmrError
from adhmr.inference.infer import InferenceSettings, infer
from adhmr.inference.persons import find_persons
from adhmr.inference.predictor import Predictor
from adhmr.models.weights import load_model, save_weights
from tests.tiny import adhmr

BOX = (12.0, 3.0, 50.0, 61.0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, studio_set):
    folder = tmp_path_factory.mktemp("pictures")
    reader = ShardReader(studio_set)
    for row, name in enumerate(("first.png", "second.jpg")):
        Image.fromarray(reader.read(row).image).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pictures, tiny_weights):
    """Two people of one picture and one of another, by the real command."""
    output = tmp_path_factory.mktemp("inference")
    boxes = output / "boxes.json"
    boxes.write_text(json.dumps({"first.png": [BOX, (0, 0, 40, 64)], "second.jpg": [BOX]}))
    weights = ("--checkpoint", tiny_weights / "base.safetensors", "--scorer", tiny_weights / "scorer.safetensors")
    options = ("--hypotheses", 4, "--save-hypotheses", 2, "--meshes", "glb", "--batch", 2, "--focal", 300)
    process = adhmr("infer", pictures, *weights, "--boxes", boxes, "--output", output / "people", *options)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.strip().splitlines()
    assert len(lines) == 3 and "people/first-1: 4 hypotheses, pelvis" in lines[1] and "best score" in lines[1]
    return output / "people"


def settings(tiny_weights, output, **changes) -> InferenceSettings:
    values = {
        "checkpoint": tiny_weights / "base.safetensors",
        "scorer": None,
        "body": None,
        "output": output,
        "hypotheses": 3,
        "seed": 0,
        "ik": "adaptive",
        "precision": "fp32",
        "batch": 8,
        "meshes": "none",
        "save_hypotheses": 1,
        "overwrite": False,
    }
    return InferenceSettings(**{**values, **changes})


def arrays(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "parameters.npz") as stored:
        return {name: stored[name] for name in stored.files}


def test_each_person_has_its_files(finished, body):
    assert sorted(path.name for path in finished.iterdir()) == ["first-0", "first-1", "second-0"]
    for folder in finished.iterdir():
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["mesh-0.glb", "mesh-1.glb", "overlay.jpg", "parameters.npz", "sheet.jpg"]
        with Image.open(folder / "overlay.jpg") as overlay, Image.open(folder / "sheet.jpg") as sheet:
            assert overlay.size == (64, 64) and sheet.size[0] > 5 * 256 and sheet.size[1] > 2 * 256


def test_parameters_fit_together(finished, body):
    for folder in finished.iterdir():
        made = arrays(folder)
        tensors = {name: torch.from_numpy(value) for name, value in made.items() if value.dtype == np.float32}
        assert made["rotations"].shape == (4, 24, 3, 3) and made["betas"].shape == (10,)
        rotations = roma.rotvec_to_rotmat(tensors["pose"])
        torch.testing.assert_close(rotations, tensors["rotations"], atol=1e-5, rtol=0)
        posed = body(rotations, tensors["betas"][None], tensors["transl"])
        torch.testing.assert_close(posed.joints29, tensors["joints29"], atol=1e-5, rtol=0)
        pixels = project(made["joints29"], made["intrinsics"])
        np.testing.assert_allclose(pixels, made["joints29_px"], atol=1e-3)
        in_crop = apply_affine(made["crop_affine"], pixels)
        np.testing.assert_allclose(in_crop, project(made["joints29"], made["crop_intrinsics"]), atol=1e-2)
        # The pelvis is where the model sees it, at the depth that was found.
        np.testing.assert_allclose(in_crop[:, 0], made["uvd"][:, 0, :2], atol=1e-2)
        np.testing.assert_allclose(made["joints29"][:, 0, 2], made["root_depth"] + made["uvd"][:, 0, 2], atol=1e-4)
        assert made["intrinsics"][0, 0] == 300 and (made["root_depth"] > 0).all()
        for rank in range(2):
            mesh = trimesh.load(folder / f"mesh-{rank}.glb", force="mesh", process=False)
            np.testing.assert_array_equal(mesh.faces, body.faces)
            np.testing.assert_allclose(mesh.vertices * [1, -1, -1], posed.vertices[rank], atol=1e-5)


def test_scores_sort_hypotheses(finished, pictures, tiny_weights):
    for folder in finished.iterdir():
        made = arrays(folder)
        assert sorted(made["hypothesis"].tolist()) == [0, 1, 2, 3]
        assert (np.diff(made["raw_scores"]) <= 0).all()
        np.testing.assert_allclose(made["scores"], 1 / (1 + np.exp(-5 * made["raw_scores"])), rtol=1e-4)
        request = json.loads(str(made["request"]))
        assert request["person"] == int(folder.name[-1]) and request["seed"] == 0 and len(request["checkpoint"]) == 16
    assert any(arrays(folder)["hypothesis"].tolist() != [0, 1, 2, 3] for folder in finished.iterdir())


def test_order_batch_and_company_do_not_matter(tmp_path, finished, pictures, tiny_weights):
    """A person's hypotheses depend on the seed and the person alone, and without a scorer come as sampled."""
    boxes = ["0,0,40,64"], [",".join(map(str, BOX))]
    for number, given in enumerate(boxes[::-1]):
        output = tmp_path / str(number)
        # The second box of the file is person 1: here it needs company to have that number.
        given = [*boxes[1], *given] if number else given
        infer(
            [pictures / "first.png"],
            settings(tiny_weights, output, hypotheses=4, batch=1),
            boxes=given,
            padding=1.25,
            focal=300,
        )
        alone, together = arrays(output / f"first-{number}"), arrays(finished / f"first-{number}")
        assert alone["hypothesis"].tolist() == [0, 1, 2, 3] and "scores" not in alone
        for name in ("uvd", "transl", "joints29"):
            np.testing.assert_allclose(alone[name][together["hypothesis"]], together[name], atol=2e-3, err_msg=name)


def test_the_same_run_writes_the_same_bytes_and_another_seed_others(tmp_path, pictures, tiny_weights):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        infer([pictures / "first.png"], settings(tiny_weights, tmp_path / name, seed=seed, meshes="obj"), padding=1.25)
    for path in (tmp_path / "a" / "first-0").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "first-0" / path.name).read_bytes(), path.name
    first, other = arrays(tmp_path / "a" / "first-0"), arrays(tmp_path / "c" / "first-0")
    np.testing.assert_array_equal(first["uvd"][0], other["uvd"][0])  # the zero-noise hypothesis
    assert (np.abs(first["uvd"][1:] - other["uvd"][1:]).max((1, 2)) > 1).all()


def test_the_checkpoint_says_how_large_crops_are(tmp_path, pictures, tiny_weights):
    base = load_model(tiny_weights / "base.safetensors", "base")
    checkpoint = tmp_path / "base.safetensors"
    save_weights(checkpoint, base, "base", base.config.model_dump(mode="json"), {"crop_padding": 1.7})
    for name, told, used in (("told", None, 1.7), ("overruled", 1.4, 1.4)):
        chosen = settings(tiny_weights, tmp_path / name, checkpoint=checkpoint)
        infer([pictures / "first.png"], chosen, padding=told)
        assert json.loads(str(arrays(tmp_path / name / "first-0")["request"]))["padding"] == used


def test_finished_people_are_kept_and_other_settings_refused(tmp_path, pictures, tiny_weights, capsys):
    infer([pictures], settings(tiny_weights, tmp_path), padding=1.25)
    before = (tmp_path / "first-0" / "parameters.npz").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "second-0")
    capsys.readouterr()
    infer([pictures], settings(tiny_weights, tmp_path), padding=1.25)  # as after an interruption
    lines = capsys.readouterr().out.splitlines()
    assert "first-0: there already, made with the same settings" in lines[0] and "second-0: 3 hypotheses" in lines[1]
    assert (tmp_path / "first-0" / "parameters.npz").stat().st_mtime_ns == before
    with pytest.raises(
        AdhmrError, match=r"first-0: was made with padding 1.25, asked for 1.5; choose another --output"
    ):
        infer([pictures], settings(tiny_weights, tmp_path), padding=1.5)
    (tmp_path / "first-0" / "mine.txt").touch()
    infer([pictures], settings(tiny_weights, tmp_path, hypotheses=2, overwrite=True), padding=1.25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first-0", "second-0"]  # nothing temporary is left
    assert len(arrays(tmp_path / "first-0")["uvd"]) == 2 and not (tmp_path / "first-0" / "mine.txt").exists()
    shutil.rmtree(tmp_path / "first-0")
    (tmp_path / "first-0").mkdir()
    with pytest.raises(AdhmrError, match=r"first-0: is not a person's outputs"):
        infer([pictures], settings(tiny_weights, tmp_path), padding=1.25)


def test_inverse_kinematics_are_chosen(pictures, tiny_weights, tmp_path):
    for ik in ("naive", "adaptive"):
        infer([pictures / "first.png"], settings(tiny_weights, tmp_path / ik, ik=ik), padding=1.25)
    naive, adaptive = (arrays(tmp_path / ik / "first-0") for ik in ("naive", "adaptive"))
    np.testing.assert_array_equal(naive["uvd"], adaptive["uvd"])
    assert np.abs(naive["rotations"] - adaptive["rotations"]).max() > 1e-3
    with pytest.raises(AdhmrError, match="first-0: was made with ik naive, asked for adaptive"):
        infer([pictures / "first.png"], settings(tiny_weights, tmp_path / "naive"), padding=1.25)


def test_a_whole_image_is_searched_for_its_person(pictures, tiny_weights, monkeypatch):
    """The crop of the second look is the box of the joints that the first one found, padded as in training."""
    predictor = Predictor(
        tiny_weights / "base.safetensors", None, None, hypotheses=2, seed=0, ik="adaptive", precision="fp32", meshes=1
    )
    image = np.array(Image.open(pictures / "first.png"))
    whole = find_persons([pictures / "first.png"], None, "", 1.25, None)[0]
    joints = torch.full((1, 1, 29, 3), 32.0)
    joints[..., :24, 0], joints[..., 1, 1] = torch.linspace(8, 24, 24), 28.0
    joints[..., 24:, :2] = 60.0  # the leaves are no part of the box
    looked = Hypotheses(joints, torch.ones(1, 1, 23, 2))
    monkeypatch.setattr("adhmr.inference.predictor.sample_hypotheses", lambda *_: looked)
    found = predictor.locate([whole], [image])[0]
    assert found.box == pytest.approx((8, 28, 24, 32)) and found.side == pytest.approx(16 * 1.25)
    assert found.name == whole.name
    monkeypatch.setattr("adhmr.inference.predictor.sample_hypotheses", lambda *_: Hypotheses(joints * 0, looked.twists))
    assert predictor.locate([whole], [image])[0] == whole  # all joints in one point: nobody was found
    given = find_persons([pictures / "first.png"], {"first.png": [BOX]}, "", 1.25, None)
    assert predictor.locate(given, [image]) == given


def test_exact_hypotheses_stand_where_the_person_stands(pictures, studio_set, body, tiny_weights, monkeypatch):
    """With a model that is always right, the body is put back at its own place in the camera."""
    record = ShardReader(studio_set).read_record(0)
    joints = torch.from_numpy(np.array(record["joints29"]))[None]
    predictor = Predictor(
        tiny_weights / "base.safetensors", None, None, hypotheses=1, seed=0, ik="adaptive", precision="fp32", meshes=1
    )
    focal = float(record["intrinsics"][0, 0])
    person = find_persons([pictures / "first.png"], {"first.png": [BOX]}, "", 1.25, focal)[0]
    intrinsics = torch.from_numpy(person.crop_intrinsics(64)).float()[None]
    exact = Hypotheses(uvd_from_joints(joints, intrinsics)[:, None], torch.from_numpy(record["twists"])[None, None])
    real = predictor.base.encoder.forward
    betas = torch.from_numpy(np.array(record["betas"]))[None]
    monkeypatch.setattr(predictor.base.encoder, "forward", lambda image: real(image)._replace(betas=betas))
    monkeypatch.setattr("adhmr.inference.predictor.sample_hypotheses", lambda *_: exact)
    image = np.array(Image.open(pictures / "first.png"))
    made = predictor([person], [image])[0].arrays
    np.testing.assert_allclose(made["transl"][0], record["transl"], atol=0.02)
    np.testing.assert_allclose(made["joints29_px"][0], project(joints[0].numpy(), person.intrinsics), atol=0.3)


@pytest.mark.parametrize("crop_shape", [(96, 96), (128, 96)])
def test_a_scorer_sees_the_image_in_its_own_resolution(pictures, tiny_weights, crop_shape):
    predictor = Predictor(
        tiny_weights / "base.safetensors", None, None, hypotheses=2, seed=0, ik="adaptive", precision="fp32", meshes=1
    )
    person = find_persons([pictures / "first.png"], {"first.png": [BOX]}, "", 1.25, None)
    image = np.array(Image.open(pictures / "first.png"))
    plain = predictor(person, [image])[0].arrays

    class Recorder:
        config = SimpleNamespace(crop_shape=crop_shape)

        def __call__(self, crops, hypotheses):
            assert crops.shape == (1, 3, 96, 96) and crops.dtype == torch.uint8
            np.testing.assert_array_equal(crops[0].permute(1, 2, 0), person[0].crop(image, 96))
            np.testing.assert_allclose(hypotheses.uvd[0], plain["uvd"] * [1.5, 1.5, 1], rtol=1e-5)
            np.testing.assert_array_equal(hypotheses.rotations[0], plain["rotations"])
            return None, torch.tensor([[0.1, 0.3]])

    predictor.scorer = Recorder()
    sorted_by_score = predictor(person, [image])[0].arrays
    assert sorted_by_score["hypothesis"].tolist() == [1, 0]
    np.testing.assert_array_equal(sorted_by_score["transl"], plain["transl"][::-1])


def test_refusals_come_before_anything_is_computed(tmp_path, pictures, tiny_weights):
    weights = ("--checkpoint", tiny_weights / "base.safetensors", "--output", tmp_path / "out")
    process = adhmr("infer", pictures, *weights, "--box", "1,2,30,40")
    assert process.returncode == 2 and "--box is for one image, but 2 were given" in process.stderr
    assert process.stderr.count("\n") == 1
    both = {"boxes": ["1,2,30,40"], "boxes_file": tmp_path / "boxes.json"}
    with pytest.raises(AdhmrError, match=r"--box and --boxes: give one of them"):
        infer([pictures / "first.png"], settings(tiny_weights, tmp_path / "out"), padding=1.25, **both)
    with pytest.raises(AdhmrError, match=r"--save-hypotheses 9: only 3 are sampled"):
        infer([pictures], settings(tiny_weights, tmp_path / "out", save_hypotheses=9), padding=1.25)
    wrong = settings(tiny_weights, tmp_path / "out", checkpoint=tiny_weights / "scorer.safetensors")
    with pytest.raises(AdhmrError, match=r"holds a model of kind 'scorer', expected 'base'"):
        infer([pictures], wrong, padding=1.25)
    assert not (tmp_path / "out").exists()

"""What training begins from and how fast each part learns: whole models, mean betas, rates, labels of single sets."""

import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adhmr.config.model import BaseModelConfig, ScorerConfig, ViTConfig
from adhmr.errors import AdhmrError
from adhmr.models.base_model import BaseModel
from adhmr.models.scorer import score_of
from adhmr.models.vit import ViTEncoder
from adhmr.models.weights import load_model, save_weights
from adhmr.preference.mesh_errors import ERROR_NAMES
from adhmr.preference.noised_truth import noised_truth
from adhmr.training.parameter_groups import encoder_groups
from adhmr.training.run import run_stage
from adhmr.training.tasks.base import BaseTask
from adhmr.training.tasks.scorer import ScorerTask
from tests.tiny import BASE, CROP, TRANSFORMER
from tests.training.steps import batch_of, changed, snapshot, train

HRNET = {
    "encoder": {"backbone": "hrnet_w18_small", "neck": "hrnet", "memory_dim": 32, "local_dim": 16},
    "denoiser": {**BASE["denoiser"], "preconditioning": "none", "anchor": False},
    "crop_size": CROP["size"],
}
VIT = {"neck": "vit", "depth": 2, "dim": 48, "heads": 3, "input_size": (64, 48), "task_tokens": 3, "drop_path": 0.3}


# ------------------------------------------------------------------------------------------------ a whole model
def test_training_goes_on_from_a_base_model_as_its_file_describes_it(base_config, tiny_weights, studio_set):
    path = tiny_weights / "base.safetensors"
    task = BaseTask(base_config(model=None, base=path, encoder_weights=None))
    assert not changed(task.model, snapshot(load_model(path, "base")))
    assert task.model_config() == BaseModelConfig(**BASE).model_dump(mode="json")
    before = snapshot(task.model)
    train(task, batch_of(task, studio_set), 2)
    assert {name.split(".")[0] for name in changed(task.model, before)} == {"encoder", "denoiser"}


def test_there_is_one_start(base_config, tiny_weights):
    path = tiny_weights / "base.safetensors"
    with pytest.raises(ValidationError, match=r"expected one of model .* and base"):
        base_config(base=path, encoder_weights=None)
    with pytest.raises(ValidationError, match=r"expected one of model .* and base"):
        base_config(model=None)
    for other in ("encoder_weights", "mean_betas"):
        with pytest.raises(ValidationError, match="base is a whole model"):
            base_config(**{"model": None, "base": path, "encoder_weights": None, other: path})


def test_crops_of_another_size_than_the_bases_are_refused(base_config, tiny_weights):
    config = base_config(model=None, base=tiny_weights / "base.safetensors", encoder_weights=None)
    data = config.data.model_copy(update={"crop": config.data.crop.model_copy(update={"size": 96})})
    with pytest.raises(AdhmrError, match=r"base.safetensors: data.crop.size is 96, model.crop_size is 64"):
        BaseTask(config.model_copy(update={"data": data}))


def test_another_base_is_another_run(base_config, tiny_weights, tmp_path):
    base = tmp_path / "mine.safetensors"
    shutil.copy(tiny_weights / "base.safetensors", base)
    config = base_config(model=None, base=base, encoder_weights=None)
    config.output.mkdir()
    run_stage(config)
    torch.manual_seed(5)
    model = BaseModelConfig(**BASE)
    save_weights(base, BaseModel(model), "base", model.model_dump(mode="json"))
    with pytest.raises(AdhmrError, match=r"checkpoint of another run .*weights.base"):
        run_stage(config)


# ------------------------------------------------------------------------------------------------ mean betas
def test_betas_are_counted_from_the_given_mean(base_config, tmp_path):
    mean = np.arange(10, dtype=np.float32)
    np.save(tmp_path / "mean.npy", mean)
    task = BaseTask(base_config(model=HRNET, encoder_weights=None, mean_betas=tmp_path / "mean.npy"))
    neck = task.model.encoder.neck
    np.testing.assert_array_equal(neck.mean_betas, mean)
    with torch.no_grad():
        neck.betas.weight.zero_()
        neck.betas.bias.zero_()
        betas = task.model.eval().encoder(torch.zeros(1, 3, 64, 64)).betas
    np.testing.assert_array_equal(betas[0], mean)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((1, 10), np.float32), r"float32 of shape \(1, 10\); expected 10 finite"),
        (np.zeros(10, np.int64), "int64 of shape"),
        (np.full(10, np.nan), "expected 10 finite"),
        (b"no array", "cannot be read as a .npy file"),
    ],
)
def test_a_file_of_other_mean_betas_is_refused(base_config, tmp_path, content, message):
    path = tmp_path / "mean.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(AdhmrError, match=message):
        BaseTask(base_config(model=HRNET, encoder_weights=None, mean_betas=path))


def test_mean_betas_need_an_encoder_that_has_them(base_config, tmp_path):
    np.save(tmp_path / "mean.npy", np.zeros(10, np.float32))
    with pytest.raises(AdhmrError, match="mean_betas is for encoders with neck hrnet"):
        BaseTask(base_config(mean_betas=tmp_path / "mean.npy"))


def test_other_mean_betas_are_another_run(base_config, tmp_path):
    path = tmp_path / "mean.npy"
    np.save(path, np.zeros(10, np.float32))
    config = base_config(model=HRNET, encoder_weights=None, mean_betas=path, train=short(1))
    config.output.mkdir()
    run_stage(config)
    np.save(path, np.ones(10, np.float32))
    with pytest.raises(AdhmrError, match=r"checkpoint of another run .*mean_betas"):
        run_stage(config)


def short(steps: int) -> dict:
    return {"steps": steps, "global_batch": 2, "log_every": 1, "save_every": 1, "ema_decay": None}


# ------------------------------------------------------------------------------------------------ rates
def test_trunk_and_new_layers_of_an_encoder_have_rates_of_their_own(base_config):
    task = BaseTask(base_config(encoder_lr_scale=0.4, encoder_head_lr_scale=2.0))
    scales = {parameter: group["lr_scale"] for group in task.parameter_groups() for parameter in group["params"]}
    assert len(scales) == len(list(task.model.parameters()))
    for name, parameter in task.model.named_parameters():
        trunk, inside = name.startswith("encoder.neck.backbone."), name.startswith("encoder.")
        assert scales[parameter] == (0.4 if trunk else 2.0 if inside else 1.0), name


def test_a_vision_transformer_is_all_trunk():
    encoder = ViTEncoder(ViTConfig(**VIT))
    (group,) = encoder_groups(encoder, 0.02, 5.0)
    assert group["lr_scale"] == 0.02 and len(group["params"]) == len(list(encoder.parameters()))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_scorer_of_tall_crops_learns(scorer_config, studio_set, frozen):
    model = {"encoder": VIT, "crop_size": 128, "crop_aspect": 0.75, "hidden_dims": [256, 32], **TRANSFORMER}
    data = {"sets": [{"path": str(studio_set)}], "crop": {"size": 128, "aspect": 0.75}, "augment": None, "workers": 0}
    rates = {"freeze_encoder": frozen, "encoder_lr_scale": 0.02}
    task = ScorerTask(scorer_config(model=model, data=data, encoder_weights=None, **rates))
    scales = {parameter: group["lr_scale"] for group in task.parameter_groups() for parameter in group["params"]}
    for name, parameter in task.model.named_parameters():
        assert scales.get(parameter) == ((None if frozen else 0.02) if name.startswith("encoder.") else 1.0), name
    batch = batch_of(task, studio_set)
    assert batch["image"].shape == (4, 3, 128, 96)
    before = snapshot(task.model)
    losses = train(task, batch, 12)
    assert losses[-1] < losses[0] and (
        any(name.startswith("encoder.") for name in changed(task.model, before)) is not frozen
    )
    assert task.model.encoder.training is not frozen  # frozen, no path of it is dropped


def test_losses_of_joints_need_an_encoder_that_finds_joints(scorer_config):
    model = {"encoder": VIT, "crop_size": 128, "crop_aspect": 0.75, **TRANSFORMER, "hidden_dims": [256, 32]}
    ScorerConfig(**model)
    data = {"sets": [{"path": "x"}], "crop": {"size": 128, "aspect": 0.75}}
    with pytest.raises(ValidationError, match="for encoders that find joints"):
        scorer_config(model=model, data=data, loss={"joints2d": 1.0})
    with pytest.raises(ValidationError, match=r"data.crop.aspect is 1.0, the model's crops have 0.75"):
        scorer_config(model=model, data={"sets": [{"path": "x"}], "crop": {"size": 128}})


def test_a_calibration_of_400_is_the_released_codes_100_for_each_error(scorer_config, studio_set):
    task = ScorerTask(scorer_config(loss={"pve": 0, "pa_pve": 0, "mpjpe": 0, "pa_mpjpe": 0, "calibration": 400.0}))
    task.model.eval()
    batch = batch_of(task, studio_set)
    loss, _ = task.loss(task.model, batch)
    with torch.no_grad():
        truth = noised_truth(task.body, task.error_body, batch, batch["pose_noise"])
        score = score_of(task.model(batch["image"], truth.hypotheses)[1])
    expected = 0.0
    for index, name in enumerate(ERROR_NAMES):
        worst = 150 if name in ("pa_pve", "pa_mpjpe") else 300
        target = ((worst - 1000 * truth.errors[..., index]) / (worst - 10)).clamp(0, 1)
        expected = expected + 100 * ((score - target) ** 2).mean()
    torch.testing.assert_close(loss, expected)


# ------------------------------------------------------------------------------------------------ sets
def test_labels_that_a_set_does_not_supervise_have_no_part_in_the_loss(base_config, studio_set):
    def parts(labels):
        data = {"sets": [{"path": str(studio_set), "labels": labels}], "crop": CROP, "augment": None}
        task = BaseTask(base_config(data=data))
        task.model.eval()
        batch = batch_of(task, studio_set)
        return batch, task.loss(task.model, batch)[1]

    everything, none = parts(None), parts([])
    assert none[1]["betas"] == none[1]["twists"] == 0 < none[1]["joints"] < everything[1]["joints"]
    assert 0 < none[1]["joints2d"] < everything[1]["joints2d"]
    torch.testing.assert_close(none[0]["x0"], everything[0]["x0"])  # what the denoiser sees is the same


@pytest.mark.parametrize("setting", [{"labels": ["depth"]}, {"padding": 1.4}, {"occlusion_probability": 1.0}])
def test_other_settings_of_a_set_are_another_run(base_config, studio_set, setting):
    def config(**settings):
        data = {"sets": [{"path": str(studio_set), **settings}], "crop": CROP, "augment": {}, "workers": 0}
        return base_config(data=data, train=short(1))

    config().output.mkdir()
    run_stage(config())
    with pytest.raises(AdhmrError, match=f"data set studio has changed .*{next(iter(setting))}"):
        run_stage(config(**setting))

"""Initial values of image encoders from made-up files of pose HRNet, ViTPose, SMPLer-X and timm, and their loading."""

import pytest
import torch
from safetensors.torch import save_file

import adhmr.models.torchvision_operators  # isort: skip  # noqa: F401  (must come before timm)
import timm
from timm.layers import resample_abs_pos_embed

from adhmr.config.model import EncoderConfig, ViTConfig
from adhmr.errors import AdhmrError
from adhmr.models.encoder import ImageEncoder
from adhmr.models.official import import_official
from adhmr.models.vit import ViTEncoder
from adhmr.models.weights import load_encoder_weights, load_model, load_weights, save_encoder
from tools.official_files import rebuilt, vit_entries

from .conftest import ENCODER

W18 = "hrnet_w18_small"


@pytest.fixture(scope="module")
def vit_b() -> dict[str, torch.Tensor]:
    return rebuilt(vit_entries(), 5)


def random_timm(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return timm.create_model(name, pretrained=False).state_dict()


def test_pose_hrnet(tmp_path, capsys):
    """The pose network lacks the fusion into all but the finest branch at its end, and has heatmaps."""
    official = {
        name: value
        for name, value in random_timm("hrnet_w48").items()
        if name.split(".")[0] not in ("incre_modules", "downsamp_modules", "classifier", "final_layer")
        and not name.startswith(tuple(f"stage4.2.fuse_layers.{branch}." for branch in (1, 2, 3)))
    }
    official |= {"final_layer.weight": torch.zeros(17, 48, 1, 1), "final_layer.bias": torch.zeros(17)}
    torch.save(official, tmp_path / "pose_hrnet_w48_384x288.pth")
    report = import_official(tmp_path / "pose_hrnet_w48_384x288.pth", "pose-hrnet")
    lines = "\n".join(report.lines())
    assert "left out: final_layer.* 2 tensors (heatmaps of the 17 COCO joints)" in lines
    assert "not in the file: neck.backbone.stage4.* 78 tensors (the pose network ends" in lines
    assert "neck.betas_map.* 7 tensors, " in lines

    encoder = ImageEncoder(EncoderConfig(betas_head=False))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    load_encoder_weights(encoder, report.output)
    for name, value in encoder.state_dict().items():
        theirs = official.get(name.removeprefix("neck.backbone."))
        assert torch.equal(value, before[name] if theirs is None else theirs), name
    printed = capsys.readouterr().out
    assert f"{len(official) - 2} of the encoder's {len(before)} tensors" in printed
    assert "as initialised: neck.backbone 78, neck.increase 96, " in printed and "heatmaps 2" in printed


def test_timm_hrnet_with_its_fusion(tmp_path):
    official = random_timm(W18)
    save_file(official, tmp_path / "model.safetensors")
    output = tmp_path / "initial.safetensors"
    report = import_official(tmp_path / "model.safetensors", "timm", output=output, backbone=W18)
    encoder = ImageEncoder(EncoderConfig(backbone=W18))
    load_encoder_weights(encoder, output)
    own = encoder.state_dict()
    fused = "stage4.0.fuse_layers.3.0.2.1.weight"
    assert torch.equal(own[f"neck.backbone.{fused}"], official[fused])
    assert torch.equal(own["neck.increase.2.conv2.weight"], official["incre_modules.2.0.conv2.weight"])
    assert torch.equal(own["neck.reduce.1.0.bias"], official["downsamp_modules.1.0.bias"])
    assert any("classifier.* 2 tensors (ImageNet's classifier)" in line for line in report.lines())
    with pytest.raises(AdhmrError, match="would be overwritten"):
        import_official(tmp_path / "model.safetensors", "timm", backbone=W18)
    with pytest.raises(AdhmrError, match=r"does not fit kind timm: .*conv1\.weight|stage"):
        import_official(tmp_path / "model.safetensors", "timm", output=output, backbone="hrnet_w18")


@pytest.mark.parametrize("kind", ["vitpose", "smpler-x"])
def test_vision_transformers(kind, vit_b, tmp_path, capsys):
    if kind == "vitpose":
        state = {f"backbone.{name}": value for name, value in vit_b.items() if name != "task_tokens"}
        content = {"meta": {"epoch": 210}, "state_dict": state | {"keypoint_head.final_layer.bias": torch.zeros(17)}}
    else:
        state = {f"module.encoder.{name}": value for name, value in vit_b.items()}
        rest = {f"module.body_regressor.{name}": torch.zeros(3) for name in ("weight", "bias")}
        content = {"network": state | rest, "epoch": 3}
    torch.save(content, tmp_path / "vit.pth")
    report = import_official(tmp_path / "vit.pth", kind)
    lines = "\n".join(report.lines())
    encoder = ViTEncoder(ViTConfig(neck="vit"))
    tokens = encoder.task_tokens.detach().clone()
    load_encoder_weights(encoder, report.output)
    expected = vit_b | ({"task_tokens": tokens} if kind == "vitpose" else {})
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, expected[name]), name
    if kind == "vitpose":
        assert "left out: keypoint_head.final_layer.bias (heatmaps of the 17" in lines
        assert "not in the file: task_tokens (learnt by later networks" in lines
        told = f"{len(vit_b) - 1} of the encoder's {len(vit_b)} tensors; as initialised: task_tokens 1"
        assert told in capsys.readouterr().out
    else:
        assert "left out: module.body_regressor.* 2 tensors (the rest of SMPLer-X)" in lines


def test_timm_vision_transformer(tmp_path):
    official = random_timm("vit_base_patch16_224")
    torch.save(official, tmp_path / "vit.bin")
    report = import_official(tmp_path / "vit.bin", "timm", backbone="vit_base_patch16_224")
    state, metadata = load_weights(report.output)
    assert metadata["kind"] == "backbone" and metadata["config"] == {"neck": "vit", "backbone": "vit_base_patch16_224"}
    table = official["pos_embed"]
    assert torch.equal(state["pos_embed"], resample_abs_pos_embed(table, [16, 12], num_prefix_tokens=1))
    assert torch.equal(state["pos_embed"][:, 0], table[:, 0])  # the class token's
    assert torch.equal(state["last_norm.weight"], official["norm.weight"])
    assert torch.equal(state["blocks.11.attn.qkv.bias"], official["blocks.11.attn.qkv.bias"])
    lines = "\n".join(report.lines())
    assert "pos_embed: resampled from 14 x 14 to 16 x 12 patches" in lines
    assert "left out: cls_token (only the classifier" in lines and "left out: head.* 2 tensors" in lines
    with pytest.raises(AdhmrError, match=r"does not fit ImageEncoder: unknown"):
        load_encoder_weights(ImageEncoder(EncoderConfig(**ENCODER)), report.output)
    with pytest.raises(AdhmrError, match="kind 'backbone', expected 'encoder'"):
        load_model(report.output, "encoder")


def test_damaged_transformers_are_refused(vit_b, tmp_path):
    state = {f"backbone.{name}": value for name, value in vit_b.items()}
    state["backbone.blocks.3.mlp.fc1.bias"] = torch.zeros(7)
    state["backbone.cls_token"] = torch.zeros(1, 1, 768)
    del state["backbone.pos_embed"]
    torch.save({"state_dict": state}, tmp_path / "vit.pth")
    with pytest.raises(AdhmrError) as refused:
        import_official(tmp_path / "vit.pth", "vitpose")
    for problem in (
        "backbone.pos_embed (1, 193, 768) is missing",
        "backbone.blocks.3.mlp.fc1.bias is (7,), expected (3072,)",
        "backbone.cls_token (1, 1, 768) is unknown",
    ):
        assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "timm"}, "--kind timm: needs --backbone"),
        ({"kind": "timm", "backbone": "resnet50"}, "--backbone resnet50: only hrnet_w"),
        ({"kind": "vitpose", "backbone": "hrnet_w48"}, "--backbone: only --kind timm takes one"),
        ({"kind": "pose-hrnet", "weights": "ema"}, "--weights ema: a pose-hrnet file has one set"),
    ],
)
def test_options_that_do_not_go_together(options, message, tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "file.pth")
    with pytest.raises(AdhmrError, match=message):
        import_official(tmp_path / "file.pth", **options)


def test_an_encoder_without_betas_takes_a_base_models(tmp_path, capsys):
    source = ImageEncoder(EncoderConfig(backbone=W18))
    save_encoder(tmp_path / "encoder.safetensors", source)
    target = ImageEncoder(EncoderConfig(backbone=W18, betas_head=False))
    load_encoder_weights(target, tmp_path / "encoder.safetensors")
    torch.testing.assert_close(target.neck.memory.weight, source.neck.memory.weight, atol=1e-3, rtol=1e-3)
    assert "10 tensors of the betas are left out" in capsys.readouterr().out
    save_encoder(tmp_path / "without.safetensors", target)
    with pytest.raises(AdhmrError, match=r"missing neck\.mean_betas|missing neck\.betas"):
        load_encoder_weights(source, tmp_path / "without.safetensors")

"""Official checkpoints of whole models: round trips, averages, masks, and a clear refusal of each thing that is wrong.

The files have the official layouts around small networks; the paper's sizes are in tests/test_parity.py.
"""

import dataclasses
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from adhmr import cli
from adhmr.config.model import BaseModelConfig, DenoiserConfig, EncoderConfig, ScorerConfig, ViTConfig
from adhmr.errors import AdhmrError
from adhmr.models.masked_linear import MaskedLinear
from adhmr.models.official import MODEL_KINDS, import_official, read_model
from adhmr.models.weights import load_model, load_weights
from tools.official_files import averages

SIZES = {"dim": 64, "local_dim": 32, "heads": 4, "ffn": 128}
HRNET = {"backbone": "hrnet_w18_small", "memory_dim": 64, "local_dim": 32}
VIT = {"neck": "vit", "depth": 2, "dim": 48, "heads": 3, "input_size": (64, 48), "task_tokens": 3}
SMALL = {
    "hyponet": lambda full: BaseModelConfig(
        encoder=EncoderConfig(**_legacy(full), **HRNET), denoiser=DenoiserConfig(**SIZES)
    ),
    "scorenet": lambda full: ScorerConfig(
        encoder=EncoderConfig(**_legacy(full), **HRNET, betas_head=False),
        variant="uvd_twist",
        hidden_dims=(64,),
        **SIZES,
    ),
    "hmr-scorer": lambda full: ScorerConfig(
        encoder=ViTConfig(**_legacy(full), **VIT), crop_size=128, crop_aspect=0.75, hidden_dims=(64, 32), **SIZES
    ),
}


def _legacy(full: BaseModelConfig | ScorerConfig) -> dict[str, bool]:
    return {name: value for name, value in full.encoder.model_dump().items() if name.startswith("legacy_")}


@pytest.fixture(autouse=True)
def small_kinds(monkeypatch):
    for kind, small in SMALL.items():
        layout = MODEL_KINDS[kind]
        monkeypatch.setitem(MODEL_KINDS, kind, dataclasses.replace(layout, config=small(layout.config)))


def random_model(kind: str) -> torch.nn.Module:
    """A model whose every tensor is its own."""
    layout = MODEL_KINDS[kind]
    model = layout.model(layout.config)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(7)
        else:
            value.normal_(0.0, 0.05)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return model.eval()


def official_content(kind: str, model: torch.nn.Module) -> dict:
    """`model` as the official code would have saved it."""
    layout = MODEL_KINDS[kind]
    states = {entry: OrderedDict() for entry in layout.averages}
    for name, value in model.state_dict().items():
        entry, key, third = layout.place(name)
        before = states[entry].get(key)
        states[entry][key] = value if not third else torch.cat([before, value])
    content = {**states, "optimizer": {"state": {}}, "epoch": 3, "best": np.float64(71.2)}
    if kind == "scorenet":
        states["model_score_cond"]["final_feat_layer.0.weight"] = torch.zeros(2048, 1024, 1, 1)
    if kind == "hmr-scorer":
        network = states["network"]
        network |= {"score_net.linear_start_t.weight": torch.zeros(0, 0), "smplx_layer.betas": torch.zeros(10)}
        content["network"] = {f"module.{key}": value for key, value in network.items()}
    else:
        content |= {average: averages(states[entry]) for entry, average in layout.averages.items()}
    return content


def changed(content: dict, entry: str, **state: torch.Tensor | None) -> dict:
    """The content with tensors of one state dict exchanged, added, or (None) taken out."""
    merged = {**content[entry], **{key.replace("__", "."): value for key, value in state.items()}}
    return content | {entry: {key: value for key, value in merged.items() if value is not None}}


@pytest.fixture(scope="module")
def hyponet() -> torch.nn.Module:
    layout = MODEL_KINDS["hyponet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODEL_KINDS, "hyponet", dataclasses.replace(layout, config=SMALL["hyponet"](layout.config)))
        return random_model("hyponet")


@pytest.fixture
def save(tmp_path):
    def write(content: object, name: str = "ckpt.pth") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def assert_same(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    """Equal tensors, but for what lies outside the masks: zero."""
    masked = {
        f"{name}.weight": layer.masked_weight()
        for name, layer in expected.named_modules()
        if isinstance(layer, MaskedLinear)
    }
    own = found.state_dict()
    assert len(masked) >= 1 and list(own) == list(expected.state_dict())
    for name, value in (expected.state_dict() | masked).items():
        assert torch.equal(own[name], value), name


@pytest.mark.parametrize("kind", SMALL)
def test_round_trip(kind, save, tmp_path):
    model = random_model(kind)
    path = save(official_content(kind, model), "snapshot.pth.tar")
    report = import_official(path, kind, "raw")
    assert report.output == tmp_path / "snapshot.safetensors"
    loaded = load_model(report.output, MODEL_KINDS[kind].builds)
    assert_same(loaded, model)
    assert loaded.config == MODEL_KINDS[kind].config
    _, metadata = load_weights(report.output)
    assert metadata["official"] | {"sha256": None} == {
        "file": "snapshot.pth.tar",
        "sha256": None,
        "kind": kind,
        "weights": "raw",
    }
    assert len(metadata["official"]["sha256"]) == 64
    assert any("masks applied: of" in line and "were not zero" in line for line in report.lines())


def test_masked_weights_do_not_change_what_the_network_computes(save, hyponet):
    found, _ = read_model(save(official_content("hyponet", hyponet)), "hyponet", "raw")
    image = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    inputs = image, torch.randn(1, 2, 87), torch.randn(1, 2, 46), torch.tensor([[10, 900]])
    with torch.no_grad():
        for ours, theirs in zip(found(*inputs)[1:], hyponet(*inputs)[1:]):
            assert torch.equal(ours, theirs)


def test_official_models_keep_their_legacy_properties():
    """Of the layouts themselves, whose other values the small ones exchange."""
    encoders = {kind: layout.config.encoder for kind, layout in MODEL_KINDS.items()}
    for kind in ("hyponet", "scorenet"):
        assert encoders[kind].legacy_channel_order and encoders[kind].legacy_bone_points
    vit = encoders["hmr-scorer"]
    assert vit.legacy_patch_padding and vit.legacy_unit_range and vit.legacy_nearest_resize


@pytest.mark.parametrize(("kind", "entry"), [("hyponet", "ema_cond"), ("scorenet", "ema_score")])
def test_averaged_weights_are_taken_by_default(kind, entry, save):
    raw, smooth = random_model(kind), random_model(kind)
    content = official_content(kind, raw)
    averaged = official_content(kind, smooth)
    for average in MODEL_KINDS[kind].averages.values():
        content[average] = averaged[average]
    found, report = read_model(save(content), kind)
    buffers = {name: value for name, value in raw.named_buffers() if name in raw.state_dict()}
    smooth.load_state_dict(smooth.state_dict() | buffers)  # averages have no buffers
    assert_same(found, smooth)
    assert report.weights == "ema" and "averaged" in report.lines()[0]
    assert any("left out: " in line and "the buffers were taken" in line for line in report.lines())
    found, report = read_model(save(content), kind, "raw")
    assert_same(found, raw)
    assert any("left out: " in line and entry in line and "--weights ema" in line for line in report.lines())


def test_without_averages_raw_weights_are_taken_and_it_is_said(save, hyponet):
    content = official_content("hyponet", hyponet)
    path = save({name: value for name, value in content.items() if not name.startswith("ema")})
    _, report = read_model(path, "hyponet")
    assert "weights as trained" in report.lines()[0]
    with pytest.raises(AdhmrError, match=r"has no averaged weights.*--weights raw"):
        read_model(path, "hyponet", "ema")


def test_prefixes_of_data_parallel_are_taken_off(save, hyponet):
    content = official_content("hyponet", hyponet)
    content["model_cond"] = {f"module.{name}": value for name, value in content["model_cond"].items()}
    for weights in ("raw", "ema"):
        assert_same(read_model(save(content), "hyponet", weights)[0], hyponet)
    content = changed(content, "model_cond", module__pred_beta__bias=torch.zeros(9))
    with pytest.raises(AdhmrError, match=r"model_cond: module\.pred_beta\.bias is \(9,\), expected \(10,\)"):
        read_model(save(content), "hyponet", "raw")


def test_left_out_tensors_are_listed_with_a_reason(save):
    lines = read_model(save(official_content("scorenet", random_model("scorenet"))), "scorenet")[1].lines()
    assert any("left out: model_score_cond: final_feat_layer.0.weight (leads to betas" in line for line in lines)
    assert any("left out: optimizer (state of" in line for line in lines)
    lines = read_model(save(official_content("hmr-scorer", random_model("hmr-scorer"))), "hmr-scorer")[1].lines()
    assert any("left out: network: module.score_net.linear_start_t.weight (empty)" in line for line in lines)
    assert any("left out: epoch, best (a number or text" in line for line in lines)
    assert any("left out: network: module.smplx_layer.betas (the SMPL-X body" in line for line in lines)


def test_missing_batch_counters_are_zero_and_listed(save, hyponet):
    content = official_content("hyponet", hyponet)
    state = {name: value for name, value in content["model_cond"].items() if not name.endswith("num_batches_tracked")}
    found, report = read_model(save(content | {"model_cond": state}), "hyponet", "raw")
    counters = [value for name, value in found.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counters and not any(counters)
    (listed,) = [line for line in report.lines() if line.endswith("(counts batches; set to 0)")]
    assert "encoder.neck.backbone.stage4.* " in listed and listed.count(",") < 15  # grouped by module


WRONG = {
    "shape": (
        lambda c: changed(c, "model", linear_start_j__weight=torch.zeros(5, 87)),
        r"model: linear_start_j\.weight is \(5, 87\), expected \(928, 87\)",
    ),
    "packed shape": (
        lambda c: changed(c, "model", blocks__0__self_attn__in_proj_bias=torch.zeros(191)),
        r"model: blocks\.0\.self_attn\.in_proj_bias is \(191,\), expected \(192,\)",
    ),
    "missing": (
        lambda c: changed(c, "model_cond", hmap_layer__bias=None),
        r"model_cond: hmap_layer\.bias \(29,\) is missing",
    ),
    "unknown": (
        lambda c: changed(c, "model", lora_A=torch.zeros(4, 64)),
        r"model: lora_A \(4, 64\) is unknown",
    ),
    "no tensor": (lambda c: changed(c, "model_cond", init_shape=3.0), "init_shape is a float, expected a tensor"),
    "not finite": (
        lambda c: changed(c, "model_cond", init_shape=torch.full((10,), torch.nan)),
        "model_cond: init_shape holds values that are not finite",
    ),
    "many": (lambda c: c | {"model": {}}, "and [0-9]+ more"),
    "no entry": (
        lambda c: {k: v for k, v in c.items() if k != "model"},
        "no state dict 'model'.*this one has model_cond",
    ),
    "unknown entry": (lambda c: c | {"discriminator": {}}, "unknown entry 'discriminator'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_files_that_do_not_fit_are_refused_by_name(wrong, save, hyponet):
    spoil, message = WRONG[wrong]
    path = save(spoil(official_content("hyponet", hyponet)))
    with pytest.raises(AdhmrError, match=message) as refused:
        read_model(path, "hyponet", "raw")
    assert str(path) in str(refused.value)


def shadow(content: dict, edit) -> dict:
    return content | {"ema": content["ema"] | {"shadow_params": edit(list(content["ema"]["shadow_params"]))}}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: shadow(c, lambda values: values[:-1]), "'ema' averages [0-9]+ tensors, but 'model' has [0-9]+"),
        (lambda c: shadow(c, lambda values: values[::-1]), r"ema: shadow_params\[0\] is .* of model: linear_start_j"),
        (lambda c: c | {"ema": {"decay": 0.9}}, "'ema' has no list 'shadow_params'"),
    ],
    ids=["count", "order", "no list"],
)
def test_averages_that_cannot_be_matched_are_refused(spoil, message, save, hyponet):
    path = save(spoil(official_content("hyponet", hyponet)))
    with pytest.raises(AdhmrError, match=f"(?s){message}.*--weights raw"):
        read_model(path, "hyponet", "ema")


def test_another_kind_of_file_names_its_own(save):
    path = save(official_content("scorenet", random_model("scorenet")))
    with pytest.raises(AdhmrError, match="this looks like a scorenet file, not a hyponet file: use --kind scorenet"):
        import_official(path, "hyponet")
    with pytest.raises(AdhmrError, match="--kind hypnet: unknown; kinds are hyponet, scorenet, hmr-scorer, pose-hrnet"):
        import_official(path, "hypnet")


def test_the_file_itself_is_never_overwritten(save):
    path = save({"conv1.weight": torch.zeros(1)}, "timm.pth")
    with pytest.raises(AdhmrError, match="would be overwritten"):
        import_official(path, "timm", output=path, backbone="hrnet_w48")
    assert torch.load(path)


class Surprise:
    """What a checkpoint must not bring along."""


def test_pickled_classes_are_refused_by_name(save):
    path = save({"model": {}, "model_cond": {}, "args": Surprise()})
    with pytest.raises(AdhmrError, match=r"class \S*test_official\.Surprise, which is not loaded"):
        read_model(path, "hyponet")


def test_numpy_numbers_of_old_checkpoints_are_read(tmp_path, hyponet):
    """The format before torch 1.6, with numbers as numpy 1 named them."""
    path = tmp_path / "old.pth"
    content = official_content("hyponet", hyponet) | {"min_mpjpe": np.float32(5), "steps": np.int64(3)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    new = path.read_bytes()
    path.write_bytes(new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert path.read_bytes() != new
    found, report = read_model(path, "hyponet", "raw")
    assert_same(found, hyponet)
    assert {"min_mpjpe", "steps", "best"} <= {name for name, _ in report.left_out}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a whole checkpoint"), (b"<html>404</html>", "not a whole checkpoint"), (None, "no such file")],
    ids=["empty", "web page", "missing"],
)
def test_unreadable_files(content, message, tmp_path):
    path = tmp_path / "ckpt.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AdhmrError, match=f"ckpt.pth: {message}"):
        read_model(path, "hyponet")


def test_cut_off_and_foreign_files(save, hyponet):
    path = save(official_content("hyponet", hyponet))
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(AdhmrError, match="not a whole checkpoint"):
        read_model(path, "hyponet")
    with pytest.raises(AdhmrError, match="holds a list; a checkpoint is a dictionary"):
        read_model(save([1, 2]), "hyponet")


def test_the_command(save, tmp_path, monkeypatch, capsys):
    path = save(official_content("hmr-scorer", random_model("hmr-scorer")), "snapshot_20.pth.tar")
    output = tmp_path / "scorer.safetensors"
    monkeypatch.setattr(
        sys, "argv", ["adhmr", "import-official", str(path), "--kind", "hmr-scorer", "--output", str(output)]
    )
    cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: hmr-scorer, weights as trained"
    assert lines[-1].startswith(f"  written: {output} (")
    assert load_model(output, "scorer").config == MODEL_KINDS["hmr-scorer"].config
    monkeypatch.setattr(sys, "argv", ["adhmr", "import-official", str(path), "--kind", "scorenet"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    error = capsys.readouterr().err
    assert leaving.value.code == 2 and error.startswith("error: ") and "use --kind hmr-scorer" in error

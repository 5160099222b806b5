"""Activation checkpointing: the same outputs, gradients and statistics, the same names, less that is kept."""

import copy

import pytest
import torch
from torch import nn

from adhmr.config.model import BaseModelConfig, EncoderConfig, ScorerConfig
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageEncoder
from adhmr.models.scorer import HMRScorer
from adhmr.training.activation_checkpointing import checkpoint_activations
from adhmr.training.tasks.base import BaseTask
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tasks.scorer import ScorerTask
from tests.tiny import BASE, ENCODER, SCORER, TRANSFORMER
from tests.training.steps import batch_of, train

HRNET = {**ENCODER, "backbone": "hrnet_w18_small", "backbone_options": {}, "neck": "hrnet", "depth_head": False}
DROPOUT = {"dropout": 0.2, "input_dropout": 0.2}


def kept_bytes(model: nn.Module, step) -> int:
    """Bytes of activations that autograd keeps for the backward pass of step(model), each storage once."""
    kept: dict[int, int] = {}
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step(model)
    del loss
    return sum(kept.values())


def base_step(model: BaseModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    x = torch.randn(4, 3, 133, generator=generator)
    torch.manual_seed(2)  # of dropout
    features, joint, twist = model(image, x[..., :87], x[..., 87:], torch.full((4, 3), 100))
    return joint.square().mean() + twist.square().mean() + features.joints2d.square().mean()


def compare(model: nn.Module, blocks, step) -> list[int]:
    """Checks that a step is the same with checkpointed blocks, bit for bit; bytes kept without and with them."""
    model.train()
    other, kept = checkpointed(model, blocks), []
    for one in (copy.deepcopy(model), checkpointed(model, blocks)):
        kept.append(kept_bytes(one, step))
    losses = []
    for one in (model, other):
        loss = step(one)
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1]
    assert list(model.state_dict()) == list(other.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name  # running statistics and their counts too
    for (name, parameter), found in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (parameter.grad is None) == (found.grad is None), name
        assert parameter.grad is None or torch.equal(parameter.grad, found.grad), name
    return kept


def checkpointed(model: nn.Module, blocks) -> nn.Module:
    model = copy.deepcopy(model)
    checkpoint_activations(blocks(model))
    return model


@pytest.mark.parametrize("encoder", [ENCODER, HRNET], ids=["resnet-fpn", "hrnet"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_the_base_model_is_the_same_and_keeps_less(encoder, precision):
    torch.manual_seed(0)
    denoiser = {**BASE["denoiser"], **DROPOUT, "anchor": encoder is ENCODER}
    model = BaseModel(BaseModelConfig(**{**BASE, "encoder": encoder, "denoiser": denoiser}))

    def step(model: nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return base_step(model).float()

    plain, less = compare(model, lambda model: [*model.encoder.blocks, *model.denoiser.blocks], step)
    assert less < (0.4 if precision == "fp32" else 0.65) * plain  # autocast's copies of the weights are kept, too


def test_a_step_of_the_vision_transformer_is_the_same_and_keeps_less():
    torch.manual_seed(0)
    vit = {"neck": "vit", "depth": 4, "dim": 32, "heads": 2, "input_size": (64, 64), "drop_path": 0.3}
    model = HMRScorer(ScorerConfig(**{**SCORER, "encoder": vit, "relative": False})).encoder

    def step(model: nn.Module) -> torch.Tensor:
        torch.manual_seed(2)
        return model(torch.linspace(0, 255, 4 * 3 * 64 * 64).view(4, 3, 64, 64)).square().mean()

    plain, less = compare(model, lambda model: model.blocks, step)
    assert less < 0.4 * plain


def test_statistics_with_a_cumulative_average_move_once():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU()), nn.Linear(8, 1))
    x = torch.randn(6, 4)
    compare(model, lambda model: [model[0]], lambda model: model(x).square().mean())
    assert model[0][1].num_batches_tracked == 1


def test_nothing_is_kept_or_drawn_without_gradients():
    block = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
    x = torch.randn(3, 4)
    plain = copy.deepcopy(block)
    checkpoint_activations([block])
    with torch.no_grad():
        torch.manual_seed(0)
        expected = plain(x)
        torch.manual_seed(0)
        assert torch.equal(block(x), expected)


@pytest.mark.parametrize(
    ("backbone", "classes", "least"),
    [("resnet18", {"BasicBlock"}, 8), ("convnext_atto", {"ConvNeXtBlock"}, 12), ("efficientnet_b0", set(), 10)],
)
def test_backbones_are_cut_into_their_blocks(backbone, classes, least):
    encoder = ImageEncoder(EncoderConfig(**{**ENCODER, "backbone": backbone, "backbone_options": {}}))
    blocks = encoder.blocks
    assert len(blocks) >= least and len(set(map(id, blocks))) == len(blocks)
    assert not classes or {type(block).__name__ for block in blocks} == classes
    held = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    assert held > 0.8 * sum(parameter.numel() for parameter in encoder.neck.backbone.parameters())


def test_hrnet_is_cut_into_its_modules_and_blocks():
    names = [type(block).__name__ for block in ImageEncoder(EncoderConfig(**HRNET)).blocks]
    assert names.count("HighResolutionModule") == 3 and names.count("Bottleneck") == 5  # one of layer1, four raised


@pytest.mark.parametrize("frozen", [True, False])
def test_tasks_name_the_blocks_that_train(base_config, scorer_config, dpo_config, frozen):
    tasks = [
        BaseTask(base_config(freeze_encoder=frozen)),
        ScorerTask(scorer_config(freeze_encoder=frozen)),
        DpoTask(dpo_config(train_encoder=not frozen)),
    ]
    for task in tasks:
        blocks = task.checkpointed_blocks()
        assert len(blocks) == len(TRANSFORMER["reaches"]) + (0 if frozen else 8)
        inside = set(task.model.modules())
        assert all(block in inside for block in blocks)


def test_training_is_the_same(base_config, studio_set):
    losses = []
    for blocks in (lambda task: [], lambda task: task.checkpointed_blocks()):
        task = BaseTask(base_config())
        checkpoint_activations(blocks(task))
        losses.append(train(task, batch_of(task, studio_set), 3))
    assert losses[0] == losses[1]

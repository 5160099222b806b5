"""FLOPs of a micro-batch against torch's own counter and by hand; counting changes no result; peaks of devices."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adhmr.training.flops import StepFlops, peak_flops
from adhmr.training.tasks.base import BaseTask
from adhmr.training.tasks.scorer import ScorerTask
from tests.training.steps import batch_of
from tests.training.toy import ToyTask, samples


def test_a_matrix_product_is_counted_once_forward_and_twice_backward():
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), torch.randn(10, 8, requires_grad=True)
    flops = StepFlops()
    for _ in range(2):  # the second time nothing is counted
        with flops.counting(10):
            model(x).sum().backward()
    assert flops.per_sample == 3 * 2 * (8 * 16 + 16 * 4)


def test_attention_on_the_cpu_counts():
    q, k, v = (torch.randn(2, 4, 6, 8, requires_grad=True) for _ in range(3))  # (N, heads, tokens, width)
    flops = StepFlops()
    with flops.counting(2):
        nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    product = 2 * 4 * 6 * 6 * 8  # of one sample
    assert flops.per_sample == 2 * product + 5 * product  # backward: the scores again, then two products of each


def test_a_compiled_model_is_not_counted():
    flops = StepFlops(compiled=True)
    with flops.counting(10):
        nn.Linear(8, 16)(torch.randn(10, 8))
    assert flops.per_sample is None


def test_an_interrupted_count_says_nothing():
    flops = StepFlops()
    with pytest.raises(KeyError), flops.counting(4):
        raise KeyError
    assert flops.per_sample is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["toy", "base", "scorer"])
def test_counting_changes_no_bit_and_agrees_with_torch(kind, precision, base_config, scorer_config, studio_set):
    if kind == "toy":
        x, y = samples(range(8))
        task, batch = ToyTask(), {"x": x, "y": y}
    else:
        task = BaseTask(base_config()) if kind == "base" else ScorerTask(scorer_config())
        batch = batch_of(task, studio_set)
    task.prepare(torch.device("cpu"))
    state = {name: value.clone() for name, value in task.model.state_dict().items()}

    def gradients(around) -> list[torch.Tensor]:
        task.model.load_state_dict(state)
        task.model.train()
        torch.manual_seed(1)
        with around:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss, parts = task.loss(task.model, batch)
            loss.backward()
        found = [loss.detach(), *parts.values(), *task.model.state_dict().values()]
        for parameter in task.model.parameters():
            found.append(torch.zeros(0) if parameter.grad is None else parameter.grad)
            parameter.grad = None
        return [value.clone() for value in found]

    flops, plain = StepFlops(), torch.enable_grad()
    expected = gradients(plain)
    counted = gradients(flops.counting(1))
    after = gradients(plain)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(expected, counted, after))
    with (counter := FlopCounterMode(display=False)):
        gradients(plain)
    assert flops.per_sample >= counter.get_total_flops() > 0  # torch's own counter leaves out attention on the CPU
    if kind == "toy":
        assert flops.per_sample == counter.get_total_flops()


def test_peaks(monkeypatch):
    assert peak_flops(torch.device("cpu"), "bf16") is None
    assert peak_flops(torch.device("cpu"), "bf16", override_tflops=2.0) == 2e12
    name = ""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    expected = {
        "NVIDIA H200": (990e12, 67e12),
        "NVIDIA H100 80GB HBM3": (990e12, 67e12),
        "NVIDIA H100 PCIe": (756e12, 51e12),
        "NVIDIA A100-SXM4-80GB": (312e12, 19.5e12),
        "NVIDIA A10G": (70e12, 31.2e12),
        "NVIDIA GeForce RTX 3090": (71e12, 35.6e12),
        "Tesla V100-SXM2-32GB": (None, 15.7e12),
        "NVIDIA RTX A4000": (None, None),  # not an A40
        "Some other GPU": (None, None),
    }
    for name, peaks in expected.items():  # noqa: B007 read by the lambda
        assert tuple(peak_flops(torch.device("cuda"), precision) for precision in ("bf16", "fp32")) == peaks
    name = "NVIDIA A100-SXM4-80GB"
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert peak_flops(torch.device("cuda"), "fp32") == 156e12
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False

"""How much arithmetic a sample costs, and how much a device could do: what `mfu` in the log is made of.

Only matrix products, convolutions and attention count. The figures are logged by the trainer.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

aten = torch.ops.aten
# torch's registry lacks attention on the CPU.
FORMULAS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}

# Dense peaks in TFLOP/s from the maker's data sheets: (words of the device's name, bf16, TF32, fp32); None: no such
# units. The first that fits counts.
DEVICES: tuple[tuple[str, float | None, float | None, float], ...] = (
    ("GB200", 2500, 1250, 80),
    ("B200", 2250, 1125, 75),
    ("GH200", 990, 495, 67),
    ("H200", 990, 495, 67),
    ("H100 PCIe", 756, 378, 51),
    ("H100 NVL", 835, 418, 60),
    ("H100", 990, 495, 67),
    ("H800", 990, 495, 67),
    ("H20", 148, 74, 44),
    ("A100", 312, 156, 19.5),
    ("A800", 312, 156, 19.5),
    ("A40", 150, 75, 37.4),
    ("A30", 165, 82, 10.3),
    ("A10G", 70, 35, 31.2),
    ("A10", 125, 62.5, 31.2),
    ("L40S", 362, 183, 91.6),
    ("L40", 181, 90.5, 90.5),
    ("L4", 121, 60, 30.3),
    ("RTX 6000 Ada", 364, 182, 91),
    ("RTX A6000", 155, 77, 38.7),
    ("RTX 5090", 210, 105, 105),
    ("RTX 4090", 165, 82.6, 82.6),
    ("RTX 3090", 71, 35.6, 35.6),
    ("V100", None, None, 15.7),
    ("T4", None, None, 8.1),
)


class StepFlops:
    """Counts one micro-batch of a process, forward and backward, as they are executed on this rank: what activation
    checkpointing computes again counts too. compiled: nothing is counted, for a compiled graph hides its operations.
    """

    def __init__(self, compiled: bool = False):
        self.per_sample: float | None = None
        self._done = compiled

    @contextmanager
    def counting(self, samples: int) -> Iterator[None]:
        """Around the forward and backward pass of `samples` samples; does nothing after the first time."""
        if self._done:
            yield
            return
        self._done = True
        with _Counter() as counter:
            yield
        self.per_sample = counter.total / samples


class _Counter(TorchDispatchMode):
    """Sees each operation as it runs and changes none (torch's FlopCounterMode also adds hooks to modules)."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        result = operation(*arguments, **(options or {}))
        formula = FORMULAS.get(getattr(operation, "overloadpacket", operation))
        if formula is not None:
            self.total += formula(*arguments, **(options or {}), out_val=result)
        return result


def peak_flops(device: torch.device, precision: str, override_tflops: float | None = None) -> float | None:
    """FLOP/s that one device can do at best in `precision` ("bf16" or "fp32"); None: not known, as on a CPU.

    override_tflops: tracking.peak_tflops, in place of the table.
    """
    if override_tflops is not None:
        return override_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for words, bf16, tf32, fp32 in DEVICES:
        if re.search(rf"\b{words}\b", name):
            # fp32 products run on tensor cores only where torch was told that it may round to TF32.
            single = tf32 if torch.backends.cuda.matmul.allow_tf32 else fp32
            peak = bf16 if precision == "bf16" else single
            return None if peak is None else peak * 1e12
    return None

"""Learning rates within an image encoder: its trunk and what stands on it. Which other groups there are is said by the
tasks; the rate itself and its schedule are in schedule.py."""

from typing import Any

from torch import nn


def encoder_groups(encoder: nn.Module, trunk_scale: float, head_scale: float) -> list[dict[str, Any]]:
    """Optimizer groups of an encoder's trainable parameters, as in the released code: the backbone, which begins with
    pre-trained weights, and its other layers, which do not. An encoder without a neck (ViT) is all trunk."""
    neck = getattr(encoder, "neck", None)
    trunk = set((encoder if neck is None else neck.backbone).parameters())
    groups: list[dict[str, Any]] = [
        {"params": [], "lr_scale": trunk_scale},
        {"params": [], "lr_scale": head_scale},
    ]
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            groups[0 if parameter in trunk else 1]["params"].append(parameter)
    return [group for group in groups if group["params"]]

"""torchvision imports through the shim, on whole builds and on those without their library."""

import torch

from adhmr.models import torchvision_operators


def test_torchvision_and_timm_import_after_the_shim():
    import timm
    import torchvision

    assert hasattr(torch.ops.torchvision, "nms")
    assert timm.__version__ and torchvision.__version__


def test_declaring_again_changes_nothing():
    torchvision_operators.declare_missing_operators()
    assert hasattr(torch.ops.torchvision, "nms")

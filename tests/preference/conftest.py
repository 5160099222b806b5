"""A batch of rendered people with exact labels."""

import pytest
import torch

from adhmr.config.data import CropConfig
from adhmr.data.stream import iterate_set
from adhmr.data.transforms import PersonCrop
from tests.tiny import CROP


@pytest.fixture(scope="session")
def batch(studio_set) -> dict[str, torch.Tensor | list[str]]:
    return next(iterate_set(studio_set, PersonCrop(CropConfig(**CROP), None), batch=4))

"""What a stage must give to the trainer: a module, a loss on a batch, an evaluation. The loop is in `trainer.py`."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Any]


class Task(ABC):
    """One thing to train. `model` holds all that is trained and checkpointed; frozen networks are plain attributes.

    A frozen network must not be a submodule of `model`, else it would be wrapped, averaged and saved with it.
    """

    kind: str  # of the exported weights: "base", "scorer", ...
    model: nn.Module

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups: {"params": [...], "lr_scale": 1.0}, optionally with their own "weight_decay"."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad], "lr_scale": 1.0}]

    def prepare(self, device: torch.device) -> None:  # noqa: B027 most tasks have nothing frozen
        """Moves what is not in `model` to the device. Called once, before the first batch."""

    def initial_average(self) -> dict[str, Tensor] | None:
        """State of `model` where the average of the weights starts; None: at the model's own first weights."""
        return None

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(mean loss over the micro-batch, its parts for the log), all scalars.

        `model` is `self.model`, wrapped for several processes and mixed precision: it is called once, as a function.
        All randomness but dropout is keyed by batch["position"], so that it does not depend on ranks or restarts.
        """

    def checkpointed_blocks(self) -> list[nn.Module]:
        """Parts of `model` that with train.activation_checkpointing are computed again in the backward pass.

        Each is called as a module, with positional inputs, and none is inside another.
        """
        return []

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures of `model` (averaged weights, eval mode). Runs on the main process alone; must not communicate."""
        return {}

    def exported(self, module: nn.Module) -> nn.Module:
        """What the weight files of the run hold; `module` is the trained or the averaged model."""
        return module

    def weights_metadata(self) -> dict[str, Any]:
        """Further provenance for the weight files; JSON-serialisable."""
        return {}

    @abstractmethod
    def model_config(self) -> dict[str, Any]:
        """What `adhmr.models.weights.load_model` needs to build the module again; JSON-serialisable."""

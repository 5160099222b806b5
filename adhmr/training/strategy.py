"""How a model is spread over processes, behind one interface: here one process and DDP, in zero.py DeepSpeed's ZeRO.

A strategy wraps the model, makes optimizer steps, and gives weights, optimizer state and averages by parameter name:
whole and in fp32, whatever they are cut into while they train. Hence checkpoints know neither world size nor strategy.
"""

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import DistributedDataParallelKwargs
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from adhmr.config.training import DistributedConfig, TrainConfig
from adhmr.errors import AdhmrError
from adhmr.training.distributed import Distribution
from adhmr.training.optimizer_state import flatten_optimizer, restore_optimizer


class Strategy:
    """One process or DDP: every rank holds the whole model and the whole optimizer.

    Wraps a network that is on the device, and its optimizer. `model` is what a loss calls; `module` the bare network
    inside it, whose names are those of the checkpoint.
    """

    ranks_meet_in_forward = False  # only gradients are exchanged

    def __init__(
        self,
        distribution: Distribution,
        config: DistributedConfig,
        train: TrainConfig,
        clip_norm: float | None,
        module: nn.Module,
        optimizer: Optimizer,
    ):
        self.distribution, self.clip_norm, self.module = distribution, clip_norm, module
        self.names = {parameter: name for name, parameter in module.named_parameters()}
        if train.precision == "bf16":
            _autocast_forward(module, distribution.device)
        # Running statistics are those of rank 0, which alone are saved; no other rank reads its own.
        distribution.accelerator.ddp_handler = DistributedDataParallelKwargs(
            find_unused_parameters=config.unused_parameters, broadcast_buffers=False
        )
        self._gradients_expected = distribution.world_size > 1 and not config.unused_parameters
        self.model, self.optimizer = self._prepare(module, optimizer)

    def _prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # Accelerate's name for it
            return self.distribution.accelerator.prepare_model(module), optimizer

    def micro_step(self, last: bool) -> AbstractContextManager:
        """Around forward and backward; gradients are exchanged only in the last micro-step of a step."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss`, a share of the step's."""
        finite_or_nan(loss).backward()

    def step(self) -> tuple[Tensor, bool]:
        """Clips and applies the gradients unless they are not finite: (their global norm before, whether applied).

        Both are equal on all ranks. Raises AdhmrError when DDP has waited in vain for the gradient of a weight.
        """
        if self._gradients_expected:
            self._check_gradients()
        norm = nn.utils.clip_grad_norm_(self._trained, float("inf") if self.clip_norm is None else self.clip_norm)
        applied = bool(norm.isfinite())
        if applied:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, applied

    def _check_gradients(self) -> None:
        names = [self.names[parameter] for parameter in self._trained if parameter.grad is None]
        if names:
            raise AdhmrError(
                f"the loss does not depend on {len(names)} trained weights ({', '.join(names[:3])}, ...), and DDP "
                "waits for their gradients: give the parts of the loss that train them a weight, or set "
                "distributed.unused_parameters to true"
            )

    def held_weights(self) -> dict[str, Tensor]:
        """This rank's part of parameters and buffers, to be averaged where they lie: here all of them on the main
        process and none elsewhere. The tensors are the live ones."""
        return dict(self.module.state_dict()) if self.distribution.is_main else {}

    def whole(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the main process the tensors that all ranks' parts (cut like `held_weights`) make; {} elsewhere. All ranks
        call it."""
        return dict(held)

    def cut(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts of whole tensors that this rank holds, cut like `held_weights`; `whole` on every rank."""
        return dict(whole) if self.distribution.is_main else {}

    def optimizer_state(self) -> dict[str, Tensor]:
        """ "exp_avg/<parameter>", ... on the main process; {} elsewhere. All ranks call it."""
        return flatten_optimizer(self.optimizer, self.names) if self.distribution.is_main else {}

    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Puts whole weights and optimizer state back, which every rank has read."""
        self.module.load_state_dict(weights)
        restore_optimizer(self.optimizer, self.names, optimizer)

    def release(self) -> None:
        """Takes the autocast off the bare network: it was put on the instance."""
        vars(self.module).pop("forward", None)


def strategy_class(config: DistributedConfig) -> type[Strategy]:
    """The strategy that a configuration asks for."""
    if config.strategy == "ddp":
        return Strategy
    from adhmr.training.zero import ZeroStrategy  # DeepSpeed takes seconds to import

    return ZeroStrategy


def finite_or_nan(loss: Tensor) -> Tensor:
    """The loss itself while it is finite; else NaN, with NaN for gradients, even where those of infinity are finite.

    So the gradients alone say whether a step is skipped, on all ranks alike, without a message.
    """
    return loss * (1 + 0 * loss.detach())


def _autocast_forward(module: nn.Module, device: torch.device) -> None:
    """bf16 where it is safe inside the network, fp32 weights and outputs: the same under every strategy."""
    inner = module.forward

    def forward(*args, **kwargs):
        with torch.autocast(device.type, torch.bfloat16):
            return inner(*args, **kwargs)

    module.forward = convert_outputs_to_fp32(forward)

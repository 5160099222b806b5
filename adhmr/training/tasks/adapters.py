"""Low-rank adapters on a denoiser (LoRA, by PEFT): they train, everything else is frozen, and in the end they are added
to the weights. Which tasks use them, and for what, is said there."""

from __future__ import annotations

import copy

import torch
from torch import nn

from adhmr.config.alignment import LoraConfig
from adhmr.models.denoiser import Denoiser
from adhmr.training.frozen import leave_out_weights, left_out_weights

ADAPTER = "lora"
LAYER = ".base_layer."  # within the names of the weights of a layer that has an adapter


def adapted(denoiser: Denoiser, config: LoraConfig, seed: int) -> Denoiser:
    """A denoiser whose parameters and state are adapters alone. It says the same as `denoiser` at first and shares its
    weights, which are frozen and never change."""
    from peft import LoraConfig as PeftConfig  # seconds to import
    from peft import inject_adapter_in_model

    shared = {id(weight): weight.requires_grad_(False) for weight in denoiser.parameters()}
    network = copy.deepcopy(denoiser, shared)
    # Only layers within blocks: an adapter of a MaskedLinear would link tokens that the graph keeps apart.
    layers = [name for name, part in network.blocks.named_modules(prefix="blocks") if isinstance(part, nn.Linear)]
    targets = [name for name in layers if name.rpartition(".")[2] in config.targets]
    settings = PeftConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets, bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # every process and every attempt begins with the same adapters
        inject_adapter_in_model(settings, network, ADAPTER)
    leave_out_weights(network)
    return network


def fill_merged(plain: Denoiser, network: Denoiser) -> None:
    """Gives `plain`, of the same configuration, the weights with which it says the same as the adapted `network`: on
    the network's device, in eval mode."""
    state = {name.replace(LAYER, "."): weight.detach() for name, weight in left_out_weights(network).items()}
    for name, part in network.named_modules():
        if hasattr(part, "get_delta_weight"):
            state[f"{name}.weight"] = state[f"{name}.weight"] + part.get_delta_weight(ADAPTER).detach()
    plain.load_state_dict(state)
    plain.to(next(network.parameters()).device).eval()

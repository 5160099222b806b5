"""Official state-dict entries renamed to ours: HypoNet's two networks and HMR-Scorer's head. Reads no files.

Entries keep their values; packed attention projections are split. Masks are applied in the graph, so masked
entries that the official training left non-zero need no treatment.
"""

import torch

State = dict[str, torch.Tensor]

_TRANSFORMER = {
    "self_attn": "self_attention",
    "multihead_attn": "cross_attention",
    "out_proj": "output",
    "temb_dense": "time",
    "linear_start_j": "joint_input.linear",
    "bn_start_j": "joint_input.norm",
    "linear_start_t": "twist_input.linear",
    "bn_start_t": "twist_input.norm",
    "linear_final_j": "joint_output",
    "linear_final_t": "twist_output",
}
_ENCODER = {
    "init_shape": "neck.mean_betas",
    "incre_modules": "neck.increase",
    "downsamp_modules": "neck.reduce",
    "final_feat_layer": "neck.betas_map",
    "pred_beta": "neck.betas",
    "fmap_layer_local": "neck.local",
    "fmap_layer": "neck.memory",
    "hmap_layer": "heatmaps",
}


def denoiser_state(official: State) -> State:
    """`model` of a HypoNet checkpoint -> Denoiser's state dict."""
    renamed: State = {}
    for name, value in official.items():
        name = ".".join(_TRANSFORMER.get(part, part) for part in name.split("."))
        if "in_proj_" in name:
            parent, kind = name.split("in_proj_")  # kind: weight or bias
            for projection, part in zip(("query", "key", "value"), value.chunk(3)):
                renamed[f"{parent}{projection}.{kind}"] = part
        else:
            renamed[name] = value
    return renamed


def encoder_state(official: State) -> State:
    """`model_cond` of a HypoNet checkpoint -> state dict of an ImageEncoder with neck "hrnet"."""
    renamed: State = {}
    for name, value in official.items():
        head, *rest = name.split(".")
        if head == "incre_modules":
            del rest[1]  # a sequence of one bottleneck
        if head in _ENCODER:
            renamed[".".join([_ENCODER[head], *rest])] = value
        else:
            renamed[f"neck.backbone.{name}"] = value  # timm's HRNet has the official names
    return renamed


def scorer_head_state(official: State) -> tuple[State, State]:
    """`score_net` of an HMR-Scorer checkpoint -> state dicts of ScorerHead and of TokenAdapter."""
    head: State = {}
    adapter: State = {}
    for name, value in denoiser_state(official).items():
        part, _, rest = name.partition(".")
        if part == "twist_input":
            continue  # empty tensors: the scorer has no twist tokens
        if part in ("ctx_to_x_conv", "deconv"):
            adapter[{"ctx_to_x_conv": "memory", "deconv": "local"}[part] + f".{rest}"] = value
        else:
            head[{"joint_input": "pose_input", "linear_mlp": "score"}.get(part, part) + f".{rest}"] = value
    return head, adapter

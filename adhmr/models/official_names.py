"""Where each of our tensors stands in the official checkpoints: names alone. Reads no files and moves no numbers.

The names run from ours to theirs, so that a model says what a checkpoint must hold, and under which names. What is done
with it is in official.py and initial_weights.py.
"""

from typing import NamedTuple


class Place(NamedTuple):
    """One of our tensors in an official checkpoint."""

    entry: str  # of the checkpoint's dictionary, e.g. "model_cond"
    key: str  # of the state dict under that entry
    third: int | None = None  # which part of a packed attention projection (query, key, value) it is

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.entry}: {self.key}"


_ENCODER = {
    "neck.backbone": "",  # timm's HRNet has the official names
    "neck.increase": "incre_modules",
    "neck.reduce": "downsamp_modules",
    "neck.betas_map": "final_feat_layer",
    "neck.betas": "pred_beta",
    "neck.mean_betas": "init_shape",
    "neck.memory": "fmap_layer",
    "neck.local": "fmap_layer_local",
    "heatmaps": "hmap_layer",
}
_TRANSFORMER = {
    "pose_input.linear": "linear_start_j",
    "pose_input.norm": "bn_start_j",
    "joint_input.linear": "linear_start_j",
    "joint_input.norm": "bn_start_j",
    "twist_input.linear": "linear_start_t",
    "twist_input.norm": "bn_start_t",
    "joint_output": "linear_final_j",
    "twist_output": "linear_final_t",
    "time": "temb_dense",
    "score": "linear_mlp",
}
_ADAPTER = {"memory": "ctx_to_x_conv", "local": "deconv"}
_ATTENTION = {"self_attention": "self_attn", "cross_attention": "multihead_attn"}
_PACKED = ("query", "key", "value")


def _renamed(name: str, prefixes: dict[str, str]) -> str:
    """`name` with the longest prefix of whole parts that the table knows exchanged; unchanged when it knows none."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in prefixes:
            return ".".join(part for part in (prefixes[prefix], *parts[length:]) if part)
    return name


def hrnet_key(name: str) -> str:
    """A name in ImageEncoder with neck "hrnet" -> in the official conditioner; its backbone's part is timm's too."""
    parts = _renamed(name, _ENCODER).split(".")
    if parts[0] == "incre_modules":
        parts.insert(2, "0")  # a sequence of one bottleneck
    return ".".join(parts)


def transformer_key(name: str) -> tuple[str, int | None]:
    """A name in Denoiser or ScorerHead -> the official one, and which third of a packed projection."""
    name = _renamed(name, _TRANSFORMER)
    parts = name.split(".")
    if len(parts) != 5 or parts[2] not in _ATTENTION:  # blocks.0.self_attention.query.weight
        return name, None
    block, layer, kind = ".".join(parts[:2]), parts[3], parts[4]
    attention = f"{block}.{_ATTENTION[parts[2]]}"
    if layer in _PACKED:
        return f"{attention}.in_proj_{kind}", _PACKED.index(layer)
    return f"{attention}.out_proj.{kind}", None


def hyponet_place(name: str) -> Place:
    """A name in BaseModel -> its place in a HypoNet checkpoint."""
    part, _, rest = name.partition(".")
    if part == "encoder":
        return Place("model_cond", hrnet_key(rest))
    return Place("model", *transformer_key(rest))


def scorenet_place(name: str) -> Place:
    """A name in HMRScorer of variant "uvd_twist" -> its place in a ScoreNet checkpoint."""
    part, _, rest = name.partition(".")
    if part == "encoder":
        return Place("model_score_cond", hrnet_key(rest))
    return Place("model_score", *transformer_key(rest))


def hmr_scorer_place(name: str) -> Place:
    """A name in HMRScorer with a ViTEncoder, whose names are the official ones -> its place in a snapshot."""
    part, _, rest = name.partition(".")
    if part == "encoder":
        return Place("network", f"encoder.{rest}")
    if part == "adapter":
        return Place("network", f"score_net.{_renamed(rest, _ADAPTER)}")
    key, third = transformer_key(rest)
    return Place("network", f"score_net.{key}", third)

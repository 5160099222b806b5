"""Attention and HypoNet's decoder block: graph-masked self-attention, cross-attention to image memory, feed-forward.

The official initialisation is here too, for both networks that are built of these blocks.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Multi-head attention with separate query, key and value inputs."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, allowed: torch.Tensor | None = None
    ) -> torch.Tensor:
        """query (B, Q, C), key and value (B, K, C), allowed (Q, K) bool or None -> (B, Q, C)."""

        def split(projected: torch.Tensor) -> torch.Tensor:
            return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, tokens, C / heads)

        q, k, v = split(self.query(query)), split(self.key(key)), split(self.value(value))
        dropout = self.dropout if self.training else 0.0
        if q.device.type == "cpu" and torch.is_grad_enabled():
            # The fused kernel's bf16 backward on a CPU is several times slower than three plain operations.
            scores = q @ (k * (1.0 / math.sqrt(q.shape[-1]))).transpose(-1, -2)  # (B, heads, Q, K)
            if allowed is not None:
                scores = scores.masked_fill(~allowed, float("-inf"))
            mixed = F.dropout(scores.softmax(-1), dropout).to(v.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """Pre-norm block: x += SA(LN x), x += CA(LN x, memory), x += FFN(LN x). Positions enter queries and keys only."""

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, heads, dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, ffn)
        self.linear2 = nn.Linear(ffn, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: torch.Tensor,
        memory: torch.Tensor,
        token_position: torch.Tensor,
        memory_position: torch.Tensor,
        allowed: torch.Tensor,
    ) -> torch.Tensor:
        """tokens (N, M, T, C), memory (N, K, C), positions (T, C) and (K, C), allowed (T, T) bool -> (N, M, T, C)."""
        images, hypotheses, count, dim = tokens.shape
        x = tokens.reshape(images * hypotheses, count, dim)
        normed = self.norm1(x)
        placed = normed + token_position
        x = x + self.dropout(self.self_attention(placed, placed, normed, allowed))
        # The queries of all hypotheses of an image form one sequence: its memory is projected once, never repeated.
        queries = (self.norm2(x) + token_position).view(images, hypotheses * count, dim)
        gathered = self.cross_attention(queries, memory + memory_position, memory)
        x = x + self.dropout(gathered).view_as(x)
        x = x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(self.norm3(x)), inplace=True))))
        return x.view(images, hypotheses, count, dim)


@torch.no_grad()
def initialise(module: nn.Module, scheme: str) -> None:
    """Initialise every linear layer of `module`.

    "unit_norm" (official): Kaiming-normal weights, rescaled to a Frobenius norm of at most 1, biases 0.01.
    "xavier": Xavier-uniform weights and zero biases.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Linear):
            continue
        if scheme == "unit_norm":
            nn.init.kaiming_normal_(layer.weight)
            layer.weight.div_(layer.weight.norm().clamp_min(1.0))
            nn.init.constant_(layer.bias, 0.01)
        else:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

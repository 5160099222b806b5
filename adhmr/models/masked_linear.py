"""A linear layer between flattened tokens that keeps only the links of the token graph."""

import torch
import torch.nn.functional as F
from torch import nn


class MaskedLinear(nn.Linear):
    """Linear over flattened tokens, (..., tokens_in * features_in) -> (..., tokens_out * features_out).

    The weight is seen as [token_out, feature_out, token_in, feature_in] and multiplied by the (token_out, token_in)
    mask in the graph, so that masked entries get no gradient. (The official code overwrites the stored weight instead.)
    """

    def __init__(self, token_mask: torch.Tensor, features_in: int, features_out: int):
        tokens_out, tokens_in = token_mask.shape
        super().__init__(tokens_in * features_in, tokens_out * features_out)
        self.weight_shape = (tokens_out, features_out, tokens_in, features_in)
        self.register_buffer("token_mask", token_mask[:, None, :, None].float(), persistent=False)

    def masked_weight(self) -> torch.Tensor:
        """The weight with the links outside the graph set to zero, (out_features, in_features)."""
        return (self.weight.view(self.weight_shape) * self.token_mask).view(self.out_features, self.in_features)

    def forward(self, flat: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features)."""
        return F.linear(flat, self.masked_weight(), self.bias)

"""Letting the small geometry functions take numpy arrays as well as tensors; data loading works in numpy."""

from collections.abc import Callable
from functools import reduce, wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor


def numpy_or_torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call `function` with tensors of one floating type; give numpy back when no positional argument was a tensor.

    Positional arguments are arrays, tensors or numbers; keyword arguments pass through unchanged.
    """

    @wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        given = [argument for argument in arguments if isinstance(argument, Tensor)]
        device = given[0].device if given else None
        # Through numpy, plain numbers keep their double precision.
        tensors = [
            argument if isinstance(argument, Tensor) else torch.as_tensor(np.asarray(argument), device=device)
            for argument in arguments
        ]
        shaped = [tensor for tensor in tensors if tensor.ndim] or tensors
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in shaped))
        if not dtype.is_floating_point:
            dtype = torch.get_default_dtype()
        result = function(*(tensor.to(dtype) for tensor in tensors), **keywords)
        if given:
            return result
        return tuple(np.asarray(part) for part in result) if isinstance(result, tuple) else result.numpy()

    return wrapper

"""Linear maps."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine import native

Affine = tuple[Tensor, Tensor | None]


def affine(module: Any) -> Affine:
    """Weight and bias of a linear map of NeMo's."""
    return module.weight.detach(), None if module.bias is None else module.bias.detach()


class Linear:
    """x (..., inputs) to (..., outputs), with weights that never change.

    On a processor in float32 they are packed for our own product (`native/products.cpp`), where it was compiled: a
    row's result is the same bits whatever rows are beside it. Elsewhere PyTorch multiplies.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        """weight: (outputs, inputs); bias: (outputs,) or None."""
        self._outputs = len(weight)
        self._bias = None if bias is None else bias.to(dtype)
        self._packed = weight.device.type == "cpu" and dtype == torch.float32 and native.loaded()
        self._weight = torch.ops.trunkline.pack(weight.float()) if self._packed else weight.to(dtype).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed:
            return torch.ops.trunkline.product(x, self._weight, self._bias, self._outputs)
        return F.linear(x, self._weight, self._bias)

"""An affine map; on the CPU, if wished, with its weight laid out once for oneDNN's kernels.

A step multiplies large weights by few rows: as many as there are streams times new frames. There PyTorch's product,
which lays the weight out anew in every call, is the slower one. A single row is a product of matrix and vector, and
small weights stay in the processor's cache: for those PyTorch's own is as fast or faster.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_WEIGHTS = 512 * 512
LEAST_ROWS = 2


class Linear:
    """x (..., inputs) -> (..., outputs)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, packed: bool) -> None:
        """weight: (outputs, inputs). `packed` has no effect but on float32 weights on the CPU: it copies them."""
        self._weight = weight.to(dtype).contiguous()
        self._bias = None if bias is None else bias.to(dtype)
        self._packed: Tensor | None = None
        known = weight.device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()
        if packed and known and weight.numel() >= LEAST_WEIGHTS:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight)

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed is None or x.numel() < LEAST_ROWS * x.shape[-1]:
            return F.linear(x, self._weight, self._bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")

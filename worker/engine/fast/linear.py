"""Linear maps, with what stands before and after them in a layer."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine import native

Affine = tuple[Tensor, Tensor | None]
After = Literal["", "silu", "glu"]
_AFTER: dict[After, int] = {"": 0, "silu": 1, "glu": 2}


def affine(module: Any) -> Affine:
    """Weight and bias of a linear map of NeMo's."""
    return module.weight.detach(), None if module.bias is None else module.bias.detach()


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm over the last dimension."""

    scale: Tensor
    shift: Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any, dtype: torch.dtype) -> "Norm":
        return cls(module.weight.detach().to(dtype), module.bias.detach().to(dtype), float(module.eps))

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.scale, self.shift, self.epsilon)


class Linear:
    """`after(silu(norm(x)) W^T + b) + residual`, or a part of it: x (..., inputs) to (..., outputs).

    On a processor in float32 all of it is one operation on packed weights (`native/products.cpp`), where that was
    compiled: a row's result is the same bits whatever rows are beside it. Elsewhere these are PyTorch's.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        *,
        norm: Norm | None = None,
        silu: bool = False,
        after: After = "",
    ) -> None:
        """weight: (N, inputs); bias: (N,) or None; outputs are N, or with `glu` N / 2. `silu` stands before the map."""
        self._norm, self._silu, self._after = norm, silu, after
        self._native = weight.device.type == "cpu" and dtype == torch.float32 and native.loaded()
        if self._native:
            outputs = len(weight) // 2 if after == "glu" else len(weight)
            packed, shift = torch.ops.trunkline.pack(
                weight.float(), None if bias is None else bias.float(), after == "glu"
            )
            of_norm = (None, None, 0.0) if norm is None else (norm.scale, norm.shift, norm.epsilon)
            self._arguments = (packed, shift, outputs, *of_norm, silu, _AFTER[after])
        else:
            self._weight, self._bias = weight.to(dtype).contiguous(), None if bias is None else bias.to(dtype)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self._native:
            return torch.ops.trunkline.product(x, *self._arguments, residual)
        if self._norm is not None:
            x = self._norm(x)
        if self._silu:
            x = F.silu(x)
        x = F.linear(x, self._weight, self._bias)
        if self._after == "silu":
            x = F.silu(x)
        elif self._after == "glu":
            x = F.glu(x, dim=-1)
        return x if residual is None else residual + x

"""Linear maps of a few rows."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Affine = tuple[Tensor, Tensor | None]

# Rows for which MKL's product with the weights as its first matrix takes less time (`make bench-linear`).
FEWEST, MOST = 2, 6


def affine(module: Any) -> Affine:
    """Weight and bias of a linear map of NeMo's."""
    return module.weight.detach(), None if module.bias is None else module.bias.detach()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `F.linear`: x (..., inputs), weight (outputs, inputs), bias (outputs,) or None; gives (..., outputs).

    On a processor in float32, a few rows are multiplied the other way round where there are more outputs than
    inputs, which reads the weights faster.
    """
    outputs, inputs = weight.shape
    rows = x.numel() // inputs
    if x.is_cuda or x.dtype != torch.float32 or not turns(rows) or outputs <= inputs:
        return F.linear(x, weight, bias)
    return turned(x, weight, bias)


def turns(rows: int) -> bool:
    """Whether so few rows are multiplied the other way round."""
    return FEWEST <= rows <= MOST


def turned(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same with the weights as the first matrix of the product."""
    columns = x.reshape(-1, weight.shape[1]).t()
    y = torch.mm(weight, columns) if bias is None else torch.addmm(bias[:, None], weight, columns)
    return y.t().reshape(*x.shape[:-1], len(weight)).contiguous()

"""Tensors as dtype, shape and raw little-endian bytes."""

import math
import sys
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int64": torch.int64,
    "int32": torch.int32,
    "bool": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

assert sys.byteorder == "little", "raw tensor bytes would be read the wrong way round"


def pack(tensor: Tensor) -> list[Any]:
    """dtype, shape, bytes (a view where the tensor allows it)."""
    raw = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return [_NAMES[tensor.dtype], list(tensor.shape), raw.data]


def unpack(dtype: str, shape: list[int], raw: bytes) -> Tensor:
    """Raises ValueError, KeyError or TypeError for what `pack` has not made."""
    kind = _DTYPES[dtype]
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"{shape} is no shape")
    if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{len(raw)} bytes do not make a {dtype} tensor of shape {shape}")
    if not raw:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(bytearray(raw), dtype=kind).reshape(shape)

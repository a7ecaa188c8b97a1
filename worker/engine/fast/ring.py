"""Rings: the recent frames of every slot and layer, written where the oldest lie and read by one gather.

Here the fixed update needs no copy. A slot's frames are numbered from its segment's start; frame n lies in row
`n % capacity`. A step writes all its new frames, valid or not, and advances the slot's count by the *emitted* ones
only: the rest are overwritten by the next step before anything reads them as valid.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.arenas import Arenas

Counts = NDArray[np.int64]


class Ring:
    """One arena of shape (slots, layers, capacity, width), addressed by flat rows."""

    def __init__(self, arenas: Arenas, name: str, layers: int, capacity: int, width: int, dtype: torch.dtype) -> None:
        arenas.add(name, torch.zeros(layers, capacity, width, dtype=dtype))
        self._rows = arenas.view(name).view(-1, width)
        self._layers = layers
        self._capacity = capacity
        self._width = width

    def rows(self, slots: Counts, first: Counts, count: int) -> Counts:
        """(B, count) flat rows, at layer 0, of frames `first[b]`, `first[b] + 1`, ... of the given slots.

        Frames before 0 fall on rows that are zero until a slot's ring has been filled once.
        """
        frame = (first[:, None] + np.arange(count)) % self._capacity
        return (slots * self._layers * self._capacity)[:, None] + frame

    def write(self, layer: int, rows: Tensor, values: Tensor) -> None:
        """values: (B, T, width) at rows (B, T)."""
        index = (rows + layer * self._capacity).flatten()
        self._rows.index_copy_(0, index, values.reshape(-1, self._width))

    def read(self, layer: int, rows: Tensor) -> Tensor:
        """(B, N, width) at rows (B, N): a copy, the only one."""
        index = (rows + layer * self._capacity).flatten()
        return self._rows.index_select(0, index).view(*rows.shape, self._width)

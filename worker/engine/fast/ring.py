"""Rings: the recent frames of every slot and layer, written where the oldest lie and read by one gather.

Here the fixed update needs no copy. A slot's frames are numbered from its segment's start; frame n lies in row
`n % capacity`. A step writes all its new frames, valid or not, and advances the slot's count by the *emitted* ones
only: the rest are overwritten by the next step before anything reads them as valid.
"""

import torch
from torch import Tensor

from worker.engine.arenas import Arenas


class Ring:
    """One arena of shape (slots, layers, capacity, width), addressed by flat rows.

    Rows are those of layer 0; a layer's own lie `layer * capacity` further on, so that one plan serves all layers.
    """

    def __init__(self, arenas: Arenas, name: str, layers: int, capacity: int, width: int, dtype: torch.dtype) -> None:
        arenas.add(name, torch.zeros(layers, capacity, width, dtype=dtype))
        self._rows = arenas.view(name).view(-1, width)
        self._layers = layers
        self._capacity = capacity
        # as much as all slots can be read into; pages that no read has met yet take no memory
        self._read = None if self._rows.is_cuda else self._rows.new_empty(len(self._rows) // layers, width)

    def rows(self, slots: Tensor, first: Tensor, count: int) -> Tensor:
        """(B, count) rows of frames `first[b]`, `first[b] + 1`, ... of the given slots.

        Frames before 0 fall on rows that are zero until a slot's ring has been filled once.
        """
        frame = (first[:, None] + torch.arange(count, device=first.device)) % self._capacity
        return (slots * (self._layers * self._capacity))[:, None] + frame

    def table(self, layer: int) -> Tensor:
        """(R, width): what rows are counted in."""
        return self._rows[layer * self._capacity :]

    def write(self, layer: int, rows: Tensor, values: Tensor) -> None:
        """values: (B, T, width) at rows (B, T)."""
        self.table(layer).index_copy_(0, rows.flatten(), values.flatten(0, 1))

    def read(self, layer: int, rows: Tensor) -> Tensor:
        """(B, N, width) at rows (B, N): a copy, the only one, to be used before the next read of this ring.

        On a processor all reads have one place: fresh memory costs more than the copy. CUDA's own allocator does that.
        """
        table, index = self.table(layer), rows.flatten()
        if self._read is None:
            found = table.index_select(0, index)
        else:
            found = torch.index_select(table, 0, index, out=self._read[: index.shape[0]])
        return found.view(*rows.shape, -1)

    def state(self) -> list[Tensor]:
        return [self._rows] if self._read is None else [self._rows, self._read]

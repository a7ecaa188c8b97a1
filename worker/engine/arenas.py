"""Per-stream state on the device: one tensor a kind of state, indexed by slot."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Arenas:
    """Named tensors of shape (slots + 1, ...). A slot is reset to initial values, gathered, scattered, copied.

    The last slot is scratch: no stream has it, padding rows of a batch do.

    Freed slots are not cleaned: whatever they hold, `reset` before the next use replaces all of it, so that a NaN
    left by one stream cannot reach the next through a masked cache.
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        self.slots = slots
        self.scratch = slots
        self.device = device
        self._arena: dict[str, Tensor] = {}
        self._initial: dict[str, Tensor] = {}

    def add(self, name: str, initial: Tensor) -> None:
        """Allocate an arena whose fresh slots hold `initial` (a tensor without the slot dimension)."""
        initial = initial.detach().to(self.device).clone()
        self._initial[name] = initial
        self._arena[name] = initial.unsqueeze(0).repeat(self.slots + 1, *([1] * initial.dim()))

    def view(self, name: str) -> Tensor:
        """The arena itself, (slots + 1, ...): for state that is addressed finer than by slot."""
        return self._arena[name]

    def gather(self, name: str, slots: Tensor) -> Tensor:
        """(B, ...) copy of the given slots."""
        return self._arena[name].index_select(0, slots)

    def scatter(self, name: str, slots: Tensor, values: Tensor) -> None:
        self._arena[name].index_copy_(0, slots, values.to(self._arena[name].dtype))

    def reset(self, slots: Tensor) -> None:
        for name, arena in self._arena.items():
            arena.index_copy_(0, slots, self._initial[name].expand(len(slots), *self._initial[name].shape))

    def save(self, slot: int) -> dict[str, Tensor]:
        """Copies in host memory."""
        return {name: arena[slot].to("cpu", copy=True) for name, arena in self._arena.items()}

    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError if the tensors are not those of this layout."""
        expected = {name: (tuple(t.shape), t.dtype) for name, t in self._initial.items()}
        found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
        if expected != found:
            raise ValueError(f"slot state does not fit this engine: expected {expected}, found {found}")
        for name, tensor in tensors.items():
            self._arena[name][slot].copy_(tensor)

    def bytes_per_slot(self) -> int:
        return sum(t.numel() * t.element_size() for t in self._initial.values())

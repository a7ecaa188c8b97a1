"""Log-mel features computed from the running signal, equal to NeMo's over the whole file.

Frame f of NeMo's preprocessor is a window centred on sample `f * hop`, over the pre-emphasised signal
`y[n] = x[n] - p x[n-1]`, with zeros (after pre-emphasis) before the first sample and after the last. A stream
therefore keeps the samples from one before the next frame's window on; the file's start is a tail of zeros.
N samples have `N // hop` valid frames.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.ragged import valid, window


class LogMel:
    """Batched log-mel frames for rows of different length.

    Built from NeMo's `FilterbankFeatures`, whose window, filter bank and guards it takes over.
    """

    def __init__(self, featurizer: Any, device: torch.device) -> None:
        self.hop: int = featurizer.hop_length
        self.size: int = featurizer.win_length
        self.half = self.size // 2
        self.bands: int = featurizer.nfilt
        room = int(featurizer.n_fft) - self.size
        self._padding = (room // 2, room - room // 2)
        self._preemphasis = float(featurizer.preemph or 0.0)
        self._power = float(featurizer.mag_power)
        self._guard = featurizer.log_zero_guard_value_fn(torch.zeros(1))
        self._clamp = featurizer.log_zero_guard_type == "clamp"
        self._window = featurizer.window.to(device=device, dtype=torch.float32)
        self._filters = featurizer.fb[0].t().contiguous().to(device=device, dtype=torch.float32)

    @property
    def lead(self) -> int:
        """Samples from the start of a tail to the centre of its first frame; a fresh tail is this many zeros."""
        return self.half + 1

    @property
    def tail_size(self) -> int:
        """The most samples that a tail can hold."""
        return self.size

    def frames(self, length: NDArray[np.int64], last: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Frames that rows of `length` samples, their tails included, give. Both (B,)."""
        need = np.where(last, self.lead, self.size + 1 - self.hop)
        return np.maximum((length - need) // self.hop, 0)

    def __call__(self, signal: Tensor, length: Tensor, frames: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Frames and new tails of a batch.

        signal: (B, N) float32, each row its tail then its new samples, left-aligned, zeros after; length: (B,);
        frames: (B,) as `frames()` gives them; count: their maximum, known to the host. Returns mel (B, count, bands),
        zero past each row's own, and tails (B, tail_size), left-aligned, zero past each row's `length - frames * hop`.
        """
        emphasised = signal[:, 1:] - self._preemphasis * signal[:, :-1]
        emphasised = emphasised.masked_fill(~valid(length - 1, emphasised.shape[1]), 0.0)
        missing = (count - 1) * self.hop + self.size - emphasised.shape[1]
        if missing > 0:
            emphasised = torch.nn.functional.pad(emphasised, (0, missing))
        if count:
            frame = emphasised.unfold(1, self.size, self.hop)[:, :count] * self._window
            # centred as NeMo centres it: elsewhere in the transform, weak bands round differently by over 1e-4
            frame = torch.nn.functional.pad(frame, self._padding)
            spectrum = torch.fft.rfft(frame)
            energy = spectrum.real.square() + spectrum.imag.square()
            if self._power != 2.0:
                energy = energy.pow(self._power / 2.0)
            mel = energy @ self._filters
            mel = mel.clamp_min(self._guard).log() if self._clamp else (mel + self._guard).log()
            mel = mel.masked_fill(~valid(frames, count)[:, :, None], 0.0)
        else:
            mel = signal.new_zeros(len(signal), 0, self.bands)
        rest = length - frames * self.hop
        tail = window(signal, frames * self.hop, self.tail_size)
        return mel, tail.masked_fill(~valid(rest, self.tail_size), 0.0)

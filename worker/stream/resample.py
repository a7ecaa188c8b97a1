"""Streaming sample-rate conversion with a state small enough to checkpoint.

A linear-phase polyphase FIR. With g = gcd(rates), U = rate_out / g and D = rate_in / g, inputs lie at
multiples of U and outputs at multiples of D on one fine grid:

    y[m] = sum over i of h[m * D - i * U] * x[i],    |m * D - i * U| <= half

so output m stands for input time m / rate_out exactly (no group delay), and can be computed once input
floor((m * D + half) / U) is there: under 5 ms later.

The sums run as small matrix products. U outputs (one period) need one window of inputs, and the next period
needs the same window D inputs later: windows times coefficients gives periods. BLAS rounds differently from
row to row and from size to size, so every product has the same shape and a period's row in it follows from
its number: a sample's bits do not depend on how the input was cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, kaiser_beta

Samples = NDArray[np.float32]

HALF_LENGTH_S = 0.0048  # the delay; what the transition band below the Nyquist frequency (460 Hz) costs
# Images above 4 kHz of an 8 kHz call then stay under the 2**-24 that NeMo's preprocessor adds to each mel
# band before the logarithm.
STOP_BAND_DB = 70.0
# OpenBLAS starts threads above 2**18 multiply-adds; they would fight the model for its cores.
PRODUCT_SIZE = 2**18
# Outputs of a window: with more, more coefficients that are zero; with fewer, more windows.
PRODUCT_OUTPUTS = 40
# Audio of a product: with more, a 20 ms record computes more rows in vain; with less, 100 ms take more calls.
PRODUCT_SPAN_S = 0.06


class ResamplerState(TypedDict):
    """What `Resampler.state` returns: plain values, ready for msgpack."""

    rate_in: int
    rate_out: int
    received: int  # input samples of this segment
    produced: int  # output samples of this segment
    tail: bytes  # float32 little-endian: the inputs that outputs to come still need


class Resampler:
    """Converts one mono signal from `rate_in` to `rate_out` Hz, piece by piece.

    Output n stands for input time n / rate_out. N samples give ceil(N * rate_out / rate_in) once flushed, the
    same bits for any cutting. Equal rates pass samples through unchanged. `copy.deepcopy` copies it.
    """

    def __init__(self, rate_in: int, rate_out: int = 16000) -> None:
        if rate_in <= 0 or rate_out <= 0:
            raise ValueError(f"sample rates must be positive, found {rate_in} and {rate_out}")
        self.rate_in = rate_in
        self.rate_out = rate_out
        self._tail: Samples
        self._begin()

    @property
    def delay(self) -> float:
        """Seconds of input after an output's time that it waits for."""
        design = _design(self.rate_in, self.rate_out)
        return design.half / design.up / self.rate_in if design else 0.0

    def process(self, samples: Samples) -> Samples:
        """Take the next samples, float32 [n]; return all outputs that can now be computed, float32 [m]."""
        design = _design(self.rate_in, self.rate_out)
        if design is None:
            return samples
        self._received += len(samples)
        ready = -((design.half - self._received * design.up) // design.down)
        return self._advance(design, samples, max(ready, self._produced))

    def flush(self) -> Samples:
        """Return the rest as if zeros followed, float32 [m], and begin a new signal at time 0."""
        design = _design(self.rate_in, self.rate_out)
        if design is None:
            return np.empty(0, np.float32)
        rest = self._advance(design, np.empty(0, np.float32), -(-self._received * design.up // design.down))
        self._begin()
        return rest

    def state(self) -> ResamplerState:
        """All that the outputs to come depend on, besides the input to come (at most some kilobytes)."""
        return {
            "rate_in": self.rate_in,
            "rate_out": self.rate_out,
            "received": self._received,
            "produced": self._produced,
            "tail": self._tail.astype("<f4").tobytes(),
        }

    def restore(self, state: ResamplerState) -> None:
        """Go on from `state`, bit for bit. Raises ValueError if it belongs to other rates."""
        if (state["rate_in"], state["rate_out"]) != (self.rate_in, self.rate_out):
            raise ValueError(
                f"state of a resampler from {state['rate_in']} to {state['rate_out']} Hz, "
                f"this one goes from {self.rate_in} to {self.rate_out} Hz"
            )
        self._received = state["received"]
        self._produced = state["produced"]
        self._tail = np.frombuffer(state["tail"], "<f4").astype(np.float32)

    def _begin(self) -> None:
        design = _design(self.rate_in, self.rate_out)
        self._received = 0
        self._produced = 0
        # Starts at the first input that the period of output `_produced` needs.
        self._tail = np.zeros(design.before if design else 0, np.float32)

    def _advance(self, design: Design, samples: Samples, end: int) -> Samples:
        """Append `samples`; compute outputs `_produced` to `end`; keep the inputs from the next period on."""
        have = len(self._tail) + len(samples)
        first = self._produced // design.period
        row = first % design.rows
        periods = -(-end // design.period) - first if end > self._produced else 0
        blocks = -(-(row + periods) // design.rows) if periods else 0
        begin = row * design.step
        inputs = np.zeros(begin + max(have, blocks * design.rows * design.step + design.width), np.float32)
        inputs[begin : begin + len(self._tail)] = self._tail
        inputs[begin + len(self._tail) : begin + have] = samples

        outputs = np.empty((blocks, design.rows, design.period), np.float32)
        size = inputs.itemsize
        for part in design.parts:
            windows = np.ndarray(
                (blocks, design.rows, len(part.taps)),
                np.float32,
                inputs,
                part.start * size,
                (design.rows * design.step * size, design.step * size, size),
            )
            np.matmul(np.ascontiguousarray(windows), part.taps, out=outputs[:, :, part.outputs])

        origin = (first - row) * design.period
        # a view would keep what was computed in vain for as long as the audio waits
        done = outputs.reshape(-1)[self._produced - origin : end - origin].copy()
        self._produced = end
        self._tail = inputs[begin + (end // design.period - first) * design.step : begin + have].copy()
        return done


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a period's outputs, and the piece of its window that they need."""

    outputs: slice
    start: int  # within the window
    taps: Samples  # [inputs, outputs]


@dataclass(frozen=True, slots=True)
class Design:
    """The filter of one ratio as matrices. A period is the shortest run of outputs that repeats, or several.

    Its inputs and outputs, and every window's, are counted in samples.
    """

    up: int
    down: int
    half: int  # of the filter, on the grid of rate_in * up
    period: int  # outputs
    step: int  # inputs a period
    before: int  # inputs that a window begins ahead of its period
    width: int  # of a window
    rows: int  # periods a product
    parts: tuple[Part, ...]


@cache
def _design(rate_in: int, rate_out: int) -> Design | None:
    """A Kaiser low-pass whose stop band begins at the lower Nyquist frequency; None for equal rates."""
    if rate_in == rate_out:
        return None
    common = math.gcd(rate_in, rate_out)
    up, down = rate_out // common, rate_in // common
    half = int(HALF_LENGTH_S * rate_in * up)
    # Kaiser's formula for the transition width of 2 * half + 1 taps, as in scipy.signal.kaiserord.
    transition = (STOP_BAND_DB - 7.95) / (2.285 * math.pi * 2 * half) * (rate_in * up / 2)
    taps = up * firwin(
        2 * half + 1,
        min(rate_in, rate_out) / 2 - transition / 2,
        window=("kaiser", kaiser_beta(STOP_BAND_DB)),
        fs=rate_in * up,
    )

    repeats = max(1, PRODUCT_OUTPUTS // up)
    period, step = up * repeats, down * repeats
    before = half // up
    width = before + ((period - 1) * down + half) // up + 1
    parts = []
    for first in range(0, period, PRODUCT_OUTPUTS):
        places = np.arange(first, min(first + PRODUCT_OUTPUTS, period)) * down
        start = before - (half - int(places[0])) // up
        stop = before + (half + int(places[-1])) // up + 1
        lags = places - (np.arange(start, stop)[:, None] - before) * up
        matrix = np.where(np.abs(lags) <= half, taps[np.clip(lags + half, 0, 2 * half)], 0.0)
        parts.append(Part(slice(first, first + len(places)), start, matrix.astype(np.float32)))
    largest = max(part.taps.size for part in parts)
    rows = min(math.ceil(PRODUCT_SPAN_S * rate_out / period), PRODUCT_SIZE // largest)
    return Design(up, down, half, period, step, before, width, rows, tuple(parts))

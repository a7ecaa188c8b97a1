"""Features computed live equal NeMo's preprocessor over the whole file, however the audio is cut."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.play import Samples
from tests.engine.speech import excerpt
from worker.engine.features import LogMel

TOLERANCE = 1e-4

FRONT_ENDS: dict[str, dict[str, Any]] = {
    "demo": {"features": 80, "window_size": 0.025},  # NeMo's default, 0.02, never reaches past the last sample
    "128-mels": {"features": 128},
    "8-khz": {"features": 64, "sample_rate": 8000, "n_fft": 256},
    "clamped-magnitudes": {"features": 40, "mag_power": 1.0, "log_zero_guard_type": "clamp", "window": "hamming"},
    "no-pre-emphasis": {"features": 80, "preemph": None, "window_size": 0.032, "log_zero_guard_value": 1e-5},
}


@pytest.fixture(scope="module", params=FRONT_ENDS.values(), ids=FRONT_ENDS.keys())
def preprocessor(request: pytest.FixtureRequest) -> Any:
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    common = {"normalize": "NA", "dither": 0.0, "pad_to": 0, "n_fft": 512}
    return AudioToMelSpectrogramPreprocessor(**(common | request.param)).eval()


def whole(preprocessor: Any, samples: Samples) -> Tensor:
    """(T, bands) of the valid frames."""
    mel, length = preprocessor(input_signal=torch.from_numpy(samples)[None], length=torch.tensor([len(samples)]))
    return mel[0, :, : int(length[0])].T


class Ear:
    """Batched live features: what the engine does with its audio arena, here with a list of tails."""

    def __init__(self, preprocessor: Any, rows: int) -> None:
        self.features = LogMel(preprocessor.featurizer, torch.device("cpu"))
        self.tails = [torch.zeros(self.features.lead) for _ in range(rows)]
        self.heard: list[list[Tensor]] = [[] for _ in range(rows)]

    def hear(self, pieces: dict[int, tuple[Samples, bool]]) -> None:
        """Some rows' next samples, and whether they are the row's last."""
        signals = [torch.cat([self.tails[b], torch.from_numpy(piece)]) for b, (piece, _) in pieces.items()]
        length = torch.tensor([len(signal) for signal in signals])
        size = max(int(length.max()), self.features.tail_size)
        batch = torch.stack([torch.nn.functional.pad(signal, (0, size - len(signal))) for signal in signals])
        lasts = [last for _, last in pieces.values()]
        frames = torch.from_numpy(self.features.frames(length.numpy(), np.array(lasts)))
        mel, tails = self.features(batch, length, frames, int(frames.max()))
        for i, b in enumerate(pieces):
            rest = len(signals[i]) - int(frames[i]) * self.features.hop
            assert lasts[i] or rest <= self.features.tail_size
            self.tails[b] = tails[i, :rest].clone()
            self.heard[b].append(mel[i, : int(frames[i])])
            assert not mel[i, int(frames[i]) :].any()


ROW = st.tuples(
    st.integers(0, 99),
    st.integers(0, 20_000) | st.integers(0, 100).flatmap(lambda k: st.sampled_from([160 * k, 160 * k + 159])),
    # many pieces shorter than a hop, none at all among them, and some longer than a step of the engine
    st.lists(st.integers(0, 100) | st.integers(0, 500) | st.integers(0, 9_000), max_size=60),
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROW, min_size=1, max_size=5))
def test_live_features_equal_the_preprocessor_over_the_whole_file(
    preprocessor: Any, rows: list[tuple[int, int, list[int]]]
) -> None:
    ear = Ear(preprocessor, len(rows))
    signals = [np.ascontiguousarray(excerpt(seed, length)) for seed, length, _ in rows]
    position = [0] * len(rows)
    for turn in range(max(len(cuts) for *_, cuts in rows) + 1):
        pieces = {}
        for b, (_, length, cuts) in enumerate(rows):
            if turn <= len(cuts):
                last = turn == len(cuts)
                end = length if last else min(length, position[b] + cuts[turn])
                pieces[b] = (signals[b][position[b] : end], last)
                position[b] = end
        ear.hear(pieces)
    for samples, frames in zip(signals, ear.heard, strict=True):
        live = torch.cat(frames)
        assert len(live) == len(samples) // ear.features.hop
        if len(live):
            assert float((live - whole(preprocessor, samples)).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("seed", [0, 1])
def test_ten_seconds_in_pieces_of_twenty_milliseconds(preprocessor: Any, seed: int) -> None:
    samples = np.ascontiguousarray(excerpt(seed, 160_000 + 77))
    ear = Ear(preprocessor, 1)
    for start in range(0, len(samples), 320):
        ear.hear({0: (samples[start : start + 320], start + 320 >= len(samples))})
    live = torch.cat(ear.heard[0])
    expected = whole(preprocessor, samples)
    assert live.shape == expected.shape
    assert float((live - expected).abs().max()) <= TOLERANCE


def test_silence_full_scale_and_a_click_equal_the_preprocessor(preprocessor: Any) -> None:
    silence = np.zeros(8_000, np.float32)
    click = silence.copy()
    click[4_000] = 1.0
    square = np.where(np.arange(8_000) // 40 % 2, 1.0, -1.0).astype(np.float32)
    ear = Ear(preprocessor, 3)
    ear.hear({0: (silence[:5_000], False), 1: (click[:3_999], False), 2: (square[:1], False)})
    ear.hear({0: (silence[5_000:], True), 1: (click[3_999:], True), 2: (square[1:], True)})
    for samples, frames in zip((silence, click, square), ear.heard, strict=True):
        assert float((torch.cat(frames) - whole(preprocessor, samples)).abs().max()) <= TOLERANCE

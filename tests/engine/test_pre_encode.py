"""More mel frames before a chunk than it needs do no harm, if they are whole encoder frames and are dropped.

Live code hands over "160 ms instead of 90 ms" easily; NeMo's pull request 15323 began with that.
"""

import pytest
import torch
from torch import Tensor

from tests.engine.models import CHUNKED, REGULAR_SYMMETRIC, Pair, Recipe, Zoo
from tests.engine.play import difference, offline, offline_mels
from tests.engine.speech import excerpt
from worker.engine.ragged import valid

TOLERANCE = 1e-4


def _stream(pair: Pair, mels: list[Tensor], right: int, chunks: list[int], past: int) -> list[Tensor]:
    """Drive the patched encoder by hand, with up to `past` mel frames before each window."""
    encoder = pair.reference._encoder
    left = pair.context(right)[0]
    again = pair.model.info.geometry.recompute[right]
    rows = len(mels)
    channel = torch.zeros(rows, encoder.layers, left, encoder.width)
    time = torch.zeros(rows, encoder.layers, encoder.width, encoder.conv_left)
    done = [0] * rows
    out: list[list[Tensor]] = [[] for _ in mels]
    total = [encoder.frames(len(mel), 0) for mel in mels]
    while done != total:
        windows, dropped, frames, keep = [], [], [], []
        for b, mel in enumerate(mels):
            seen = 1 + 8 * (done[b] - 1) if done[b] else 0
            have = min(seen, past)
            end = 8 * (done[b] + chunks[b] * (right + 1) - 1 + again) + 1
            windows.append(mel[seen - have : end])
            dropped.append(encoder.dropped(have))
            frames.append(encoder.frames(len(windows[-1]), have))
            keep.append(frames[-1] if end >= len(mel) else max(0, frames[-1] - again))
        length = torch.tensor([len(window) for window in windows])
        batch = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True)
        with torch.inference_mode():
            encoded, channel, time = encoder(
                mels=batch.masked_fill(~valid(length, batch.shape[1])[:, :, None], 0.0),
                mel_length=length,
                dropped=torch.tensor(dropped),
                frames=torch.tensor(frames),
                keep=torch.tensor(keep),
                context=(left, right),
                channel=channel,
                time=time,
                cached=torch.tensor(done).clamp(max=left),
            )
        for b in range(rows):
            out[b].append(encoded[b, : keep[b]])
            done[b] += keep[b]
    return [torch.cat(row) for row in out]


@pytest.mark.parametrize("recipe", [CHUNKED, REGULAR_SYMMETRIC], ids=str)
@pytest.mark.parametrize("extra", [0, 8, 16, 40])
def test_extra_context_of_whole_encoder_frames_equals_offline(zoo: Zoo, recipe: Recipe, extra: int) -> None:
    pair = zoo.pair(recipe)
    for right in pair.model.info.look_aheads:
        signals = [excerpt(i, n) for i, n in enumerate((80_000, 40_077))]
        mels = [offline_mels(pair.stock, samples) for samples in signals]
        outputs = _stream(pair, mels, right, chunks=[3, 1], past=9 + extra)
        for samples, output in zip(signals, outputs, strict=True):
            assert difference(output, offline(pair.stock, samples, pair.context(right))) <= TOLERANCE

"""Real words on real audio: the error rate of the streamed text is the one published for the models."""

import jiwer
import pytest

from tests.engine.greedy import nemo_hypothesis
from tests.engine.models import Pair
from tests.engine.play import offline, play
from tests.engine.speech import evaluation
from worker.engine.interface import Mode

MARGIN = 0.01  # the published rates are over all utterances, these over every fifth


@pytest.mark.parametrize(
    ("name", "mode", "published"),
    [
        ("demo", Mode(6, "rnnt"), 0.058),
        ("demo", Mode(1, "rnnt"), 0.078),
        ("demo", Mode(6, "ctc"), 0.144),
        ("regular", Mode(2, "ctc"), 0.094),
    ],
    ids=["demo-rnnt-6", "demo-rnnt-1", "demo-ctc-6", "regular-ctc-2"],
)
def test_streamed_words_are_nemos_offline_words(
    name: str, mode: Mode, published: float, request: pytest.FixtureRequest
) -> None:
    pair: Pair = request.getfixturevalue(name)
    utterances = sorted(evaluation("seen")[::5], key=lambda utterance: len(utterance[0]))
    whole = [offline(pair.stock, samples, pair.context(mode.look_ahead)) for samples, _ in utterances]
    expected = [nemo_hypothesis(pair.stock, encoded, mode.decoder).text for encoded in whole]
    for engine in pair.engines.values():
        takes = play(engine, [samples for samples, _ in utterances], mode, chunks=2)
        pieces = [[engine.info.pieces[label] for label in take.tokens.ids] for take in takes]
        streamed = ["".join(row).replace("\u2581", " ").strip() for row in pieces]
        assert streamed == expected
        assert jiwer.wer([text for _, text in utterances], streamed) <= published + MARGIN

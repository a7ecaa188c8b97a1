"""Real calls through the whole service: every word, its time, and the events around it."""

import json
from itertools import pairwise

import jiwer
import pytest

from demo.score import references, word_error_rate
from tests.conftest import PARTITIONS
from tests.integration.conftest import PREFIX, Round, Service
from tests.integration.oracle import Oracle
from tests.integration.sending import spoken
from tests.integration.support import CALLS
from wire import StreamEnd, Utterance, event_id

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def test_words_are_nemos_offline_words(calls: Round, oracle: Oracle) -> None:
    for stream, heard in calls.heard.items():
        samples, rate = _audio(stream)
        oracle.check(heard, samples, rate)


def test_word_error_rate_is_the_published_one(calls: Round) -> None:
    rate, words = word_error_rate({s.removeprefix(PREFIX): heard.text for s, heard in calls.heard.items()})
    assert words == sum(len(text.split()) for text in references().values())
    assert rate <= 0.08


def test_words_lie_where_they_were_said(calls: Round) -> None:
    turns = _turns()
    placed = 0
    for stream, heard in calls.heard.items():
        said = [(word, turn) for turn in turns[stream] for word in turn["text"].split()]
        words = heard.words
        assert all(a.start <= a.end and a.start <= b.start for a, b in pairwise(words))
        aligned = jiwer.process_words(" ".join(w for w, _ in said), " ".join(word.text for word in words))
        for chunk in aligned.alignments[0]:
            if chunk.type != "equal":
                continue
            pairs = zip(said[chunk.ref_start_idx : chunk.ref_end_idx], words[chunk.hyp_start_idx :], strict=False)
            for (text, turn), word in pairs:
                assert word.text == text
                assert turn["start"] - 1 <= word.start / 1000 <= turn["end"] + 1, (stream, word, turn)
                assert turn["start"] - 1 <= word.end / 1000 <= turn["end"] + 1, (stream, word, turn)
                placed += 1
    assert placed >= 600


def test_events_are_numbered_named_and_addressed_as_documented(calls: Round, service: Service) -> None:
    for stream, heard in calls.heard.items():
        model = heard.events[0].head.model
        partition = heard.outs[0].partition
        start = int(heard.events[0].head.id.split("/")[-2].split("-")[1])
        assert start >= calls.offsets[partition]
        channel = ("agent", "customer")[int(stream[-1])]
        for number, out in enumerate(heard.outs):
            head = out.event.head
            assert out.partition == partition
            assert out.key == stream.encode()
            assert head.number == number
            assert head.id == event_id(stream, partition, start, number)
            assert head.model == model
            assert head.model.startswith("demo@")
            assert (head.call_id, head.channel, head.language) == (stream[:-2], channel, "en")
            assert head.metadata == {"tenant": "demo", "n": 7}
            assert start <= head.offsets[0] <= head.offsets[1]
            assert int(out.headers["input-timestamp"]) <= out.time
        assert [out.event.head.offsets for out in heard.outs] == sorted(out.event.head.offsets for out in heard.outs)
    assert {heard.outs[0].partition for heard in calls.heard.values()} == set(range(PARTITIONS))


def test_streams_end_once_with_their_totals(calls: Round, service: Service) -> None:
    for stream, heard in calls.heard.items():
        samples, rate = _audio(stream)
        end = heard.end
        assert isinstance(heard.events[-1], StreamEnd)
        assert end.reason == "end"
        assert end.duration == len(samples) * 1000 // rate
        assert (end.utterances, end.words, end.gap_ms) == (len(heard.utterances), len(heard.words), 0)
        assert heard.utterances[-1].end <= end.duration
        assert end.head.offsets[0] == end.head.offsets[1]
        for utterance in heard.utterances:
            assert utterance.text == " ".join(word.text for word in utterance.words)
            assert (utterance.start, utterance.end) == (utterance.words[0].start, utterance.words[-1].end)
            assert utterance.reason in ("silence", "end")
            assert all(0 < word.confidence <= 1 for word in utterance.words)
        assert len(heard.utterances) > 2
        for before, after in pairwise(heard.utterances):
            assert after.start - before.end >= 800  # the default endpoint
    total = sum(heard.end.duration for heard in calls.heard.values()) / 1000
    assert calls.audio_s == pytest.approx(total, abs=1.0)


def test_partials_grow_into_their_utterance(calls: Round, service: Service) -> None:
    finals = {out.event.head.id: out for heard in calls.heard.values() for out in heard.outs}
    before: dict[str, str] = {}
    compared = 0
    for out in service.outputs.partials:
        partial, head = out.event, out.event.head
        if head.stream not in calls.heard:
            continue
        final = finals[head.id]
        assert isinstance(final.event, Utterance)
        assert (out.key, out.partition) == (final.key, final.partition)
        assert partial.text.startswith(partial.stable)
        assert partial.text.startswith(before.get(head.id, ""))
        assert final.event.text.startswith(partial.stable)
        assert final.event.start == partial.start
        assert int(out.headers["input-timestamp"]) <= out.time
        before[head.id] = partial.stable
        compared += 1
    assert compared > len(calls.heard)


def test_ready_streams_step_together(calls: Round) -> None:
    assert calls.rows / calls.batches > 4
    # one encoder and one decoder call a step: a segment's end without a frame needs no encoder
    assert calls.decoder_calls == calls.batches
    assert 0.5 * calls.batches < calls.encoder_calls <= calls.batches


def _audio(stream: str) -> tuple:
    name, _, channel = stream.removeprefix(PREFIX).rpartition("/")
    return spoken(name, int(channel))


def _turns() -> dict[str, list[dict]]:
    turns: dict[str, list[dict]] = {}
    for call in json.loads((CALLS / "calls.json").read_text()):
        for turn in call["turns"]:
            name = call["file"].removesuffix(".flac")
            turns.setdefault(f"{PREFIX}{name}/{turn['channel']}", []).append(turn)
    return turns

"""What a stream asks for (flush, end, its endpoint, look-ahead, decoder), and streams with next to nothing in them."""

import io
import time

import numpy as np
import pytest
import soundfile

from tests.integration.conftest import PREFIX, Round, Service
from tests.integration.oracle import Oracle
from tests.integration.sending import audio, spoken, start, stream_of
from tests.integration.support import Heard
from wire import End, Flush, Options, StreamEnd, Utterance

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.mark.parametrize(("call", "encoding"), [("call-02", "mulaw"), ("call-05", "alaw")])
def test_g711_is_heard_as_its_decoded_samples_are(
    call: str, encoding: str, service: Service, oracle: Oracle, calls: Round
) -> None:
    samples, rate = spoken(call, 0)
    assert rate == 8000
    stream = f"g711-{encoding}"
    service.sender.send(stream, stream_of(samples, rate, encoding))
    heard = service.outputs.heard(stream)
    oracle.check(heard, through_g711(samples, encoding), rate)
    # companding costs the small model few words
    linear = calls.heard[f"{PREFIX}{call}/0"].text.split()
    assert len(set(linear) & set(heard.text.split())) > 0.7 * len(set(linear))
    assert heard.end.duration == len(samples) // 8


def through_g711(samples: np.ndarray, encoding: str) -> np.ndarray:
    """As libsndfile decodes what it encoded."""
    packed, subtype = io.BytesIO(), {"mulaw": "ULAW", "alaw": "ALAW"}[encoding]
    soundfile.write(packed, samples, 8000, format="RAW", subtype=subtype)
    packed.seek(0)
    return soundfile.read(packed, dtype="int16", format="RAW", subtype=subtype, samplerate=8000, channels=1)[0]


@pytest.mark.parametrize(("call", "second"), [("call-03", 7), ("call-02", 23)])
def test_flush_finalises_what_was_heard_and_the_stream_goes_on(
    call: str, second: int, service: Service, oracle: Oracle
) -> None:
    samples, rate = spoken(call, 0)
    cut = second * rate + 37  # within a sentence, not on a record's or a frame's edge
    stream = f"flush-{call}"
    first = [start(rate), *audio(samples[:cut], rate), Flush("now", "one", cut)]
    service.sender.send(stream, first)
    service.outputs.until(lambda: markers(service, stream), "the marker, before more audio or an end")
    rest = audio(samples[cut:], rate, first=cut, sequence=len(first) - 2)
    service.sender.send(stream, [*rest, Flush("empty", "one"), Flush("again", "one"), End("one", len(samples))])
    heard = service.outputs.heard(stream)

    assert [marker.flush_id for marker in heard.markers] == ["now", "empty", "again"]
    now, empty, again = heard.markers
    assert now.time == cut * 1000 // rate
    assert empty.time == again.time == heard.end.duration == len(samples) * 1000 // rate
    at = heard.events.index(now)
    before, after = heard.events[:at], heard.events[at + 1 :]
    assert before[-1].reason == "flush"
    assert text(before) == oracle.text(samples[:cut], rate)
    assert text(after) == oracle.text(samples[cut:], rate)
    assert heard.utterances[-1].end <= heard.end.duration
    assert all(u.end <= now.time for u in before)
    assert all(u.start >= now.time for u in after if isinstance(u, Utterance))


def test_each_stream_has_its_own_endpoint(service: Service, oracle: Oracle) -> None:
    samples, rate = spoken("call-00", 0)
    heard = side_by_side(
        service,
        {
            "endpoint-300": stream_of(samples, rate, options=Options(endpoint_ms=300)),
            "endpoint-3000": stream_of(samples, rate, options=Options(endpoint_ms=3000)),
            "endpoint-2s-long": stream_of(samples, rate, options=Options(endpoint_ms=3000, max_utterance_ms=2000)),
        },
    )
    quick, slow, cut = heard.values()
    oracle.check(quick, samples, rate)
    assert [word.text for word in quick.words] == [word.text for word in slow.words]
    assert [(word.start, word.end) for word in quick.words] == [(word.start, word.end) for word in slow.words]
    assert len(quick.utterances) > len(slow.utterances)
    assert [word.text for word in cut.words] == [word.text for word in slow.words]
    assert {utterance.reason for utterance in cut.utterances} >= {"max_length"}
    assert max(utterance.end - utterance.start for utterance in cut.utterances) < 4000


def test_look_aheads_and_decoders_work_side_by_side(service: Service, oracle: Oracle) -> None:
    samples, rate = spoken("call-09", 1)
    modes = {
        f"mode-{look_ahead}-{decoder}": (look_ahead, decoder)
        for look_ahead in (0, 1, 6, 13)
        for decoder in ("rnnt", "ctc")
    }
    heard = side_by_side(
        service,
        {
            stream: stream_of(samples, rate, options=Options(look_ahead=look_ahead, decoder=decoder))
            for stream, (look_ahead, decoder) in modes.items()
        },
    )
    for stream, (look_ahead, decoder) in modes.items():
        oracle.check(heard[stream], samples, rate, look_ahead, decoder)
    assert len({heard[stream].text for stream in modes}) > 4


def test_partials_only_if_the_stream_wants_them(service: Service) -> None:
    samples, rate = spoken("call-03", 1)
    quiet = stream_of(samples, rate, options=Options(partials=False))
    side_by_side(service, {"partials-no": quiet, "partials-yes": stream_of(samples, rate)})
    service.outputs.until(lambda: partials(service, "partials-yes"), "partials")
    assert not partials(service, "partials-no")


def test_silence_gives_only_an_end(service: Service) -> None:
    service.sender.send("silence", stream_of(np.zeros(48_000, np.int16), 16000))
    heard = service.outputs.heard("silence")
    assert [type(event) for event in heard.events] == [StreamEnd]
    assert (heard.end.duration, heard.end.utterances, heard.end.words) == (3000, 0, 0)


def test_a_stream_of_50_ms(service: Service, oracle: Oracle) -> None:
    samples, rate = spoken("call-00", 0)
    blink = samples[rate : rate + rate // 20]
    service.sender.send("blink", stream_of(blink, rate))
    heard = service.outputs.heard("blink")
    assert heard.text == oracle.text(blink, rate)
    assert heard.end.duration == 50


def test_a_stream_without_audio(service: Service) -> None:
    service.sender.send("empty", [start(8000), End("one", 0)])
    heard = service.outputs.heard("empty")
    assert [type(event) for event in heard.events] == [StreamEnd]
    assert (heard.end.reason, heard.end.duration) == ("end", 0)


def test_idle_ends_a_stream_and_later_audio_is_rejected(service: Service, oracle: Oracle) -> None:
    samples, rate = spoken("call-03", 0)
    samples = samples[: 4 * rate]
    records = audio(samples, rate)
    began = time.monotonic()
    (partition, _), *_ = service.sender.send("idle", [start(rate, options=Options(idle_ms=1500)), *records])
    heard = service.outputs.heard("idle", timeout_s=15)
    assert time.monotonic() - began >= 1.5
    assert heard.end.reason == "idle"
    assert heard.end.duration == 4000
    assert heard.text == oracle.text(samples, rate)
    assert heard.utterances[-1].reason in ("silence", "idle")
    late = audio(samples[:1600], rate, first=len(samples), sequence=len(records))
    ((_, offset),) = service.sender.send("idle", late)
    (refused,) = service.outputs.refused("idle", 1)
    assert refused.event.reason == "after_end"
    assert (refused.headers["partition"], refused.headers["offset"]) == (str(partition), str(offset))


def test_a_new_start_ends_the_old_stream_and_begins_another(service: Service, oracle: Oracle) -> None:
    samples, rate = spoken("call-03", 0)
    samples = samples[: 4 * rate]
    first = [start(rate), start(rate), *audio(samples, rate)]  # a start sent twice is one
    second = [start(rate, nonce="two"), *audio(samples, rate, nonce="two"), End("two", len(samples))]
    places = service.sender.send("restart", [*first, *second])

    def outs() -> list:
        return [out.event for out in service.outputs.finals if out.event.head.stream == "restart"]

    service.outputs.until(lambda: sum(isinstance(event, StreamEnd) for event in outs()) == 2, "both ends")
    lives: dict[str, list] = {}
    for event in outs():
        lives.setdefault(event.head.id.rpartition("/")[0], []).append(event)
    (partition, one), (_, two) = places[0], places[len(first)]
    assert list(lives) == [f"restart/{partition}-{one}", f"restart/{partition}-{two}"]
    assert [events[-1].reason for events in lives.values()] == ["restarted", "end"]
    assert [text(events) for events in lives.values()] == [oracle.text(samples, rate)] * 2


def side_by_side(service: Service, streams: dict[str, list]) -> dict[str, Heard]:
    """Send streams so that they are in the worker at once: a second of each in turn."""
    longest = max(map(len, streams.values()))
    for at in range(0, longest, 10):
        for stream, records in streams.items():
            service.sender.send(stream, records[at : at + 10])
    return service.outputs.ended(list(streams))


def markers(service: Service, stream: str) -> list:
    outs = [out.event for out in service.outputs.finals if out.event.head.stream == stream]
    return [event for event in outs if not isinstance(event, Utterance)]


def partials(service: Service, stream: str) -> list:
    return [out for out in service.outputs.partials if out.event.head.stream == stream]


def text(events: list) -> str:
    return " ".join(event.text for event in events if isinstance(event, Utterance))

"""Restarts after which not all is as before: records have expired, the model is another one, calls have ended."""

import signal

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.zygote import Zygote
from tests.conftest import PARTITIONS
from tests.integration.disturbed import by_stream, ends, names
from tests.integration.scene import PARTS, SECONDS, STATIC, scene, wait
from tests.integration.support import assert_same
from wire import Audio, End, Gap, Start, StreamEnd, Utterance

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

EXPIRED = 46  # records of each partition, of the 50 or so in a part


def test_what_expired_before_a_restart_is_a_gap_and_the_numbers_go_on(kafka: str, zygote: Zygote) -> None:
    with scene(kafka, zygote, STATIC) as it:
        calls = it.calls()
        worker = it.group.worker()
        calls.say()
        it.group.outputs.until(lambda: len({*by_stream(it.group.outputs.finals)}) == PARTITIONS, "events of all calls")
        worker.kill()
        expire(kafka, it.group.topics.audio, before=EXPIRED)
        it.group.outputs.poll(0.5)
        before = by_stream(it.group.outputs.finals)
        it.group.worker()
        calls.say(2)
        it.group.outputs.until(lambda: len(ends(it.group.outputs)) == PARTITIONS, "the ends")
        resumed, whole = (EXPIRED - 1) * 100, 0  # ms; the first record is a start
        for stream, outs in by_stream(it.group.outputs.finals).items():
            assert stream.endswith("-0")  # the offset of the first record, which is no more
            assert [out.event.head.number for out in outs] == list(range(len(outs)))
            later = [out.event for out in outs[len(before[stream]) :]]
            gaps = [event for event in later if isinstance(event, Gap)]
            told = max(out.event.end for out in before[stream] if isinstance(out.event, Utterance))
            lost = max(0, resumed - told)
            assert [(gap.start, gap.end) for gap in gaps] == [(told, resumed)] * (lost > 0)
            words = [word for event in later if isinstance(event, Utterance) for word in event.words]
            assert words
            assert all(word.start >= max(told, resumed) for word in words)
            assert isinstance(later[-1], StreamEnd)
            assert (later[-1].duration, later[-1].gap_ms) == (SECONDS * 1000, lost)
            whole += lost == 0
        assert whole < PARTITIONS


def expire(servers: str, topic: str, before: int) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    deleted = admin.delete_records([TopicPartition(topic, p, before) for p in range(PARTITIONS)])
    for done in deleted.values():
        assert done.result(20).low_watermark == before


def test_a_model_that_changes_in_mid_call(kafka: str, zygote: Zygote) -> None:
    """The same weights under another name, so that the words must be those of one model."""
    with scene(kafka, zygote, STATIC) as it:
        calls = it.calls()
        worker = it.group.worker(settings={"model.id": "old"})
        calls.say()
        it.group.outputs.until(lambda: len({*by_stream(it.group.outputs.finals)}) == PARTITIONS, "events of all calls")
        assert worker.stop() == 0
        it.group.worker(settings={"model.id": "new"})
        calls.say(2)
        outputs = it.group.outputs
        outputs.until(lambda: len(ends(outputs)) == PARTITIONS, "the ends")
        with it.undisturbed(len(calls)) as alone:
            expected = by_stream(alone.outputs.finals)
            assert expected.keys() == by_stream(outputs.finals).keys()
            for stream, outs in by_stream(outputs.finals).items():
                models = [out.event.head.model for out in outs]
                assert models == sorted(models, reverse=True)
                assert set(models) == {"old", "new"}
                assert [text(out.event) for out in outs] == [text(out.event) for out in expected[stream]]


def text(event: object) -> tuple[object, ...]:
    words = [(w.text, w.start, w.end) for w in event.words] if isinstance(event, Utterance) else []
    return type(event), event.head.id, words  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", ["commit.3-sent:3", "commit.4-rows:3", "commit.6-committed:3"])
def test_at_least_once_misses_nothing(place: str, kafka: str, zygote: Zygote) -> None:
    with scene(kafka, zygote, STATIC | {"kafka.delivery": "at_least_once"}) as it:
        calls = it.calls()
        calls.say(3)
        assert it.group.worker(place).process.wait(60) == -signal.SIGKILL
        it.group.worker()
        outputs = it.group.outputs
        outputs.until(lambda: len({out.event.head.id for out in ends(outputs)}) == len(calls), "the ends")
        with it.undisturbed(len(calls)) as alone:
            expected = {out.event.head.id: out.event for out in alone.outputs.finals}
            assert {out.event.head.id for out in outputs.finals} == expected.keys()
            for out in outputs.finals:
                assert_same(out.event, expected[out.event.head.id])


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_what_has_ended_stays_ended_across_a_restart(how: str, kafka: str, zygote: Zygote) -> None:
    with scene(kafka, zygote, STATIC) as it:
        calls = it.calls()
        calls.say(3)
        worker = it.group.worker()
        outputs = it.group.outputs
        outputs.until(lambda: len(ends(outputs)) == len(calls), "the ends")
        worker.kill() if how == "killed" else worker.stop()
        it.group.worker()
        (name, *_) = names("call", [0])
        late = [
            Audio(99, 10**6, b"\0\0"),
            Start("one"),
            End("one"),
            Start("two"),
            Audio(0, 0, b"\0\0" * 80, "two"),
            End("two"),
        ]
        it.sender.send(name, late)
        outputs.until(lambda: len(ends(outputs)) == len(calls) + 1, "the end of the new stream")
        assert [out.event.reason for out in outputs.refused(name, 1)] == ["after_end"]
        outputs.poll(0.5)
        assert len(ends(outputs)) == len(calls) + 1
        assert len(outputs.rejected) == 1  # a start or an end that is sent again is none


def test_calls_that_the_clock_ended_stay_ended_where_it_did(kafka: str, zygote: Zygote) -> None:
    with scene(kafka, zygote, STATIC | {"stream.idle_ms": 1500}) as it:
        calls = it.calls()
        calls.say(2)
        worker = it.group.worker("commit.4-rows:8")
        outputs = it.group.outputs
        wait(lambda: worker.process.poll() is not None or outputs.poll(0) or ends(outputs), worker)
        worker.kill()
        it.group.worker()
        outputs.until(lambda: len(ends(outputs)) == len(calls), "the ends")
        calls.say()
        outputs.until(lambda: len(outputs.rejected) >= len(calls) * 49, "what came too late")  # 50 records, one an end
        assert {out.event.reason for out in outputs.rejected} == {"after_end"}
        assert {out.event.reason for out in ends(outputs)} == {"idle"}
        streams = by_stream(outputs.finals)
        assert len(streams) == len(calls)
        for outs in streams.values():
            assert [out.event.head.number for out in outs] == list(range(len(outs)))
            assert outs[-1].event.duration == pytest.approx(SECONDS * 1000 * 2 / PARTS, abs=200)

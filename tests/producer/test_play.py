"""Many files at once, at a pace, against a real Kafka."""

import asyncio
import time
from itertools import islice

import numpy as np
import pytest
import soundfile

from producer.client import Producer
from producer.play import Source, Style, play, sources
from tests.producer.support import damaged_flac, payload, read_all, streams
from wire.fields import WireError
from wire.records import Audio

pytestmark = pytest.mark.kafka

RNG = np.random.default_rng(1)


@pytest.fixture
def files(tmp_path):
    """Stereo at 8 kHz, mono at 16 kHz: name -> int16 samples [n, channels]."""
    sounds = {
        "left-right.flac": (RNG.integers(-9000, 9000, (16_100, 2)), 8000),
        "alone.wav": (RNG.integers(-9000, 9000, (32_050, 1)), 16000),
    }
    for name, (sound, rate) in sounds.items():
        soundfile.write(tmp_path / name, sound.astype(np.int16), rate)
    return {tmp_path / name: sound.astype("<i2") for name, (sound, _) in sounds.items()}


def run(kafka, topics, calls, style, on_progress=lambda progress: None):
    async def go():
        async with Producer(kafka, topics.audio) as producer:
            return await play(producer, calls, style, on_progress)

    return asyncio.run(go())


def test_files_are_played_whole_each_channel_a_stream(kafka, topics, files):
    style = Style(speed=None, language="en", channel_names=("agent", "customer"), metadata={"site": "oslo"})
    results = run(kafka, topics, sources(list(files), calls=4, prefix="x-"), style)
    assert [result.source.call_id for result in results] == ["x-left-right", "x-alone", "x-left-right-2", "x-alone-2"]
    assert all(result.done and not result.error and result.seconds == result.total for result in results)

    found = streams(kafka, topics.audio)
    stereo, mono = files.values()
    for number in ("", "-2"):
        assert payload(found.pop(f"x-alone{number}")) == mono.tobytes()
        for index, name in enumerate(("agent", "customer")):
            records = found.pop(f"x-left-right{number}/{index}")
            assert payload(records) == stereo[:, index].tobytes()
            start = records[0]
            assert (start.call_id, start.channel) == (f"x-left-right{number}", name)
            assert (start.sample_rate, start.language, start.metadata) == (8000, "en", {"site": "oslo"})
    assert not found


def test_records_leave_at_the_pace_asked_for_and_late_ones_are_caught_up(kafka, topics, files):
    stereo = next(iter(files))  # 2.0125 s in records of 100 ms
    left = []

    def note(progress):
        if not progress.done:
            left.append(time.monotonic())
            if len(left) == 6:
                time.sleep(0.4)  # stops the whole loop, as a busy machine would

    (result,) = run(kafka, topics, [Source("c", stereo)], Style(speed=2.0), note)
    assert result.error is None
    assert len(left) == 21
    late = [at - left[0] - 0.05 * n for n, at in enumerate(left[:20])]
    assert late[6] > 0.3  # the stall was real
    assert -0.05 < sorted(late[-5:])[2] < 0.05  # caught up: what one was late the others are not
    assert left[-1] - left[0] > 0.9  # and not faster than asked


def test_encoding_and_chunk_size_are_choices(kafka, topics, files):
    run(kafka, topics, [Source("c", list(files)[1])], Style(speed=None, chunk_ms=20, encoding="mulaw"))
    records = streams(kafka, topics.audio)["c"]
    assert len(payload(records, width=1)) == 32_050
    assert {len(record.payload) for record in records if isinstance(record, Audio)} == {320, 50}
    assert records[0].encoding == "mulaw"


def test_a_file_that_breaks_in_the_middle_ends_its_own_call_only(kafka, topics, files, tmp_path):
    bad = tmp_path / "bad.flac"
    damaged_flac(bad)
    good = list(files)[1]
    broken, whole = run(kafka, topics, [Source("bad", bad), Source("good", good)], Style(speed=None))
    assert "bad.flac" in str(broken.error)
    assert whole.error is None
    found = streams(kafka, topics.audio)
    assert 0 < len(payload(found["bad"])) < 160_000
    assert payload(found["good"]) == files[good].tobytes()


class Trap(Source):
    """A file that nobody foresaw."""

    def open(self, encoding=None):
        sound = super().open(encoding)
        blocks = sound.blocks

        def broken(frames):
            yield from islice(blocks(frames), 3)
            raise ZeroDivisionError("unforeseen")

        sound.blocks = broken
        return sound


def test_an_error_that_nobody_foresaw_ends_its_own_call_only_and_is_told_with_its_place(kafka, topics, files, caplog):
    stereo, mono = files
    calls = [Trap("bad", mono), Source("good", stereo)]
    broken, whole = run(kafka, topics, calls, Style(speed=8))
    assert isinstance(broken.error, ZeroDivisionError)
    assert whole.error is None
    assert "in broken" in caplog.text
    found = streams(kafka, topics.audio)
    assert payload(found["bad"]) == files[mono][:4800].tobytes()
    assert payload(found["good/1"]) == files[stereo][:, 1].tobytes()


def test_a_display_that_fails_ends_no_call(kafka, topics, files, caplog):
    shown = []

    def show(progress):
        shown.append(progress)
        raise OSError("no more room")

    results = run(kafka, topics, sources(list(files)), Style(speed=None), show)
    assert [result.error for result in results] == [None, None]
    assert len(shown) == 1
    assert caplog.text.count("OSError: no more room") == 1
    assert payload(streams(kafka, topics.audio)["alone"]) == list(files.values())[1].tobytes()


def test_ids_and_values_outside_the_contract_stop_it_before_anything_is_sent(kafka, topics, files):
    path = next(iter(files))
    for calls, style in (
        ([Source("fine", path), Source("x" * 300, path)], Style(speed=None)),
        ([Source("fine", path)], Style(speed=None, channel_names=("agent", "x" * 100))),
        ([Source("fine", path)], Style(speed=None, metadata={"k": "v" * 100_000})),
    ):
        with pytest.raises(WireError):
            run(kafka, topics, calls, style)
    assert read_all(kafka, topics.audio) == []

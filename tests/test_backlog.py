"""How much audio unread records hold."""

import pytest

from worker.backlog import USUAL_S, WINDOW, RecordAudio


def test_a_mean_that_knows_nothing_is_the_usual_one():
    assert RecordAudio().mean == USUAL_S


def test_the_mean_follows_what_was_read_lately():
    audio = RecordAudio()
    for _ in range(100):
        audio.add(0.1)
        audio.add(0.3)
    assert audio.mean == pytest.approx(0.2)
    for _ in range(10 * WINDOW):
        audio.add(0.02)
    assert audio.mean == pytest.approx(0.02, rel=0.05)

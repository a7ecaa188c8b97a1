"""Streaming equals offline: the encoder's output, first frame to last, however a stream is cut and batched.

The checks that NeMo's pull request 15323 asks of the cache update, on random weights against NeMo's own offline
forward of an untouched copy of the model.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.models import CHUNKED, REGULAR_SYMMETRIC, SLOTS, STREAMABLE, Pair, Recipe, Zoo
from tests.engine.play import Player, Take, difference, offline, play
from tests.engine.session import Stream, perform
from tests.engine.speech import RATE, excerpt
from worker.engine.interface import Mode, Row

TOLERANCE = 1e-4
MODES = [(recipe, right) for recipe in STREAMABLE for _, right in recipe.contexts]
EVERY_MODE = pytest.mark.parametrize(("recipe", "right"), MODES, ids=[f"{r}-{right}" for r, right in MODES])
EVERY_MODEL = pytest.mark.parametrize("recipe", STREAMABLE, ids=str)


def error(pair: Pair, take: Take) -> float:
    expected = offline(pair.stock, take.samples, pair.context(take.mode.look_ahead))
    assert take.tokens.heard == len(expected)
    return difference(take.frames, expected)


@EVERY_MODE
def test_a_row_of_three_chunks_beside_a_row_of_one_equals_offline(
    zoo: Zoo, kind: str, recipe: Recipe, right: int
) -> None:
    pair = zoo.pair(recipe)
    player, mode = Player(pair.engines[kind]), Mode(right, "ctc")
    fast, slow, steady = (player.start(i, excerpt(i, n), mode) for i, n in enumerate((96_077, 64_000, 72_300)))
    while live := {take: chunks for take, chunks in ((slow, 1), (fast, 3), (steady, 2)) if not take.ended}:
        player.step(live)
    for take in (fast, slow, steady):
        assert error(pair, take) <= TOLERANCE


@EVERY_MODE
def test_a_stream_many_times_its_left_context_equals_offline(zoo: Zoo, kind: str, recipe: Recipe, right: int) -> None:
    pair = zoo.pair(recipe)
    (take,) = play(pair.engines[kind], [excerpt(4, 10 * RATE + 1234)], Mode(right, "ctc"), chunks=2)
    assert error(pair, take) <= TOLERANCE


@pytest.mark.parametrize("name", ["demo", "regular"])
def test_the_trained_models_equal_offline_on_speech(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    pair: Pair = request.getfixturevalue(name)
    for mode in pair.modes:
        signals = [excerpt(2 * i, n) for i, n in enumerate((200_037, 97_777, 60_005, 1_000))]
        for take in play(pair.engines[kind], signals, mode, chunks=2):
            assert error(pair, take) <= TOLERANCE


def _lengths() -> st.SearchStrategy[int]:
    """Mostly anything up to five seconds, and lengths about which the counting of frames changes."""
    frame = st.integers(0, 60).map(lambda k: k * 1280)
    chunk_end = st.integers(0, 60).map(lambda k: k * 1280 + 200)
    near = st.builds(lambda n, d: max(0, n + d), frame | chunk_end, st.integers(-1, 1) | st.sampled_from([-160, 160]))
    return st.integers(0, 80_000) | near


STREAM = st.builds(
    Stream,
    mode=st.integers(0, 5),
    segments=st.lists(st.tuples(st.integers(0, 99), _lengths()), min_size=1, max_size=3).map(tuple),
    joins=st.integers(0, 6),
    chunks=st.lists(st.integers(0, 3), max_size=20).map(tuple),
    moves=st.frozensets(st.integers(0, 12), max_size=3),
    empty_end=st.booleans(),
)


@EVERY_MODEL
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams=st.lists(STREAM, min_size=1, max_size=4))
def test_any_session_equals_offline(zoo: Zoo, kind: str, recipe: Recipe, streams: list[Stream]) -> None:
    """Streams join, pause, leave, move between slots, take chunks as they like; freed slots are full of NaN."""
    pair = zoo.pair(recipe)
    takes = perform(pair.engines[kind], pair.modes, streams)
    assert len(takes) == sum(len(stream.segments) for stream in streams)
    for _, take in takes:
        assert error(pair, take) <= TOLERANCE


def test_a_saved_slot_continues_bit_for_bit(zoo: Zoo, kind: str) -> None:
    pair = zoo.pair(REGULAR_SYMMETRIC)
    player, mode = Player(pair.engines[kind]), pair.modes[0]
    take = player.start(0, excerpt(0, 64_000), mode)
    player.step({take: 2})
    state = pair.engines[kind].save(0)
    rest = take.samples[take.position :]
    first = pair.engines[kind].step([Row(0, rest, last=True)])
    fresh = pair.engines[kind].save(0)
    pair.engines[kind].load(SLOTS - 1, state)
    again = pair.engines[kind].save(SLOTS - 1)
    assert again.counters == state.counters
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in state.tensors.items())
    assert pair.engines[kind].step([Row(SLOTS - 1, rest, last=True)]) == first
    pair.engines[kind].open(SLOTS - 1, mode)
    opened = pair.engines[kind].save(SLOTS - 1)
    assert opened.counters == fresh.counters
    assert all(torch.equal(opened.tensors[name], tensor) for name, tensor in fresh.tensors.items())


@pytest.mark.parametrize(
    ("recipe", "missing"), [(REGULAR_SYMMETRIC, 161), (CHUNKED, 3 * 1280)], ids=["part-of-a-frame", "whole-frames"]
)
def test_a_refused_step_changes_no_slot(zoo: Zoo, kind: str, recipe: Recipe, missing: int) -> None:
    """A row that ends within a frame, and one that ends between frames but within a chunk."""
    pair = zoo.pair(recipe)
    player, mode = Player(pair.engines[kind]), pair.modes[0]
    good, bad = (player.start(slot, excerpt(slot, 64_000), mode) for slot in (0, 1))
    player.step({good: 1, bad: 2})
    before = [pair.engines[kind].save(slot) for slot in (0, 1)]
    chunk = pair.engines[kind].info.geometry.chunk_samples(mode.look_ahead)
    whole, cut = np.zeros(chunk, np.float32), np.zeros(chunk - missing, np.float32)
    for rows in ([Row(0, whole), Row(1, cut)], [Row(0, whole), Row(0, whole)]):
        with pytest.raises(ValueError, match="slot"):
            pair.engines[kind].step(rows)
    pair.engines[kind].open(2, pair.modes[1])
    with pytest.raises(ValueError, match="mode"):
        pair.engines[kind].step([Row(0, whole), Row(2, whole)])
    for slot in (0, 1):
        after = pair.engines[kind].save(slot)
        assert after.counters == before[slot].counters
        assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before[slot].tensors.items())
    player.finish([good, bad])
    assert error(pair, good) <= TOLERANCE
    assert error(pair, bad) <= TOLERANCE

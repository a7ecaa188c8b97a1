"""The real engine's state through a capture, bytes and another engine; and which checkpoints fit which worker."""

import random
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest

if find_spec("torch") is None or find_spec("nemo") is None:
    pytest.skip("the engine needs the worker extra (torch, NeMo)", allow_module_level=True)

import torch

from tests.engine.conftest import quiet_nemo, zoo  # noqa: F401 fixtures
from tests.engine.models import CHUNKED, DEMO_MODELS
from tests.engine.speech import excerpt
from worker.batching.feed import FeedState
from worker.batching.runner import Runner
from worker.batching.scheduler import Scheduler
from worker.engine.build import build
from worker.engine.interface import Mode, Row
from worker.engine.model import adopt, load
from worker.state.checkpoint import Checkpoint, Fingerprint, decode, encode
from worker.state.fingerprint import fingerprint

HYBRID = replace(CHUNKED, name="chunked-hybrid-state", head="hybrid")
PRINT = Fingerprint("m", "l")


class Listener:
    """Owns a feed: what the engine said of it, segment by segment."""

    def __init__(self, said=((),)):
        self.said = [list(segment) for segment in said]

    def hear(self, tokens, last):
        self.said[-1] += zip(tokens.ids, tokens.frames, tokens.confidences, strict=True)
        if last:
            self.said.append([])


class Steps:
    """A worker without threads. One row a step: a row's bits depend on the number of its mates."""

    def __init__(self, engine, slots):
        self.scheduler = Scheduler(engine.info.geometry, slots, 1, 6)
        self.copied = None
        self.runner = Runner(engine, self.scheduler, lambda done: None, pytest.fail, self._captured)

    def _captured(self, feed, slot):
        self.copied = (feed, slot)

    def step(self):
        """One turn of the thread, then of the loop; the checkpoint if a copy was made."""
        batch = self.scheduler.take()
        done = self.runner._step(batch)
        checkpoint = None
        if self.copied:
            (feed, slot), self.copied = self.copied, None
            state = self.scheduler.captured(feed)
            checkpoint = Checkpoint("s", 0, 1, {"said": deepcopy(feed.owner.said)}, slot, state)
        for work, tokens in done.results:
            work.feed.owner.hear(tokens, work.last)
        self.scheduler.done(batch)
        return checkpoint

    def run(self):
        while self.scheduler.occupancy().ready:
            self.step()


@pytest.mark.parametrize(("name", "decoder"), [("demo", "rnnt"), ("regular", "ctc")])
def test_a_stream_captured_at_any_moment_says_the_same_in_another_engine(quiet_nemo, name, decoder):  # noqa: F811
    rng = random.Random(1)
    model = load(str(DEMO_MODELS / f"{name}.nemo"), device="cpu")
    engine, other = build(model, 2, max_frames=6), build(model, 3, max_frames=6)
    mode = Mode(min(model.info.look_aheads, key=lambda n: abs(n - 3)), decoder)
    signals = [excerpt(2 * seed, 42_000 + 5000 * seed) for seed in range(3)]

    def pieces(signal):
        cuts = sorted(rng.sample(range(1, len(signal)), 12))
        return [piece for piece in np.split(signal, cuts) if len(piece)]

    alone = []
    for signal in signals:
        listener, steps = Listener(), Steps(engine, 2)
        feed = steps.scheduler.admit(mode, listener)
        steps.scheduler.push(feed, signal[:22_000])
        steps.scheduler.close(feed, ending=False)
        steps.scheduler.push(feed, signal[22_000:])
        steps.scheduler.close(feed, ending=True)
        steps.run()
        alone.append(listener.said)
    assert sum(len(segment) for said in alone for segment in said) > 20

    # all at once on two slots, so that they spill; each is captured now and then, and goes on elsewhere at once
    steps, copies = Steps(engine, 2), 0
    feeds = [steps.scheduler.admit(mode, Listener()) for _ in signals]
    sent = [0] * len(signals)
    queues = [[*pieces(signal[:22_000]), None, *pieces(signal[22_000:]), None] for signal in signals]

    def send(scheduler, feed, piece, last):
        if piece is None:
            scheduler.close(feed, ending=last)
        else:
            scheduler.push(feed, piece)

    while any(sent[i] < len(queues[i]) for i in range(len(signals))):
        i = rng.choice([i for i in range(len(signals)) if sent[i] < len(queues[i])])
        send(steps.scheduler, feeds[i], queues[i][sent[i]], sent[i] + 1 == len(queues[i]))
        sent[i] += 1
        if rng.random() < 0.15:
            steps.scheduler.capture(rng.choice(feeds))
        if steps.scheduler.occupancy().ready == 0 and not steps.scheduler._wanted:
            continue
        wanted = [feed for feed in steps.scheduler._wanted if not feed.dropped]
        checkpoint = steps.step()
        if checkpoint is not None and checkpoint.feed is not None:
            copies += 1
            index = feeds.index(wanted[0])
            checkpoint = decode(encode(checkpoint, PRINT), PRINT)
            elsewhere, listener = Steps(other, 3), Listener(checkpoint.host["said"])
            feed = elsewhere.scheduler.admit(mode, listener, checkpoint.feed, checkpoint.slot)
            for number in range(sent[index], len(queues[index])):
                send(elsewhere.scheduler, feed, queues[index][number], number + 1 == len(queues[index]))
                elsewhere.run()
            elsewhere.run()
            same(listener.said, alone[index])
    steps.run()
    for feed, said in zip(feeds, alone, strict=True):
        same(feed.owner.said, said)
    assert copies > 5


def same(said, expected):
    """Token for token; confidences but for the bits that the cutting into steps moves."""
    tokens = [[(token, frame) for token, frame, _ in segment] for segment in said]
    assert tokens == [[(token, frame) for token, frame, _ in segment] for segment in expected]
    confidences = [token[2] for segment in said for token in segment]
    assert confidences == pytest.approx([token[2] for segment in expected for token in segment], abs=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_slot_through_bytes_goes_on_bit_for_bit(zoo, dtype):  # noqa: F811
    model = adopt(zoo.build(HYBRID), HYBRID.name)
    engine, other = build(model, 2, dtype=dtype), build(model, 4, dtype=dtype)
    mode, geometry = Mode(model.info.look_aheads[0], "rnnt"), model.info.geometry
    signal = excerpt(2, 100_000)
    ends = [0, *(geometry.chunk_end(mode.look_ahead, chunk) for chunk in range(9))]
    engine.open(1, mode)
    for begin, end in pairwise(ends[:6]):
        engine.step([Row(1, signal[begin:end])])
    feed = FeedState(mode, [], False)
    found = decode(encode(Checkpoint("s", 0, 1, {}, engine.save(1), feed), PRINT), PRINT)
    other.open(3, mode)
    other.step([Row(3, signal[: ends[1]])])  # what was there before is gone
    other.load(3, found.slot)
    for begin, end in pairwise(ends[5:]):
        assert engine.step([Row(1, signal[begin:end])]) == other.step([Row(3, signal[begin:end])])
    for name, tensor in engine.save(1).tensors.items():
        assert torch.equal(tensor, other.save(3).tensors[name]), name


def test_the_same_model_loaded_again_has_the_same_fingerprint_and_any_other_has_not(zoo, quiet_nemo):  # noqa: F811
    def loaded():
        return load(str(DEMO_MODELS / "demo.nemo"), device="cpu")

    model = loaded()
    first = fingerprint(build(model, 2), model)
    assert first.model.startswith(model.info.model_id)
    again = loaded()
    assert fingerprint(build(again, 5), again) == first  # the number of slots does not matter
    assert fingerprint(build(model, 2, max_frames=14), model).layout != first.layout
    assert fingerprint(build(model, 2, dtype="bfloat16"), model).layout != first.layout
    reference = fingerprint(build(again, 2, "reference"), again)  # patches the model, not its weights
    assert reference.model == first.model
    assert reference.layout != first.layout
    named = load(str(DEMO_MODELS / "demo.nemo"), device="cpu", model_id=model.info.model_id)
    with torch.no_grad():
        next(named.nemo.decoder.parameters()).view(-1)[3] += 1e-3
    assert named.info == model.info
    assert fingerprint(build(named, 2), named).model != first.model
    stricter = loaded()
    stricter.nemo.cfg.decoding.greedy.max_symbols = 3
    assert fingerprint(build(stricter, 2), stricter).model != first.model

"""What a CUDA graph demands of a bucket's pass, checked without a GPU.

The same operations on the same buffers each time, nothing read back by the host, and nothing that differs from pass to
pass but in the static buffers.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.engine.models import CHUNKED, CHUNKED_BATCH_NORM, REGULAR_SKEWED, REGULAR_SYMMETRIC, Recipe, Zoo, uncompiled
from tests.engine.session import check, draw_session, oracle, perform
from worker.engine.fast.buckets import Bucket
from worker.engine.fast.engine import MAX_FRAMES, FastEngine
from worker.engine.fast.step import PassShape
from worker.engine.model import adopt

# aten operations whose result's shape or value the host must wait for
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "item", "bincount"}
SIGNALS = [(0, 40_000), (1, 25_680), (2, 61_077), (3, 0), (4, 700), (5, 80_000)]
ROUNDS = 5
RECORDED = 5  # buckets of a model: one takes a second


class Tape(TorchDispatchMode):
    """Every operation of a pass: name, the shape and layout of its tensors, all other arguments by value; of a tensor
    that no operation of the pass made, also the address."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, ...]] = []
        self._made: list[Tensor] = []  # kept, so that no address is used twice
        self._storages: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        assert name not in WAITING, f"the host waits for {name}"
        leaves, structure = tree_flatten((args, kwargs))
        self.operations.append((str(function), str(structure), *map(self._describe, leaves)))
        result = function(*args, **kwargs)
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, Tensor) and self._storage(leaf) not in self._outside(leaves):
                self._made.append(leaf)
                self._storages.add(self._storage(leaf))
        return result

    def _describe(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        own = self._storage(leaf) in self._storages
        return leaf.shape, leaf.stride(), leaf.dtype, "made" if own else leaf.data_ptr()

    def _outside(self, leaves: list[Any]) -> set[int]:
        """Storages of arguments that the pass did not make: a view of one, or one changed in place, stays outside."""
        tensors = (leaf for leaf in leaves if isinstance(leaf, Tensor))
        return {self._storage(tensor) for tensor in tensors} - self._storages

    @staticmethod
    def _storage(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()


class Stage:
    """A model's engine with all the buckets that some sessions need, and those sessions."""

    def __init__(self, zoo: Zoo, recipe: Recipe, max_frames: int = MAX_FRAMES) -> None:
        self.pair = zoo.pair(recipe)
        with uncompiled():
            self.engine = FastEngine(self.pair.model, 33, max_frames=max_frames, buckets=True)
        random = Random(str(recipe))
        self.sessions = [draw_session(random, SIGNALS) for _ in range(ROUNDS)]
        self.expected = oracle(self.pair.stock, self.pair.model.left_context)
        self.play()

    @property
    def buckets(self) -> dict[PassShape, Bucket]:
        assert self.engine._buckets is not None
        return self.engine._buckets.made

    def play(self) -> None:
        """All sessions, equal to NeMo offline."""
        for session in self.sessions:
            for signal, take in perform(self.engine, self.pair.modes, session):
                check(self.pair.stock, take, self.expected(signal, take.mode.look_ahead))


@pytest.mark.parametrize("recipe", [CHUNKED, REGULAR_SKEWED], ids=str)
def test_every_pass_of_a_bucket_is_the_same_operations_on_the_same_buffers(zoo: Zoo, recipe: Recipe) -> None:
    stage = Stage(zoo, recipe)
    tapes: dict[PassShape, list[list[tuple[Any, ...]]]] = {}
    numbers: dict[PassShape, set[tuple[int, ...]]] = {}

    def recorded(bucket: Bucket) -> Callable[[], Tensor]:
        run = bucket.run

        def record() -> Tensor:
            numbers.setdefault(bucket.shape, set()).add(tuple(bucket.numbers.flatten().tolist()))
            with Tape() as tape:
                result = run()
            tapes.setdefault(bucket.shape, []).append(tape.operations)
            return result

        return record

    for bucket in stage.buckets.values():
        bucket.run = recorded(bucket)
    stage.play()
    for shape, (first, *others) in tapes.items():
        assert len(first) > 50
        assert all(other == first for other in others), shape
    # they did differ in what they were given
    assert max(len(different) for different in numbers.values()) > 10
    assert sum(len(different) > 1 for different in numbers.values()) > 3


@pytest.mark.parametrize("recipe", [CHUNKED_BATCH_NORM, REGULAR_SYMMETRIC], ids=str)
def test_a_pass_recorded_once_serves_all_later_ones(zoo: Zoo, recipe: Recipe) -> None:
    """As a CUDA graph does: recorded from tensors without data, it knows nothing but addresses and shapes.

    And each replay gives its result in the same memory. Passes are short, so that a step has several of one bucket.
    """
    stage = Stage(zoo, recipe, max_frames=6)
    replays = 0

    def in_place(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        result = run()
        return lambda: result.copy_(run())

    def replay(bucket: Bucket) -> Callable[[], Tensor]:
        run = bucket.run
        recorded = make_fx(lambda _: run(), tracing_mode="fake", _allow_non_fake_inputs=True)(torch.zeros(1))

        def again() -> Tensor:
            nonlocal replays
            replays += 1
            return recorded(torch.zeros(1))

        return again

    with torch.inference_mode():
        for number, bucket in enumerate(stage.buckets.values()):
            bucket.run = in_place(replay(bucket) if number < RECORDED else bucket.run)
    stage.play()
    assert replays > 5 * RECORDED


@pytest.mark.parametrize("recipe", [CHUNKED, REGULAR_SKEWED], ids=str)
def test_a_pass_reads_no_data_and_touches_no_second_device(zoo: Zoo, recipe: Recipe) -> None:
    """On the meta device tensors have no data; one from the CPU beside them is an error, as it would be on CUDA."""
    meta = torch.device("meta")
    model = adopt(zoo.build(recipe), recipe.name)
    model.nemo.to(meta)
    engine = FastEngine(replace(model, device=meta), 4, buckets=True)
    assert engine._buckets is not None
    for look_ahead in model.info.look_aheads:
        for ends in (False, True):
            shape = engine._buckets.shape(look_ahead, 3, look_ahead + 1, ends, 28)
            bucket = Bucket(engine._step, shape, 4, meta)
            assert bucket.run().shape == (4, shape.layers[-1].outputs, engine._step.width)

"""What one stream takes in memory, against arithmetic from the model's sizes."""

import pytest
import torch

from tests.engine.models import Pair
from worker.engine.fast.engine import MAX_FRAMES, FastEngine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "left", "right", "conv", "published"),
    [
        ("demo", 70, 0, (8, 0), {torch.float32: 1_080_648, torch.bfloat16: 541_992}),
        ("regular", 20, 2, (4, 4), {torch.float32: 2_387_592, torch.bfloat16: 1_194_600}),
    ],
    ids=["demo", "regular"],
)
def test_a_slot_is_the_sum_of_its_parts(
    name: str,
    left: int,
    right: int,
    conv: tuple[int, int],
    published: dict[torch.dtype, int],
    dtype: torch.dtype,
    request: pytest.FixtureRequest,
) -> None:
    pair: Pair = request.getfixturevalue(name)
    layers, width, bands, channels, predictor = 8, 144, 80, 32, 144
    slack = MAX_FRAMES + layers * (right + conv[1])
    kept = layers * (left + right + slack) * 2 * width + layers * (sum(conv) + slack) * width
    if right + conv[1]:
        kept += layers * (right + slack) * 2 * width + layers * (conv[1] + slack) * width
    halved = bands // 2 + 1
    kept += bands + channels * (halved + halved // 2 + 1)
    decoders = 3 * predictor * 4 + 8 if name == "demo" else 8
    expected = kept * dtype.itemsize + 400 * 4 + decoders
    assert FastEngine(pair.model, 1, dtype).bytes_per_slot() == expected == published[dtype]


@pytest.mark.parametrize(
    ("name", "left", "recompute", "conv_left", "published"),
    [("demo", 70, 0, 8, 365_640), ("regular", 20, 8 * (2 + 4), 4, 237_960)],
    ids=["demo", "regular"],
)
def test_a_slot_of_the_reference_engine_is_the_sum_of_its_parts(
    name: str, left: int, recompute: int, conv_left: int, published: int, request: pytest.FixtureRequest
) -> None:
    pair: Pair = request.getfixturevalue(name)
    layers, width, bands, predictor = 8, 144, 80, 144
    kept = layers * width * (left + conv_left) + bands * (9 + 8 * recompute) + 400
    decoders = 3 * predictor * 4 + 8 if name == "demo" else 8
    assert pair.reference.bytes_per_slot() == 4 * kept + decoders == published

"""Models shared by all engine tests: importing NeMo takes half a minute, so everything is made once."""

import logging
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.conftest import require

require(find_spec("torch") and find_spec("nemo"), "the engine needs the worker extra (torch, NeMo)")

import torch  # noqa: E402

from tests.engine.models import DEMO_MODELS, Pair, Zoo, unpack_tokenizer  # noqa: E402
from worker.engine.model import load  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def quiet_nemo() -> Iterator[None]:
    """NeMo imported once, without its log, on one thread.

    Small models gain nothing from a second thread, and two that wait for each other on a busy machine of two cores
    make these tests three times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    import nemo.collections.asr  # noqa: F401

    logging.getLogger("nemo_logger").setLevel(logging.ERROR)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory, quiet_nemo: None) -> Zoo:
    return Zoo(unpack_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="session", params=["reference", "fast", "buckets"])
def kind(request: pytest.FixtureRequest) -> str:
    """Every engine keeps the same contract; the fast one also with padding to static shapes and PyTorch's operations,
    as on CUDA."""
    return str(request.param)


def _shipped(name: str) -> Pair:
    path = str(DEMO_MODELS / f"{name}.nemo")
    return Pair(load(path, device="cpu"), load(path, device="cpu").nemo)


@pytest.fixture(scope="session")
def demo(quiet_nemo: None) -> Pair:
    """The chunked hybrid model that ships with the project."""
    return _shipped("demo")


@pytest.fixture(scope="session")
def regular(quiet_nemo: None) -> Pair:
    """The `regular` CTC model that ships with the project."""
    return _shipped("regular")

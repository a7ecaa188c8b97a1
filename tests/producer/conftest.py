from collections.abc import Iterator

import pytest

from deploy.kafka import KafkaUnavailable, LocalKafka
from tests.conftest import require


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalKafka]:
    """A broker of a module's own, to be stopped and killed."""
    try:
        with LocalKafka() as started:
            yield started
    except KafkaUnavailable as missing:
        require(False, str(missing))

"""A short run of what `make chaos` does for minutes."""

import pytest

from deploy.kafka import KafkaUnavailable
from deploy.redis import RedisUnavailable
from deploy.toxiproxy import ToxiproxyUnavailable
from deploy.zygote import Zygote
from tests.chaos.run import Plan, run
from tests.conftest import require

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PLAN = Plan(seed=8, minutes=0.5, kills=6, cold=1, calls=8)


@pytest.mark.timeout(600)
def test_what_is_read_under_fire_is_what_an_undisturbed_worker_tells() -> None:
    try:
        with Zygote() as zygote:
            result = run(PLAN, zygote)
    except (KafkaUnavailable, RedisUnavailable, ToxiproxyUnavailable) as missing:
        require(False, str(missing))
        raise
    verdict = result.verdict
    assert (verdict.lost, verdict.doubled, verdict.differing) == (0, 0, 0), verdict.first
    assert not result.crashes
    assert result.kills >= PLAN.kills
    assert result.rebalances > 3
    assert len(result.recoveries) > 3
    assert result.calls > PLAN.calls
    assert result.finals > 3 * result.calls

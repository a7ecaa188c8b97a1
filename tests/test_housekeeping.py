"""The lag of a partition, as callers feel it. Times are in ms; `NOW` is an hour after what was said last."""

import pytest

from worker.housekeeping import lag

HOUR, NOW = 3_600_000, 1_700_000_000_000


@pytest.mark.parametrize(
    ("unheard", "read", "caught_up", "seconds"),
    [
        (None, None, None, 0),  # nothing was ever there
        (None, NOW - HOUR, NOW, 0),  # all is heard
        (NOW - 700, NOW - 100, NOW, 0.7),  # the engine has the rest
        (NOW - 9_000, NOW - 8_000, NOW - 20_000, 9),  # it falls behind, and so does reading
        (None, NOW - 8_000, NOW - 20_000, 8),  # reading falls behind: what comes next is younger than what was read
        (None, NOW - 8_000, None, 8),  # from the start on
        (None, NOW - HOUR, NOW - 5_000, 5),  # nobody spoke, and the broker has not answered for five seconds
        (None, NOW + 400, NOW, 0),  # the producer's clock is ahead
    ],
)
def test_lag_is_the_age_of_what_may_wait(unheard, read, caught_up, seconds):
    assert lag(NOW, unheard, read, caught_up) == pytest.approx(seconds)

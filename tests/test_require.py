import pytest

from tests.conftest import require


def test_a_missing_part_is_a_skip_with_its_reason(monkeypatch):
    monkeypatch.delenv("TRUNKLINE_TESTS_NO_SKIP", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such part"):
        require(False, "no such part")


def test_a_missing_part_is_a_failure_where_skipping_is_not_allowed(monkeypatch):
    monkeypatch.setenv("TRUNKLINE_TESTS_NO_SKIP", "1")
    require(True, "it is there")
    with pytest.raises(pytest.fail.Exception, match="no such part"):
        require(False, "no such part")

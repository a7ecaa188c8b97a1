"""Every package of every lock is pinned with its hashes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("lock", ["requirements.lock", "deploy/worker.lock", "deploy/producer.lock"])
def test_each_package_has_a_version_and_hashes(lock):
    entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"[\w.\-]+==\S+", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry

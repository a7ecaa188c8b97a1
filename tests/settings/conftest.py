"""Settings from a test's own environment and file only."""

import os

import pytest

from worker.settings import PREFIX


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def yaml(tmp_path):
    """Write a YAML file; returns the flags that name it."""

    def write(text):
        path = tmp_path / "worker.yaml"
        path.write_text(text)
        return ["--config", str(path)]

    return write

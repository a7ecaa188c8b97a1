"""The engine tests' random models serve here too."""

from tests.engine.conftest import quiet_nemo, zoo  # noqa: F401

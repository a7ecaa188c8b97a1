"""What this worker is made of."""

import platform
from importlib.metadata import PackageNotFoundError, version

# label of trunkline_build_info -> distribution
PARTS = {"version": "trunkline", "torch": "torch", "nemo": "nemo_toolkit", "aiokafka": "aiokafka"}


def build_info() -> dict[str, str]:
    """Versions by label; `unknown` for what is not installed as a distribution."""
    return {label: _version(name) for label, name in PARTS.items()} | {"python": platform.python_version()}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"

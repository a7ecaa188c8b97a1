"""`trunkline worker`: run one worker; `trunkline worker drain`: stop one."""

import asyncio
import logging
import sys
from collections.abc import Sequence

from worker import drain
from worker.engine.interface import ModelUnavailable, UnsupportedModel
from worker.service import Service
from worker.settings import Settings, SettingsError, load
from worker.starting import StartError

EXIT_SETTINGS = 2


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 drained after SIGTERM or Ctrl-C, 1 could not start or a fault, 2 wrong settings."""
    if argv[:1] == ["drain"]:
        return drain.main(argv[1:])
    try:
        settings = load(argv)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    return run(settings)


def run(settings: Settings) -> int:
    """Run a worker until it is told to stop."""
    logging.basicConfig(
        level=settings.telemetry.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        return asyncio.run(Service(settings).run())
    except (StartError, ModelUnavailable, UnsupportedModel) as error:
        print(f"trunkline worker: {error}", file=sys.stderr)
        return 1

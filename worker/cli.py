"""`trunkline worker`: run one worker; `trunkline worker drain`: stop one."""

import asyncio
import logging
import sys
from collections.abc import Sequence

from producer.tracing import TracingUnavailable
from worker import config_cli, drain
from worker.engine.interface import ModelUnavailable, UnsupportedModel
from worker.service import Service
from worker.settings import Settings
from worker.sources import SettingsError, load
from worker.starting import StartError
from worker.telemetry import logs

log = logging.getLogger(__name__)

EXIT_SETTINGS = 2


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 drained after SIGTERM or Ctrl-C, 1 could not start or a fault, 2 wrong settings."""
    if argv[:1] == ["drain"]:
        return drain.main(argv[1:])
    if argv[:1] == ["config"]:
        return config_cli.main(argv[1:])
    try:
        settings = load(argv)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    return run(settings)


def run(settings: Settings) -> int:
    """Run a worker until it is told to stop."""
    logs.set_up(settings.telemetry)
    try:
        return asyncio.run(Service(settings).run())
    except (StartError, ModelUnavailable, UnsupportedModel, TracingUnavailable) as error:
        log.critical("%s", error)
        return 1

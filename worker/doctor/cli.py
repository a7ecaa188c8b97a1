"""`trunkline doctor`: whether a worker with these settings could work here, and what to do where it could not."""

import argparse
import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence

from worker.doctor import machine
from worker.doctor.cluster import Cluster
from worker.doctor.finding import Finding, error
from worker.ingest import topics
from worker.settings import Settings
from worker.sources import SettingsError, load

OK, ERRORS = 0, 1
LONGEST_CALL_H = 4.0

EPILOG = """\
All settings of `trunkline worker` are taken here, too, from flags, environment and file. One line is printed for each
check: ok, warning, error or skipped, and what to do. Nothing is changed: a transaction is begun and aborted, and a key
is put in Redis and deleted.

exit codes: 0 no errors, 1 an error, wrong settings among them, 2 wrong usage
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="trunkline doctor",
        description="Check whether a worker with these settings could work here: broker, topics, ACLs, retention, "
        "Redis, model, device, compiled operations, clock.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--longest-call", type=float, default=LONGEST_CALL_H, metavar="H", help="hours; default: %(default)g"
    )
    parser.add_argument("--load-model", action="store_true", help="load the model and make a step: half a minute more")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options, rest = parser.parse_known_args(list(argv))
    logging.basicConfig(level=logging.CRITICAL)
    found = asyncio.run(_show(options, rest))
    if not options.json:
        errors, warnings = (sum(each.level == level for each in found) for level in ("error", "warning"))
        print(f"\n{errors} errors, {warnings} warnings")
    return ERRORS if any(each.level == "error" for each in found) else OK


async def _show(options: argparse.Namespace, rest: list[str]) -> list[Finding]:
    """Each finding as soon as it is made: the slow ones come last."""
    found = []
    async for finding in _checks(options, rest):
        print(json.dumps(finding.fields()) if options.json else finding, flush=True)
        found.append(finding)
    return found


async def _checks(options: argparse.Namespace, rest: list[str]) -> AsyncIterator[Finding]:
    try:
        settings = load(rest)
    except SettingsError as wrong:
        for problem in wrong.problems:
            yield error("settings", problem, "mend it; `trunkline worker config` shows what is in effect")
        return
    async for finding in Cluster(settings.kafka, 3600 * options.longest_call).check():
        yield finding
    for finding in await machine.store(settings.state, await _retention_s(settings)):
        yield finding
    yield machine.device(settings.model)
    yield machine.operations(settings.model)
    yield await machine.loaded(settings) if options.load_model else machine.model(settings.model)


async def _retention_s(settings: Settings) -> float | None:
    """Of the audio topic; None if it cannot be read."""
    if settings.state.store == "device":
        return None
    name = settings.kafka.audio_topic
    try:
        async with asyncio.timeout(settings.kafka.request_timeout_ms / 1000):
            state = (await topics.describe([name], **settings.kafka.client())).get(name)
    except Exception:  # said already
        return None
    kept = int((state.config["retention.ms"] if state else None) or -1)
    return kept / 1000 if kept >= 0 else None

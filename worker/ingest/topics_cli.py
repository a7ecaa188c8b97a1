"""`trunkline topics create|check|list`."""

import argparse
import asyncio
import logging
import sys
from dataclasses import astuple, fields
from typing import Any

from aiokafka.errors import KafkaError

from producer.flags import EPILOG, add_kafka_flags, cluster
from producer.reach import Unreachable, reach
from producer.security import SecurityError
from wire.topics import Topics, specs
from worker.ingest import topics as admin

_EPILOG = f"Exit codes: 0 all is well, 1 a problem (said on stderr), 2 wrong usage. {EPILOG}"
START_TIMEOUT_S = 15.0


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    topics = Topics(**{field.name: getattr(options, field.name) for field in fields(Topics)})
    try:
        client = cluster(options).client()
    except SecurityError as error:
        parser.error(str(error))
    # the client's own words about attempts would stand beside ours about the outcome
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        asyncio.run(reach(client, START_TIMEOUT_S))
        if options.command == "create":
            return asyncio.run(_create(topics, options.partitions, options.replication_factor, client))
        if options.command == "check":
            return asyncio.run(_check(topics, client))
        return asyncio.run(_list(topics, client))
    except (Unreachable, KafkaError, TimeoutError, ValueError) as error:  # ValueError: an address that is none
        print(f"Kafka at {options.bootstrap_servers}: {error or type(error).__name__}", file=sys.stderr)
        return 1


async def _create(topics: Topics, partitions: int, replication: int, client: dict[str, Any]) -> int:
    report = await admin.create(specs(topics, partitions, replication), **client)
    for name in report.created:
        print(f"{name}: created, {partitions} partitions")
    for name in report.existing:
        print(f"{name}: exists")
    for difference in report.differences:
        print(difference, file=sys.stderr)
    return await _check(topics, client)


async def _check(topics: Topics, client: dict[str, Any]) -> int:
    problems = await admin.check(topics, **client)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print("The worker can run on these topics.")
    return 1 if problems else 0


async def _list(topics: Topics, client: dict[str, Any]) -> int:
    found = await admin.describe(astuple(topics), **client)
    for name in astuple(topics):
        if state := found.get(name):
            shape = f"partitions={state.partitions} replicas={state.replication}"
            print(f"{name}  {shape} cleanup.policy={state.config.get('cleanup.policy')}")
        else:
            print(f"{name}  missing")
    return 0 if len(found) == len(fields(Topics)) else 1


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    add_kafka_flags(shared)
    for topic in fields(Topics):
        shared.add_argument(f"--{topic.name}", metavar="TOPIC", default=topic.default, help="(default: %(default)s)")

    parser = argparse.ArgumentParser(
        prog="trunkline topics", description="The topics that Trunkline reads and writes.", epilog=_EPILOG
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create = commands.add_parser(
        "create",
        parents=[shared],
        epilog=_EPILOG,
        help="create the topics that are missing",
        description="Create the topics that are missing, with the settings that the worker needs. Topics "
        "that exist are left as they are; what differs is said.",
    )
    create.add_argument(
        "--partitions",
        type=_positive,
        default=12,
        help="partitions of every topic; bounds the number of workers (default: %(default)s)",
    )
    create.add_argument(
        "--replication-factor",
        type=_positive,
        default=1,
        help="copies; 3 in production (default: %(default)s)",
    )
    commands.add_parser(
        "check",
        parents=[shared],
        epilog=_EPILOG,
        help="say whether the worker can run on them",
        description="Check what the worker checks at its start.",
    )
    commands.add_parser(
        "list",
        parents=[shared],
        epilog=_EPILOG,
        help="show the topics as they are",
        description="Show the topics as they are; exit code 1 when one is missing.",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)

"""`trunkline tail`: follow transcripts as they are made."""

from __future__ import annotations

import argparse
import asyncio
import logging
import select
import signal
import sys

from producer.flags import EPILOG as SECURITY
from producer.flags import add_kafka_flags, cluster
from producer.output import mute, say, terminal
from producer.security import SecurityError
from trunkline.follow import Follower, FollowError
from trunkline.view import JsonLines, Lines, Terminal, View
from wire import Topics, WireError

OK, FAILED, USAGE = 0, 1, 2

EPILOG = """\
On a terminal the words being recognised are overwritten in place until they are final; elsewhere each event is a
line. Finals are read as read_committed shows them, each event once.

exit codes:
  0    with --until-end: the stream or the call has ended. Also when the reader of a pipe has gone
  1    Kafka was not reached or cannot be read, a topic is missing or was deleted, or the output cannot be written
  2    wrong usage
  130  ended by Ctrl-C, 143 by SIGTERM

examples:
  trunkline tail                                      all calls, from now on
  trunkline tail --call call-17                       both channels of one call
  trunkline tail --stream call-17/0 --from-beginning --until-end
  trunkline tail --json | jq -r 'select(.type == "utterance") | .text'
"""


def main(argv: list[str]) -> int:
    """Run the command with its arguments; return its exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if "" in (options.stream, options.call):
        parser.error("an id has at least one character")
    if options.until_end and not (options.stream or options.call):
        parser.error("--until-end needs --stream or --call")
    try:
        options.cluster = cluster(options)
    except SecurityError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("aiokafka", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if sys.stdout is None:
        say("trunkline tail: standard output is closed")
        return FAILED
    ended_by: list[int] = []
    try:
        asyncio.run(_follow(options, ended_by))
    except asyncio.CancelledError:
        return 128 + ended_by[0]
    except OSError as error:  # Kafka's are FollowErrors
        mute(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return OK
        say(f"trunkline tail: standard output: {error.strerror}")
        return FAILED
    except WireError as error:
        say(f"trunkline tail: {error}")
        return USAGE
    except FollowError as error:
        say(f"trunkline tail: {error}")
        return FAILED
    return OK


async def _follow(options: argparse.Namespace, ended_by: list[int]) -> None:
    task = asyncio.current_task()
    assert task is not None

    def stop(number: int) -> None:
        ended_by.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    console = None if options.json else terminal()
    partials = console is not None if options.partials is None else options.partials
    follower = Follower(
        options.cluster.bootstrap_servers,
        Topics(final=options.final_topic, partial=options.partial_topic),
        stream=options.stream,
        call=options.call,
        from_beginning=options.from_beginning,
        partials=partials,
        security=options.cluster.security,
    )
    async with follower:
        what = f"stream {options.stream}" if options.stream else f"call {options.call}" if options.call else "all calls"
        since = "from the topic's beginning" if options.from_beginning else "from now on"
        say(f"following {what} {since}")
        view = JsonLines() if options.json else Terminal(console) if console else Lines()
        try:
            await _show(follower, view, options.until_end)
        finally:
            view.close()


async def _show(follower: Follower, view: View, until_end: bool) -> None:
    """Until the end, if that is asked for. Raises BrokenPipeError when the reader has gone."""
    hangup = select.poll()
    hangup.register(sys.stdout.fileno(), 0)
    while True:
        for told in await follower.next(0.25):
            view.show(told.event)
        if until_end and follower.ended:
            return
        # `tail | head -1` should end when head does, not with the next event
        if any(state & select.POLLERR for _, state in hangup.poll(0)):
            raise BrokenPipeError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trunkline tail",
        description="Follow transcripts as they are made: all calls, one call or one stream.",
        epilog=f"{EPILOG}\n{SECURITY}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stream", metavar="ID", help="one stream, such as call-17/0; reads its partition only")
    which.add_argument("--call", metavar="ID", help="all streams of one call")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, with the fields of docs/wire.md and `type`"
    )
    parser.add_argument("--from-beginning", action="store_true", help="finals from the topic's beginning, then on")
    parser.add_argument(
        "--partials",
        action=argparse.BooleanOptionalAction,
        help="hypotheses before they are final, from now on; default: on a terminal yes, else no",
    )
    parser.add_argument(
        "--until-end",
        action="store_true",
        help="end when the stream has ended; with --call, when all its streams that were heard of have, and 3 s passed",
    )
    add_kafka_flags(parser)
    parser.add_argument("--final-topic", default=Topics().final, metavar="NAME", help="default: %(default)s")
    parser.add_argument("--partial-topic", default=Topics().partial, metavar="NAME", help="default: %(default)s")
    return parser

"""`trunkline produce`: audio files onto Kafka."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from producer.audio import AudioFile, UnsupportedAudio, find
from producer.client import Producer, ProducerError
from producer.play import Progress as CallProgress
from producer.play import Source, Style, play, sources
from wire.fields import WireError
from wire.records import ENCODINGS, Scalar
from wire.topics import Topics

OK, NOT_DELIVERED, USAGE = 0, 1, 2
# More bars than this do not fit a screen: then one bar stands for all calls.
MOST_BARS = 20

EXIT_CODES = """\
exit codes:
  0    every call was played and every record is confirmed by Kafka
  1    Kafka was not reached, or some audio is not confirmed (the message says which)
  2    wrong usage, or a file that cannot be played
  130  ended by Ctrl-C, 143 by SIGTERM: the calls were ended in good order

examples:
  trunkline produce call.wav
  trunkline produce recordings/ --speed 4 --channel-names agent,customer
  trunkline produce recordings/ --calls 200 --speed max --metadata site=oslo
"""


def main(argv: list[str]) -> int:
    """Run the command with its arguments; return its exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        calls = _calls(options)
    except UnsupportedAudio as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return USAGE
    style = Style(
        speed=options.speed,
        chunk_ms=options.chunk_ms,
        encoding=options.encoding,
        language=options.language,
        channel_names=options.channel_names,
        metadata=dict(options.metadata),
    )
    ended_by: list[signal.Signals] = []
    try:
        results = asyncio.run(_run(options, calls, style, ended_by))
    except asyncio.CancelledError:
        print("interrupted: the calls were ended", file=sys.stderr)
        return 128 + ended_by[0]
    except KeyboardInterrupt:
        print("interrupted twice: calls may lack their end", file=sys.stderr)
        return 128 + signal.SIGINT
    except WireError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return USAGE
    except ProducerError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return NOT_DELIVERED
    return _report(results)


def _calls(options: argparse.Namespace) -> list[Source]:
    """The calls to play. Raises UnsupportedAudio for a file that cannot be played."""
    files = find(options.paths)
    for path in files:
        AudioFile(path).close()
    return sources(files, options.calls, options.prefix)


async def _run(
    options: argparse.Namespace, calls: list[Source], style: Style, ended_by: list[signal.Signals]
) -> list[CallProgress]:
    task = asyncio.current_task()
    assert task is not None

    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        ended_by.append(number)
        task.cancel()
        # A second one ends the process at once, should Kafka not answer.
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    async with Producer(options.bootstrap_servers, options.topic) as producer:
        with _display(calls) as display:
            return await play(producer, calls, style, display)


def _report(results: list[CallProgress]) -> int:
    failed = [result for result in results if result.error]
    for result in failed:
        print(f"{result.source.call_id}: {result.error}", file=sys.stderr)
    seconds = sum(result.seconds * result.streams for result in results)
    streams = sum(result.streams for result in results)
    print(
        f"{len(results)} calls, {streams} streams, {seconds:.1f} s of audio: "
        + (f"{len(failed)} calls failed" if failed else "all confirmed")
    )
    return NOT_DELIVERED if failed else OK


@contextmanager
def _display(calls: Sequence[Source]) -> Iterator[Callable[[CallProgress], None]]:
    console = Console()
    if not console.is_terminal:
        yield _print_ends
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:.1f} s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars, calls)


def _print_ends(progress: CallProgress) -> None:
    if progress.done:
        state = "failed" if progress.error else "confirmed"
        print(f"{progress.source.call_id}: {progress.seconds:.1f} of {progress.total:.1f} s {state}", flush=True)


class _Bars:
    """One bar a call, or one for all when they are many."""

    def __init__(self, bars: Progress, calls: Sequence[Source]) -> None:
        self._bars = bars
        self._each: dict[str, TaskID] = {}
        self._seen: dict[str, tuple[float, float]] = {}
        self._sum = (0.0, 0.0)
        if len(calls) <= MOST_BARS:
            self._each = {call.call_id: bars.add_task(escape(call.call_id), total=0.0) for call in calls}
        else:
            self._all = bars.add_task(f"{len(calls)} calls", total=0.0)

    def __call__(self, progress: CallProgress) -> None:
        call_id = progress.source.call_id
        if self._each:
            color = "red" if progress.error else "green" if progress.done else "default"
            self._bars.update(
                self._each[call_id],
                completed=progress.seconds,
                total=progress.total,
                description=f"[{color}]{escape(call_id)}",
            )
            return
        seconds, total = self._seen.get(call_id, (0.0, 0.0))
        self._seen[call_id] = progress.seconds, progress.total
        self._sum = self._sum[0] + progress.seconds - seconds, self._sum[1] + progress.total - total
        self._bars.update(self._all, completed=self._sum[0], total=self._sum[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trunkline produce",
        description="Play audio files into Kafka as live calls. Each channel of a file is its own stream.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="FILE_OR_DIR",
        help="WAV, FLAC or OGG; a directory with all below it",
    )
    parser.add_argument(
        "--bootstrap-servers",
        default=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        metavar="HOST:PORT",
        help="Kafka; default: KAFKA_BOOTSTRAP_SERVERS, else localhost:9092",
    )
    parser.add_argument("--topic", default=Topics().audio, help="default: %(default)s")
    parser.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="N|max",
        help="1 is real time (default), max as fast as it goes",
    )
    parser.add_argument(
        "--calls",
        type=_whole(1, 1_000_000),
        metavar="N",
        help="play N calls at once, repeating files as needed",
    )
    parser.add_argument("--encoding", choices=ENCODINGS, default="pcm_s16le", help="default: %(default)s")
    parser.add_argument(
        "--chunk-ms",
        type=_whole(10, 1000),
        default=100,
        metavar="MS",
        help="audio of a record; default: %(default)s",
    )
    parser.add_argument("--language", metavar="TAG", help="for example en-US; comes back with the transcripts")
    parser.add_argument("--prefix", default="", help="put before the call ids, which are the files' names")
    parser.add_argument(
        "--metadata",
        type=_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="comes back with the transcripts; may be given several times",
    )
    parser.add_argument(
        "--channel-names",
        type=lambda text: text.split(","),
        default=[],
        metavar="A,B",
        help="names of the channels, for example agent,customer; default: 0,1",
    )
    return parser


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number or max")
    return speed


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return number

    return parse


def _pair(text: str) -> tuple[str, Scalar]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value

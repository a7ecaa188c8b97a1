"""`trunkline produce`: recordings and live audio onto Kafka."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
from dataclasses import replace

from producer import tracing
from producer.audio import UnsupportedAudio, find
from producer.client import Producer, ProducerError
from producer.options import parse
from producer.output import say, tell, terminal
from producer.play import Progress, Source, Style, play, sources
from producer.raw import STDIN
from producer.show import display, log_to_stderr, watch
from wire.fields import WireError

OK, NOT_CONFIRMED, USAGE = 0, 1, 2
# What a process has open beside its calls' files: standard streams, modules, brokers.
OTHER_FILES = 64


def main(argv: list[str]) -> int:
    """Run the command with its arguments; return its exit code."""
    options = parse(argv)
    log_to_stderr()
    try:
        calls = _calls(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except UnsupportedAudio as error:
        say(f"trunkline produce: {error}")
        return USAGE
    style = Style(
        speed=options.speed,
        chunk_ms=options.chunk_ms,
        encoding=options.encoding,
        language=options.language,
        channel_names=options.channel_names,
        metadata=dict(options.metadata),
        when_full=options.when_full,
    )
    interrupt = _Interrupt()
    try:
        results = asyncio.run(_run(options, calls, style, interrupt))
    except asyncio.CancelledError:
        return interrupt.code  # before anything was sent
    except WireError as error:
        say(f"trunkline produce: {error}")
        return USAGE
    except (ProducerError, tracing.TracingUnavailable) as error:
        say(f"trunkline produce: {error}")
        return NOT_CONFIRMED
    return _report(results) or interrupt.code


def _calls(options: argparse.Namespace) -> list[Source]:
    """The calls to play. Raises UnsupportedAudio for a file that cannot be played, or for too many at once."""
    files = [path for given in options.paths for path in ([given] if given == STDIN else find([given]))]
    calls = sources(files, options.calls, options.prefix, options.raw)
    if options.call_id is not None:
        calls = [replace(calls[0], call_id=options.prefix + options.call_id)]
    for path in dict.fromkeys(files):
        source = Source("", path, options.raw)
        if not source.is_live:
            with source.open() as sound:
                if sound.warning:
                    say(sound.warning)
    _allow_files(len(calls))
    return calls


async def _run(options: argparse.Namespace, calls: list[Source], style: Style, interrupt: _Interrupt) -> list[Progress]:
    interrupt.listen()
    traces = tracing.provider(options.traces, "trunkline-produce")
    producer = Producer(
        options.cluster.bootstrap_servers,
        options.topic,
        security=options.cluster.security,
        tracer_provider=traces,
        delivery_timeout=options.delivery_timeout,
        queue_bytes=options.queue_mb * 2**20,
    )
    async with producer:
        interrupt.starting = None
        watching = asyncio.create_task(watch(producer))
        try:
            with display(calls) as shown:
                return await play(producer, calls, style, shown, interrupt.stop)
        finally:
            watching.cancel()
            if traces is not None:
                await asyncio.to_thread(traces.shutdown)


class _Interrupt:
    """Ctrl-C and SIGTERM: the first ends the calls and waits for Kafka, the second ends the process at once."""

    def __init__(self) -> None:
        self.code = OK
        self.starting: asyncio.Task[object] | None = None  # what to cancel while there is no call yet
        self.stop = asyncio.Event()

    def listen(self) -> None:
        self.starting = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._heard, number)

    def _heard(self, number: signal.Signals) -> None:
        if self.code:
            say("interrupted twice: calls may lack their end")
            if console := terminal():
                console.show_cursor()  # the bars hide it
            os._exit(self.code)
        self.code = 128 + number
        say("interrupted: ending the calls (once more stops at once)")
        if self.starting is not None:
            self.starting.cancel()
        self.stop.set()


def _allow_files(count: int) -> None:
    """Let this process have `count` files open at once. Raises UnsupportedAudio where the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + OTHER_FILES
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return
    if needed > hard != resource.RLIM_INFINITY:
        raise UnsupportedAudio(
            f"too many open files: {count} calls at once keep {count} files open, and this process may open {hard} "
            "(see ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _report(results: list[Progress]) -> int:
    failed = [result for result in results if result.error]
    for result in failed:
        say(f"{result.source.call_id}: {str(result.error) or repr(result.error)}")
        for note in getattr(result.error, "__notes__", ()):
            say(f"{result.source.call_id}: {note}")
    dropped = [result for result in results if result.dropped]
    for result in dropped:
        say(f"{result.source.call_id}: {result.dropped:.1f} s of audio were dropped, since the queue was full")
    seconds = sum(result.seconds * result.streams for result in results)
    streams = sum(result.streams for result in results)
    what = [f"{len(failed)} calls failed"] if failed else []
    what += [f"{len(dropped)} calls lack audio"] if dropped else []
    tell(f"{len(results)} calls, {streams} streams, {seconds:.1f} s of audio: {', '.join(what) or 'all confirmed'}")
    return NOT_CONFIRMED if failed or dropped else OK

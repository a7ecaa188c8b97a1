"""`make demo`: Kafka, a worker and ten live calls on this machine; watch the transcripts grow.

Everything is real: Apache Kafka, the worker, the producer library, calls in real time. Ends with the word error
rate, the delay of the transcripts, and one JSON object on the last line.
"""

import argparse
import asyncio
import json
import sys
import time
import uuid
from dataclasses import astuple

from aiokafka.errors import KafkaError
from rich.console import Console

from demo import MODEL
from demo.follow import Follower
from demo.score import CALLS, percentile, word_error_rate
from demo.show import Screen
from deploy.kafka import KafkaUnavailable, broker
from deploy.worker import LocalWorker
from producer import Producer
from producer.play import Progress, Style, play, sources
from wire import Topics, specs
from worker.ingest import topics as admin

PARTITIONS = 8
TAIL_TIMEOUT_S = 60.0  # from the last call's end to its last event


def main() -> int:
    options = _options()
    console = Console(stderr=False)
    began = time.monotonic()
    servers = ""
    try:
        console.print("Starting Apache Kafka (the first time, Maven fetches it) ...")
        with broker() as servers:
            return asyncio.run(_demo(servers, options, console, began))
    except KafkaError as error:
        _failed(console, f"Kafka at {servers} cannot be used: {error}")
        return 1
    except (KafkaUnavailable, RuntimeError, TimeoutError) as error:
        _failed(console, f"{error or type(error).__name__}")
        return 1
    except KeyboardInterrupt:
        return 130


def _failed(console: Console, why: str) -> None:
    console.print(f"The demo failed: {why}", style="red", markup=False, soft_wrap=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=10, help="calls at once, two streams each (default: 10)")
    parser.add_argument("--speed", type=float, default=1.0, help="1 is real time (default)")
    parser.add_argument("--look-ahead", type=int, default=6, help="13, 6, 1 or 0 frames of 80 ms (default: 6)")
    return parser.parse_args()


async def _demo(servers: str, options: argparse.Namespace, console: Console, began: float) -> int:
    # names of this run's own: on a cluster that is in use nothing else is touched
    tag = uuid.uuid4().hex[:6]
    topics = Topics(*(f"{name}.demo-{tag}" for name in astuple(Topics())))
    await admin.create(specs(topics, PARTITIONS), bootstrap_servers=servers)
    console.print("Starting a worker; loading NeMo takes most of a minute the first time ...")
    settings = {"model.look_ahead": options.look_ahead}
    worker = LocalWorker(servers, topics, MODEL, group=f"demo-{tag}", settings=settings)
    try:
        await asyncio.to_thread(worker.start)
        return await _play(servers, topics, worker, options, console, began)
    finally:
        await asyncio.to_thread(worker.stop)
        await admin.delete(astuple(topics), bootstrap_servers=servers)


async def _play(
    servers: str,
    topics: Topics,
    worker: LocalWorker,
    options: argparse.Namespace,
    console: Console,
    began: float,
) -> int:
    calls = sources(sorted(CALLS.glob("*.flac")), options.calls)
    streams = [f"{call.call_id}/{channel}" for call in calls for channel in (0, 1)]
    console.print(f"Ready after {time.monotonic() - began:.0f} s. Playing {len(calls)} calls ({len(streams)} streams).")
    follower = Follower(servers, topics)
    await follower.start()
    seconds: dict[str, float] = {}

    def progress(step: Progress) -> None:
        seconds[step.source.call_id] = step.seconds

    screen = asyncio.create_task(
        Screen(console, follower.transcripts, lambda stream: seconds.get(stream.rpartition("/")[0], 0.0)).run()
    )
    try:
        async with Producer(servers, topic=topics.audio) as producer:
            style = Style(speed=options.speed, language="en", channel_names=("agent", "customer"))
            played = await play(producer, calls, style, progress)
        for call in played:
            if call.error is not None:
                raise RuntimeError(f"{call.source.call_id} was not delivered: {call.error}")
        await follower.ended(streams, TAIL_TIMEOUT_S)
    except TimeoutError:
        missing = [s for s in streams if s not in follower.transcripts or not follower.transcripts[s].ended]
        raise RuntimeError(f"no end of {', '.join(missing)} in time; worker log:\n{worker.log_tail()}") from None
    finally:
        await asyncio.sleep(0.3)
        screen.cancel()
        await asyncio.gather(screen, return_exceptions=True)
        await follower.stop()
    return _report(follower, calls=len(calls), console=console)


def _report(follower: Follower, calls: int, console: Console) -> int:
    rate, words = word_error_rate({stream: t.text for stream, t in follower.transcripts.items()})
    delays = follower.late()
    if not delays:
        raise RuntimeError("no partial transcript came")
    p50, p95 = percentile(delays, 50), percentile(delays, 95)
    finals = follower.late(finals=True)
    console.print()
    console.print(f"Word error rate      {rate:.1%} of {words} words (the model is small; see demo/NOTICE.md)")
    console.print(f"Delay of partials    p50 {p50:.0f} ms, p95 {p95:.0f} ms, beyond the chunk that they complete")
    console.print(f"Delay of finals      p50 {percentile(finals, 50):.0f} ms, p95 {percentile(finals, 95):.0f} ms")
    where = 'Next: README.md, section "Your own calls"; docs/wire.md for producers in other languages.'
    console.print(where, soft_wrap=True)
    summary = {
        "calls": calls,
        "words": words,
        "wer": round(rate, 4),
        "delay_p50_ms": round(p50, 1),
        "delay_p95_ms": round(p95, 1),
    }
    sys.stdout.flush()
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The same audio heard twice: by a worker that nobody disturbs, and by workers of another group that are.

Each group has output topics of its own, so that what a `read_committed` reader sees of one can be compared with what
it sees of the other, event by event.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from aiokafka.partitioner import murmur2

from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from tests.conftest import PARTITIONS, own_topics
from tests.integration.offsets import committed, end_offsets
from tests.integration.sending import PCM, Sender, audio, spoken, start, stream_of
from tests.integration.support import MODEL, Out, Outputs, assert_same, unique
from wire import Audio, End, Final, Flush, Options, Rejected, StreamEnd, Topics

# Small turns, so that a worker dies with audio read and audio still to be read.
SETTINGS = {"model.threads": 1, "kafka.max_poll_records": 20}


class Group:
    """A consumer group on an audio topic, and its outputs as librdkafka reads them."""

    def __init__(self, servers: str, topics: Topics, zygote: Zygote, settings: Mapping[str, object]) -> None:
        self.servers = servers
        self.topics = topics
        self.name = unique("group")
        self.outputs = Outputs(servers, topics)
        self.workers: list[LocalWorker] = []
        self._zygote = zygote
        self._settings = settings

    def worker(
        self, failpoint: str | None = None, settings: Mapping[str, object] | None = None, cold: bool = False
    ) -> LocalWorker:
        """One more, on its way; it is killed at the failpoint. `cold`: started, not forked."""
        environment = {} if failpoint is None else {"TRUNKLINE_FAILPOINT": failpoint}
        worker = LocalWorker(
            self.servers,
            self.topics,
            MODEL,
            self.name,
            {**SETTINGS, **self._settings, **(settings or {})},
            environment=environment,
            zygote=None if cold else self._zygote,
        )
        worker.start(wait=False)
        self.workers.append(worker)
        return worker

    def settle(self, like: "Group", streams: int, timeout_s: float = 60.0) -> None:
        """Wait until so many streams have ended here, then compare all that was published; nothing comes after it."""
        expected = like.outputs
        self.finish(streams, len(expected.rejected), timeout_s)
        try:
            same(self.outputs, expected)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None
        assert self.all_committed()

    def finish(self, streams: int, rejects: int, timeout_s: float = 60.0) -> None:
        """Wait until so many streams have ended, so many records are rejected, all is committed; stop the workers."""
        try:
            self.outputs.until(lambda: len(ends(self.outputs)) >= streams, f"{streams} ends", timeout_s)
            self.outputs.until(lambda: len(self.outputs.rejected) >= rejects, f"{rejects} rejects", 10)
            self.outputs.until(self.all_committed, "the offsets", 20)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None
        running = [worker for worker in self.workers if worker.process.poll() is None]
        for worker in running:
            worker.wait_ready()  # it may have come when all was done
        assert [worker.stop() for worker in running] == [0] * len(running), self.logs()
        self.outputs.poll(0.5)

    def all_committed(self) -> bool:
        """Nothing is left to read, and no call is under way."""
        return committed(self.servers, self.name, self.topics.audio) == end_offsets(self.servers, self.topics.audio)

    def logs(self) -> str:
        return "\n\n".join(worker.log_tail(25) for worker in self.workers)

    def close(self) -> None:
        self.outputs.close()
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()


@contextmanager
def group_on(
    servers: str, audio_topic: str, zygote: Zygote, settings: Mapping[str, object] | None = None
) -> Iterator[Group]:
    with own_topics(servers) as own:
        topics = Topics(audio_topic, own.final, own.partial, own.rejected, own.streams)
        group = Group(servers, topics, zygote, settings or {})
        try:
            yield group
        finally:
            group.close()


def ends(outputs: Outputs) -> list[Out[Final]]:
    return [out for out in outputs.finals if isinstance(out.event, StreamEnd)]


def by_stream(outs: Collection[Out[Final]]) -> dict[str, list[Out[Final]]]:
    """Each stream's events in order; a stream id used again is another stream."""
    found: dict[str, list[Out[Final]]] = {}
    for out in outs:
        found.setdefault(out.event.head.id.rpartition("/")[0], []).append(out)
    return found


def same(outputs: Outputs, expected: Outputs) -> None:
    """Every event of the one is an event of the other, in its stream's order; so are the rejected records."""
    mine, theirs = by_stream(outputs.finals), by_stream(expected.finals)
    for stream in mine.keys() | theirs.keys():
        told, wanted = (
            [(type(out.event).__name__, out.event.head.number, out.event.head.offsets) for out in outs.get(stream, [])]
            for outs in (mine, theirs)
        )
        assert [number for _, number, _ in told] == [number for _, number, _ in wanted], (
            f"{stream}: told {told}, undisturbed {wanted}"
        )
    for stream, outs in mine.items():
        for out, twin in zip(outs, theirs[stream], strict=True):
            assert_same(out.event, twin.event)
            assert (out.key, out.partition, out.headers) == (twin.key, twin.partition, twin.headers)
    assert _rejects(outputs) == _rejects(expected)


def _rejects(outputs: Outputs) -> list[tuple[int, int, bytes | None, Rejected]]:
    found = [(out.partition, int(out.headers["offset"]), out.key, out.event) for out in outputs.rejected]
    return sorted(found, key=lambda reject: reject[:2])


def fill(sender: Sender) -> int:
    """Short calls of every kind, with bad records between; returns how many streams there are."""
    voice, rate = spoken("call-03", 0)
    other, _ = spoken("call-03", 1)
    narrow, low = spoken("call-02", 0)
    options = Options(endpoint_ms=300)
    whole = stream_of(voice[: 9 * rate], rate, options=options)
    sender.send("twin", [start(rate)], partition=0)
    for mine, twin in zip(whole, [*audio(other[4 * rate : 12 * rate], rate), *[None] * 99], strict=False):
        sender.send("whole", [mine], partition=0)
        if twin is not None:
            sender.send("twin", [twin], partition=0)  # it never ends: the clock decides
    sender.send("whole", [Audio(999, len(voice), b"late", "one")], partition=0)

    half = narrow[: 10 * low]
    pieces = audio(half, low, "mulaw")
    told = [start(low, "mulaw"), *pieces[:40], Flush("first", "one"), *pieces[40:60], *pieces[66:80]]
    sender.send("flushed", [*told, b"\xc1", *pieces[80:], Flush("last", "one"), End("one", len(half))], partition=1)

    bare = [Audio(a.sequence, a.position, a.payload) for a in audio(narrow[10 * low : 16 * low], low)]
    first = [start(rate), *audio(other[12 * rate : 17 * rate], rate)]
    again = [start(rate, nonce="two"), *audio(other[17 * rate : 20 * rate], rate, nonce="two")]
    foreign = Audio(0, 0, b"ab", "foreign")
    sender.send("again", [*first, foreign, *again, End("two")], partition=2)
    sender.send("bare", [*bare[:30], b"", *bare[30:], End()], partition=3)
    sender.send(None, [bare[0]], partition=3)
    return len({"whole", "twin", "flushed", "first", "again", "bare"})


def names(prefix: str, partitions: Collection[int]) -> list[str]:
    """Stream ids that Kafka's partitioner sends to these partitions."""
    made: list[str] = []
    for partition in partitions:
        ids = (f"{prefix}-{n}" for n in range(1000))
        made.append(
            next(i for i in ids if i not in made and (murmur2(i.encode()) & 0x7FFFFFFF) % PARTITIONS == partition)
        )
    return made


def voices() -> Iterator[tuple[PCM, int]]:
    for channel in (0, 1):
        for call in ("call-03", "call-02", "call-01", "call-09"):
            samples, rate = spoken(call, channel)
            yield samples[: 22 * rate], rate

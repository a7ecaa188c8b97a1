"""The streams of one input partition: records in, events out.

Everything of a partition happens on the event loop, in log order on the way in and in step order on the way back.
"""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from wire.codec import decode_key, decode_record, reject
from wire.fields import WireError
from wire.records import Audio, End, Flush, Options, Start
from worker.batching.feed import Feed
from worker.batching.scheduler import Scheduler
from worker.delivery.publisher import Publisher
from worker.engine.interface import EngineInfo, Mode, Tokens
from worker.settings import StreamSettings
from worker.stream.segment import Loss, Segment, Source
from worker.stream.session import Item, Session, SessionLimits, Speech
from worker.telemetry.metrics import Metrics
from worker.transcript.transcriber import Endpointing, Identity, Transcriber

log = logging.getLogger(__name__)

# Ended streams remembered, so that audio after the end is rejected and not taken for a new stream.
ENDED_STREAMS = 10_000


@dataclass(frozen=True, slots=True)
class Deployment:
    """What all partitions of a worker share."""

    settings: StreamSettings
    mode: Mode
    engine: EngineInfo
    scheduler: Scheduler
    publisher: Publisher
    metrics: Metrics


class LiveStream:
    """A stream from its first record until its last event is out."""

    def __init__(
        self,
        stream: str,
        session: Session,
        transcriber: Transcriber,
        partition: "Partition",
        mode: Mode,
        first_offset: int,
        idle_s: float,
    ) -> None:
        self.stream = stream
        self.session = session
        self.transcriber = transcriber
        self.partition = partition
        self.first_offset = first_offset
        self.idle_s = idle_s
        self.touched = time.monotonic()
        self.segments: deque[Segment] = deque([Segment(origin=0)])
        self.heard = 0  # samples of the first segment that the engine has taken in
        self._scheduler = partition.deployment.scheduler
        self._received = 0  # samples of the last segment
        self.feed: Feed = self._scheduler.admit(mode, self)

    def apply(self, items: Sequence[Item]) -> None:
        """Hand what a record gave to the engine, and note where it came from."""
        for item in items:
            if isinstance(item, Speech):
                self._received += len(item.samples)
                self.segments[-1].mark(self._received, item.source)
                self._scheduler.push(self.feed, item.samples)
            elif isinstance(item, Loss):
                self.segments[-1].losses.append(item)
            else:
                self.segments[-1].boundary = item
                if not item.ends_stream:
                    self.segments.append(Segment(origin=item.resumes))
                    self._received = 0
                self._scheduler.close(self.feed, item.ends_stream)

    def oldest_unheard(self) -> int | None:
        """Kafka timestamp of the oldest record with audio that the engine has not taken in."""
        for index, segment in enumerate(self.segments):
            source = segment.oldest_after(self.heard if index == 0 else 0)
            if source is not None:
                return source.timestamp
        return None


class Partition:
    """One assigned partition.

    `read_until`: records before this offset were read before; of these, what belongs to streams that began and
    ended before the first offset read is passed over.
    """

    def __init__(self, number: int, next_offset: int, read_until: int, deployment: Deployment) -> None:
        self.number = number
        self.next_offset = next_offset
        self.last_timestamp: int | None = None
        self.deployment = deployment
        self._read_until = read_until
        self._streams: dict[str, LiveStream] = {}  # those that take records
        self._live: set[LiveStream] = set()  # those and the ones whose last events are not out yet
        self._ended: OrderedDict[str, str | None] = OrderedDict()  # stream -> nonce

    @property
    def resume_offset(self) -> int:
        """The first offset that a restart would need: no live stream began before it."""
        return min((live.first_offset for live in self._live), default=self.next_offset)

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    def accept(self, key: bytes | None, value: bytes | None, offset: int, timestamp: int) -> None:
        """Take the next record; what is wrong with it goes to the rejected topic."""
        self.next_offset = offset + 1
        self.last_timestamp = timestamp
        self.deployment.metrics.records.inc()
        usable = None
        try:
            stream = decode_key(key)
            usable = key
            record = decode_record(value)
            self._route(stream, record, Source(offset, timestamp))
        except WireError as error:
            self._reject(usable, value, offset, error)

    def unreadable(self, offset: int, detail: str) -> None:
        """The record at `offset` lies in a batch that cannot be unpacked: reject it without its bytes."""
        self.next_offset = offset + 1
        self.deployment.metrics.records.inc()
        self._reject(None, None, offset, WireError("codec_not_available", detail))

    def heard(self, live: LiveStream, tokens: Tokens, last: bool) -> None:
        """Take what a step gave for one stream."""
        if live not in self._live:  # dropped while the step ran
            return
        publisher = self.deployment.publisher
        segment = live.segments[0]
        told = live.transcriber.hear(tokens, segment)
        geometry = self.deployment.engine.geometry
        if tokens.heard:
            # what lies past the last chunk is heard when the next is
            frame = tokens.heard - 1 + geometry.recompute[live.feed.mode.look_ahead]
            live.heard = frame * geometry.frame_samples + geometry.half_window
        if last:
            told += live.transcriber.finish(segment)
            live.segments.popleft()
            live.heard = 0
            if not live.segments:
                self._live.discard(live)
        for item in told:
            publisher.told(self.number, live.stream, item)

    def end_idle_streams(self) -> None:
        """End the streams that have had no record for long. Only called when the partition was read to its end."""
        now = time.monotonic()
        for live in [live for live in self._streams.values() if now - live.touched > live.idle_s]:
            log.info("partition %d: a stream was idle for %.0f s and is ended", self.number, live.idle_s)
            live.apply(live.session.idle())
            self._retire(live)

    def drop(self) -> None:
        """Forget all streams; another worker has them now."""
        for live in self._live:
            self.deployment.scheduler.drop(live.feed)
        self._live.clear()
        self._streams.clear()

    def oldest_unheard(self) -> int | None:
        """Kafka timestamp, ms, of the oldest record not yet through the engine."""
        times = (live.oldest_unheard() for live in self._live)
        return min((t for t in times if t is not None), default=None)

    def _reject(self, key: bytes | None, value: bytes | None, offset: int, error: WireError) -> None:
        self.deployment.metrics.rejected.labels(error.reason).inc()
        rejected = reject(value, error.reason, str(error))
        self.deployment.publisher.rejected(self.number, key, offset, rejected)

    def _route(self, stream: str, record: Audio | Start | Flush | End, source: Source) -> None:
        live = self._streams.get(stream)
        if isinstance(record, Audio):
            if live is None:
                self._audio_without_start(stream, record, source)
                return
            self._touch(live, record.nonce)
            duplicates = live.session.duplicates
            live.apply(live.session.audio(record, source))
            if live.session.duplicates != duplicates:
                self.deployment.metrics.duplicates.inc()
        elif isinstance(record, Start):
            self._start(stream, live, record, source)
        elif live is None:
            if source.offset < self._read_until:
                return
            ended = stream in self._ended
            if isinstance(record, End) and ended:
                self.deployment.metrics.duplicates.inc()  # sent again
                return
            name = "end" if isinstance(record, End) else "flush"
            if ended:
                raise WireError("after_end", f"{name}: the stream has ended and no new start came since")
            raise WireError("not_started", f"{name}: the stream has sent neither a start nor audio")
        else:
            self._touch(live, record.nonce)
            if isinstance(record, Flush):
                live.apply(live.session.flush(record, source))
            else:
                live.apply(live.session.end(record, source))
                self._retire(live)

    def _touch(self, live: LiveStream, nonce: str | None) -> None:
        if not live.session.accepts_nonce(nonce):
            raise WireError("foreign_nonce", f"nonce {nonce!r} is not that of the stream's start", "nonce")
        live.touched = time.monotonic()

    def _start(self, stream: str, live: LiveStream | None, record: Start, source: Source) -> None:
        if live is not None and live.session.start_again(record):
            live.touched = time.monotonic()
            self.deployment.metrics.duplicates.inc()
            return
        if self._ended.get(stream) == record.nonce and stream in self._ended:
            raise WireError("after_end", "a start with the nonce of a stream that has ended", "nonce")
        mode = self._mode(record.options)
        if live is not None:
            live.apply(live.session.restarted(source))
            self._retire(live)
        self._open(stream, record, mode, self._session(record, source), source)

    def _audio_without_start(self, stream: str, record: Audio, source: Source) -> None:
        """A new stream with the deployment's defaults, unless the start was missed or the stream is over."""
        if source.offset < self._read_until and (record.nonce is not None or record.sequence > 0):
            return  # of a stream that was complete before this worker began to read again
        if stream in self._ended and record.nonce in (None, self._ended[stream]):
            raise WireError("after_end", "audio: the stream has ended and no new start came since")
        if record.nonce is not None:
            raise WireError(
                "not_started", "audio carries the nonce of a start that did not come or was rejected", "nonce"
            )
        defaults = self.deployment.settings
        start = Start("", defaults.encoding, defaults.sample_rate, defaults.language)
        session = self._session(start, source)
        items = session.audio(record, source)  # first: a record that is rejected begins no stream
        self._open(stream, start, self.deployment.mode, session, source).apply(items)

    def _session(self, start: Start, source: Source) -> Session:
        settings = self.deployment.settings
        limits = SessionLimits(settings.reorder_ms, settings.gap_fill_ms, settings.max_gap_ms)
        rate_out = self.deployment.engine.geometry.sample_rate
        return Session(start.encoding, start.sample_rate, start.nonce or None, limits, source, rate_out)

    def _mode(self, options: Options) -> Mode:
        default, engine = self.deployment.mode, self.deployment.engine
        look_ahead = default.look_ahead if options.look_ahead is None else options.look_ahead
        if look_ahead not in engine.look_aheads:
            raise WireError(
                "look_ahead_not_supported",
                f"options.look_ahead {look_ahead}: the model has {', '.join(map(str, engine.look_aheads))}",
                "options.look_ahead",
            )
        decoder = options.decoder or default.decoder
        if decoder not in engine.decoders:
            raise WireError(
                "decoder_not_supported",
                f"options.decoder {decoder!r}: the model has {', '.join(engine.decoders)}",
                "options.decoder",
            )
        return Mode(look_ahead, decoder)

    def _open(self, stream: str, start: Start, mode: Mode, session: Session, source: Source) -> LiveStream:
        settings, options, engine = self.deployment.settings, start.options, self.deployment.engine
        identity = Identity(
            stream=stream,
            partition=self.number,
            first_offset=source.offset,
            model=engine.model_id,
            call_id=start.call_id,
            channel=start.channel,
            language=start.language or settings.language,
            metadata=start.metadata,
        )
        endpointing = Endpointing(
            silence_ms=options.endpoint_ms or settings.endpoint_ms,
            max_utterance_ms=options.max_utterance_ms or settings.max_utterance_ms,
            partials=settings.partials if options.partials is None else options.partials,
        )
        transcriber = Transcriber(identity, endpointing, engine.pieces, engine.geometry, mode.look_ahead)
        idle_s = (options.idle_ms or settings.idle_ms) / 1000
        live = LiveStream(stream, session, transcriber, self, mode, source.offset, idle_s)
        self._streams[stream] = live
        self._live.add(live)
        self._ended.pop(stream, None)
        self.deployment.metrics.streams_started.inc()
        return live

    def _retire(self, live: LiveStream) -> None:
        """The stream takes no more records; its last events are still to come."""
        del self._streams[live.stream]
        self._ended[live.stream] = live.session.nonce
        while len(self._ended) > ENDED_STREAMS:
            self._ended.popitem(last=False)

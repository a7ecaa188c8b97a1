"""What Prometheus sees of a worker. Names and units follow its conventions; no label holds a stream id.

docs/metrics.md says of each one what to do with it. Where a rate must exist from the start, label values are set to
zero here: an `increase` does not see a series that begins with 1.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from wire.events import END_REASONS
from wire.reasons import REASONS

# Around the chunk durations of the usual look-aheads: 80, 160, 560 and 1120 ms.
# Finer above a second: an endpoint's silence is part of a final's delay, and an overload must not look twice as bad.
DELAY_BUCKETS = (
    *(0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.42, 0.56, 0.84),
    *(1.12, 1.4, 1.7, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
)
STEP_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.56, 1.12, 2.5)
PHASE_BUCKETS = (0.0005, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.56, 1.12)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
REQUEST_BUCKETS = (0.002, 0.005, 0.02, 0.05, 0.1, 0.25, 1, 5, 15)
RESTORE_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)

PHASES = ("features", "encoder", "decoder", "copying")
EVENTS = ("utterance", "marker", "gap", "end", "partial")
OUTCOMES = ("committed", "aborted", "lost")
CHECKPOINT_OUTCOMES = ("saved", "failed", "restored", "refused", "missing")
OPERATIONS = ("put", "get", "delete")


class Metrics:
    """One registry, one attribute a metric."""

    def __init__(self) -> None:
        # a second series for every counter that nobody reads
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._service()
        self._streams()
        self._engine()
        self._audio()
        self._events()
        self._delivery()
        self._state()

    def _service(self) -> None:
        self.ready = self._gauge("ready", "1 while the worker takes part in the group; 0 while it starts or drains.")
        self.model = Info("trunkline_model", "The loaded model and how it is run.", registry=self.registry)
        self.build = Info("trunkline_build", "Versions of the worker and of what it stands on.", registry=self.registry)
        self.partitions = self._gauge("partitions_assigned", "Input partitions that this worker has.")
        self.partitions_read = self._gauge(
            "partitions_read", "Input partitions that are read: not paused, and their broker answered a moment ago."
        )
        self.rebalances = self._counter("rebalances_total", "Times that partitions were assigned to this worker.")
        self.restore = self._histogram(
            "restore_duration_seconds", "From a partition's assignment to its first read.", RESTORE_BUCKETS
        )
        self.paused = self._gauge(
            "reading_paused", "1 while reading pauses: waiting audio, or events not published, fill their memory."
        )
        self.kafka_request = self._histogram(
            "kafka_request_duration_seconds",
            "From a request to its answer. Fetch and JoinGroup wait at the broker by design.",
            REQUEST_BUCKETS,
            "request",
        )
        self.kafka_errors = self._counter(
            "kafka_request_errors_total",
            "Requests that no broker answered: not connected, cut off, too late.",
            "request",
        )

    def _streams(self) -> None:
        self.open = self._gauge("streams_open", "Streams that take records.")
        self.admitted = self._gauge("streams_admitted", "Streams with state in this worker: not over, not parked.")
        self.active = self._gauge("streams_active", "Streams that hold a slot.")
        self.spilled = self._gauge("streams_spilled", "Streams whose engine state lies in host memory.")
        self.waiting = self._gauge("streams_waiting", "Streams that could step now, but for want of a slot.")
        self.parked = self._gauge(
            "streams_parked", "Streams that wait without audio in memory; they are read again when a slot is vacant."
        )
        self.slots = self._gauge("slots", "Streams whose state fits on the device at once.")
        self.started = self._counter("streams_started_total", "Streams begun.")
        self.ended = self._counter("streams_ended_total", "Streams of which all is told, by what ended them.", "reason")
        for reason in END_REASONS:
            self.ended.labels(reason)

    def _engine(self) -> None:
        self.chunk = self._gauge(
            "chunk_duration_seconds", "Audio of one chunk at the deployment's look-ahead: the deadline of a step."
        )
        self.ready_streams = self._gauge("queue_streams", "Streams ready for the next step.")
        self.queue = self._gauge("queue_audio_seconds", "Audio in memory that the engine has not taken.")
        self.queue_capacity = self._gauge(
            "queue_capacity_audio_seconds",
            "Audio in memory at which reading pauses; streams are parked from half of it.",
        )
        self.batch = self._histogram("batch_streams", "Streams in a step.", BATCH_BUCKETS)
        self.batch_capacity = self._gauge("batch_capacity_streams", "Streams in a step at most.")
        self.step = self._histogram(
            "step_duration_seconds", "Duration of a step: copying, features, encoder, decoder.", STEP_BUCKETS
        )
        self.phase = self._histogram(
            "step_phase_duration_seconds",
            "Host time of a step's phases. With CUDA a phase's work may end in the next one that waits for it.",
            PHASE_BUCKETS,
            "phase",
        )
        for phase in PHASES:
            self.phase.labels(phase)
        self.encoder_calls = self._counter(
            "encoder_calls_total", "Calls of the encoder; one a step, more when streams catch up."
        )
        self.decoder_calls = self._counter("decoder_calls_total", "Calls of the decoder; one a step.")
        self.arena = self._gauge("arena_bytes", "Memory of the streams' state in all slots.")
        self.device_memory = self._gauge(
            "device_memory_bytes", "Accelerator memory that the worker holds: weights, arenas, scratch; 0 on a CPU."
        )

    def _audio(self) -> None:
        self.records = self._counter("records_read_total", "Records taken from the audio topic.")
        self.rejected = self._counter("records_rejected_total", "Records sent to the rejected topic.", "reason")
        for reason in REASONS:
            self.rejected.labels(reason)
        self.duplicates = self._counter("records_duplicate_total", "Records with audio or a control seen before.")
        self.audio_read = self._counter("audio_read_seconds_total", "Audio in records that were taken, again or not.")
        self.audio = self._counter("audio_processed_seconds_total", "Audio that went through the engine.")
        self.gaps = self._counter("gap_audio_seconds_total", "Audio that never came, by the gap events told.")
        self.replayed = self._counter(
            "replayed_audio_seconds_total", "Audio taken in again after a restart, a hand-over or parking."
        )
        self.lag = self._gauge(
            "lag_seconds", "Age of the oldest record not yet through the engine, 0 if there is none.", "partition"
        )
        self.lag_audio = self._gauge(
            "lag_audio_seconds",
            "Audio not yet through the engine: read and waiting, and an estimate of what is not read.",
            "partition",
        )
        self.lag_records = self._gauge(
            "lag_records", "Records between the read position and the partition's end.", "partition"
        )

    def _events(self) -> None:
        self.events = self._counter("events_total", "Events decided, by type; finals are published once.", "type")
        for name in EVENTS:
            self.events.labels(name)
        self.partial_delay = self._histogram(
            "partial_delay_seconds",
            "From the Kafka timestamp of the record that completed a chunk to its partial on the broker.",
            DELAY_BUCKETS,
        )
        self.final_delay = self._histogram(
            "final_delay_seconds",
            "From the Kafka timestamp of the record that decided an event to that event on the broker.",
            DELAY_BUCKETS,
        )
        self.utterance_delay = self._histogram(
            "utterance_delay_seconds",
            "From the Kafka timestamp of the record with the end of an utterance's last word to the utterance on the "
            "broker: the silence that ends it is part of it.",
            DELAY_BUCKETS,
        )
        self.partials_lost = self._counter("partials_lost_total", "Partials that the broker did not take.")

    def _delivery(self) -> None:
        self.unpublished = self._gauge(
            "unpublished_events", "Finals and rejects decided but not collected for a commit."
        )
        self.transactions = self._counter(
            "transactions_total",
            "Commits of a partition by outcome: committed, aborted (and written again), lost (fenced, or not known: "
            "the partition's streams are read again).",
            "outcome",
        )
        for outcome in OUTCOMES:
            self.transactions.labels(outcome)
        self.fenced = self._counter(
            "producers_fenced_total", "Commits lost because the partition's producer was fenced; also counted as lost."
        )
        self.commit = self._histogram(
            "commit_duration_seconds", "Duration of a commit of one partition.", DELAY_BUCKETS
        )

    def _state(self) -> None:
        self.checkpoints = self._counter(
            "checkpoints_total", "Checkpoints by outcome: saved, failed, restored, refused, missing.", "outcome"
        )
        for outcome in CHECKPOINT_OUTCOMES:
            self.checkpoints.labels(outcome)
        self.checkpoint_bytes = self._counter("checkpoint_bytes_total", "Bytes of checkpoints written.")
        self.store_up = self._gauge("state_store_up", "1 while the state store takes checkpoints.")
        self.store_request = self._histogram(
            "state_store_request_duration_seconds",
            "Answered requests to the state store.",
            REQUEST_BUCKETS,
            "operation",
        )
        self.store_errors = self._counter(
            "state_store_errors_total", "Requests that the state store refused or did not answer in time.", "operation"
        )
        for operation in OPERATIONS:
            self.store_request.labels(operation)
            self.store_errors.labels(operation)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"trunkline_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"trunkline_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"trunkline_{name}", text, labels, buckets=buckets, registry=self.registry)

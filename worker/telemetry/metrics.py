"""What Prometheus sees of a worker. Names and units follow its conventions; no label holds a stream id."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

# Around the chunk durations of the usual look-aheads: 80, 160, 560 and 1120 ms.
DELAY_BUCKETS = (0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.56, 0.84, 1.12, 2, 4, 8, 16, 32, 64)
STEP_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.56, 1.12, 2.5)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """One registry, one attribute a metric."""

    def __init__(self) -> None:
        # a second series for every counter that nobody reads
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        registry = self.registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"trunkline_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"trunkline_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"trunkline_{name}", text, buckets=buckets, registry=registry)

        self.streams = gauge(
            "streams",
            "Streams by state: active hold a slot, spilled lie in host memory, "
            "waiting found no slot, parked wait without audio in memory and are read again, open take records.",
            "state",
        )
        self.slots = gauge("slots", "Streams whose state fits on the device at once.")
        self.streams_started = counter("streams_started_total", "Streams begun.")
        self.ready = gauge("queue_streams", "Streams ready for the next step.")
        self.queue = gauge("queue_audio_seconds", "Audio in memory that the engine has not taken.")
        self.batch = histogram("batch_streams", "Streams in a step.", BATCH_BUCKETS)
        self.step = histogram("step_duration_seconds", "Duration of a step: features, encoder, decoder.", STEP_BUCKETS)
        self.encoder_calls = counter(
            "encoder_calls_total", "Calls of the encoder; one a step, more when streams catch up."
        )
        self.decoder_calls = counter("decoder_calls_total", "Calls of the decoder; one a step.")
        self.audio = counter("audio_processed_seconds_total", "Audio that went through the engine.")
        self.partial_delay = histogram(
            "partial_delay_seconds",
            "From the Kafka timestamp of the record that completed a chunk to its partial on the broker.",
            DELAY_BUCKETS,
        )
        self.final_delay = histogram(
            "final_delay_seconds",
            "From the Kafka timestamp of the record that decided an event to that event on the broker.",
            DELAY_BUCKETS,
        )
        self.partials_lost = counter("partials_lost_total", "Partials that the broker did not take.")
        self.lag = gauge(
            "lag_seconds",
            "Age of the oldest record not yet through the engine, 0 if there is none.",
            "partition",
        )
        self.records = counter("records_read_total", "Records taken from the audio topic.")
        self.rejected = counter("records_rejected_total", "Records sent to the rejected topic.", "reason")
        self.duplicates = counter("records_duplicate_total", "Records with audio or a control seen before.")
        self.unpublished = gauge("unpublished_events", "Finals and rejects decided but not collected for a commit.")
        self.transactions = counter(
            "transactions_total",
            "Commits of a partition by outcome: committed, aborted (and written again), lost (fenced, or not known: "
            "the partition's streams are read again).",
            "outcome",
        )
        self.commit = histogram("commit_duration_seconds", "Duration of a commit of one partition.", DELAY_BUCKETS)
        self.replayed = counter("replayed_audio_seconds_total", "Audio taken in again after a restart or hand-over.")
        self.checkpoints = counter(
            "checkpoints_total", "Checkpoints by outcome: saved, failed, restored, refused.", "outcome"
        )
        self.checkpoint_bytes = counter("checkpoint_bytes_total", "Bytes of checkpoints written.")
        self.store_up = gauge("state_store_up", "1 while the state store takes checkpoints.")
        self.paused = gauge("reading_paused", "1 while reading pauses because waiting audio fills its memory.")
        self.partitions = gauge("partitions_assigned", "Input partitions that this worker reads.")
        self.rebalances = counter("rebalances_total", "Times that partitions were assigned to this worker.")
        self.model = Info("trunkline_model", "The loaded model.", registry=registry)

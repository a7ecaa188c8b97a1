"""Names on Kafka: topics and their settings, headers, event ids. Pure data."""

from dataclasses import dataclass

from wire.fields import MAX_RECORD_BYTES

HEADER_INPUT_TIMESTAMP = "input-timestamp"
HEADER_TRACE = "traceparent"  # W3C trace context
HEADER_TOPIC = "topic"
HEADER_PARTITION = "partition"
HEADER_OFFSET = "offset"

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of the five topics."""

    audio: str = "audio.chunks"
    final: str = "transcripts.final"
    partial: str = "transcripts.partial"
    rejected: str = "audio.rejected"
    streams: str = "trunkline.streams"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it is to be created; `config` holds Kafka's own setting names and values."""

    name: str
    partitions: int
    config: dict[str, str]
    replication: int = 1


def specs(topics: Topics, partitions: int, replication: int = 1) -> list[TopicSpec]:
    """All five topics, with one partition count: output partition = input partition is in the contract."""
    # With three copies a commit survives one machine; with fewer, asking for two would stop writing at any
    # loss.
    common = {"min.insync.replicas": "2" if replication >= 3 else "1"}
    configs: dict[str, dict[str, str]] = {
        topics.audio: {
            "cleanup.policy": "delete",
            "retention.ms": str(_DAY_MS),
            # Kafka counts the batch's framing too, so leave room above the largest record.
            "max.message.bytes": str(2 * MAX_RECORD_BYTES),
            # Delay, lag and retention must not depend on the clocks of producers.
            "message.timestamp.type": "LogAppendTime",
        },
        topics.final: {"cleanup.policy": "delete", "retention.ms": str(7 * _DAY_MS)},
        topics.partial: {"cleanup.policy": "delete", "retention.ms": str(_HOUR_MS)},
        topics.rejected: {"cleanup.policy": "delete", "retention.ms": str(7 * _DAY_MS)},
        # Small segments and a short lag keep the table quick to read on assignment.
        topics.streams: {
            "cleanup.policy": "compact",
            "segment.bytes": str(16 * 1024 * 1024),
            "max.compaction.lag.ms": "60000",
        },
    }
    return [TopicSpec(name, partitions, {**common, **config}, replication) for name, config in configs.items()]


def event_id(stream: str, partition: int, offset: int, number: int) -> str:
    """`<stream>/<partition>-<offset>/<number>`; offset is that of the stream's first record."""
    return f"{stream}/{partition}-{offset}/{number}"

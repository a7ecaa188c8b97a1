"""Delivery and state: transactions, brokers, hand-overs, checkpoints."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.dashboards.panels import Bounds, Panel, Query, board, graph, number, ours, quantile, rate

NO_WAIT = 'request!~"Fetch|JoinGroup"'  # these wait at the broker by design


def build() -> Dashboard:
    return board(
        "trunkline-delivery",
        "Trunkline: delivery and state",
        "How events leave, and where streams' state survives.",
        [*_numbers(), *_commits(), *_kafka(), *_moves(), *_state()],
    )


def _numbers() -> list[Panel]:
    lost = 'outcome="lost"'
    return [
        number(
            "Finals not committed",
            "Finals and rejects that are decided and not yet in a transaction.",
            "growing: see transactions and requests below.",
            "short",
            Query(f"sum(trunkline_unpublished_events{ours()})"),
        ),
        number(
            "Commit, 95th percentile",
            "Duration of a commit of one partition; a part of every final's delay.",
            "above a second look at the brokers; or spread the partitions over more workers.",
            "s",
            Query(quantile(0.95, "trunkline_commit_duration_seconds")),
            Bounds(1, 5),
        ),
        number(
            "Transactions lost, an hour",
            "Commits whose outcome is unknown or that were fenced; the partition is restored from the topics.",
            "some after a broker's restart or a rebalance are right; else read the workers' logs.",
            "short",
            Query(f"sum(increase(trunkline_transactions_total{ours(lost)}[1h]))"),
            Bounds(5, 20),
        ),
        number(
            "Partitions",
            "Partitions that workers have.",
            "fewer than the topic has: a rebalance is under way, or no worker is ready.",
            "short",
            Query(f"sum(trunkline_partitions_assigned{ours()})"),
        ),
        number(
            "State store",
            "1 while all workers' stores take checkpoints.",
            "at 0 look at Redis: memory, connections, ACL; the workers' logs say what it answered.",
            "short",
            Query(f"min(trunkline_state_store_up{ours()})"),
            Bounds(1, 0.5),
        ),
        number(
            "Audio replayed, an hour",
            "Seconds of audio taken in again after restarts, hand-overs and parking.",
            "much without deployments: find out why workers restart; lower state.checkpoint_after_ms.",
            "s",
            Query(f"sum(increase(trunkline_replayed_audio_seconds_total{ours()}[1h]))"),
        ),
    ]


def _commits() -> list[Panel]:
    return [
        graph(
            "Transactions a second",
            "Commits by outcome: aborted ones are written again, lost ones restored from the topics.",
            "steady aborts or losses: brokers refuse or are slow; the workers' logs name the error.",
            "short",
            Query(f"sum by (outcome) ({rate('trunkline_transactions_total')})", "{{outcome}}"),
            Query(f"sum({rate('trunkline_producers_fenced_total')})", "fenced"),
        ),
        graph(
            "Commit duration",
            "Of one partition.",
            "rising with the number of partitions a worker: more workers. Alone: brokers.",
            "s",
            Query(quantile(0.5, "trunkline_commit_duration_seconds"), "p50"),
            Query(quantile(0.95, "trunkline_commit_duration_seconds"), "p95"),
            Query(quantile(0.99, "trunkline_commit_duration_seconds"), "p99"),
        ),
        graph(
            "Waiting to be published",
            "Finals and rejects not in a transaction yet, and partials a second that were not taken.",
            "growing: brokers take nothing; reading pauses when 16 MB wait.",
            "short",
            Query(f"sum(trunkline_unpublished_events{ours()})", "finals and rejects"),
            Query(f"sum({rate('trunkline_partials_lost_total')})", "partials lost a second"),
        ),
    ]


def _kafka() -> list[Panel]:
    return [
        graph(
            "Kafka requests, 95th percentile",
            "From a request to its answer, without those that wait at the broker by design.",
            "Produce slow: disks or replication of the brokers. EndTxn, AddOffsets slow: the transaction coordinator.",
            "s",
            Query(quantile(0.95, "trunkline_kafka_request_duration_seconds", "request", NO_WAIT), "{{request}}"),
        ),
        graph(
            "Kafka requests without an answer, a second",
            "Not connected, cut off, or too late.",
            "some while a broker restarts are right; else network, listeners, or credentials.",
            "short",
            Query(f"sum by (request) ({rate('trunkline_kafka_request_errors_total')}) > 0", "{{request}}"),
        ),
        graph(
            "Kafka requests a second",
            "Answered, by request.",
            "many Metadata: leaders move. The others follow partitions, events and kafka.commit_interval_ms.",
            "short",
            Query(f"sum by (request) ({rate('trunkline_kafka_request_duration_seconds_count')})", "{{request}}"),
        ),
    ]


def _moves() -> list[Panel]:
    return [
        graph(
            "Rebalances and partitions",
            "Rebalances in five minutes by worker, and partitions that are assigned and read.",
            "again and again: workers die, or are silent for longer than kafka.session_timeout_ms.",
            "short",
            Query(f"increase(trunkline_rebalances_total{ours()}[5m])", "rebalances {{instance}}"),
            Query(f"sum(trunkline_partitions_assigned{ours()})", "assigned"),
            Query(f"sum(trunkline_partitions_read{ours()})", "read"),
        ),
        graph(
            "Restoring a partition, and audio replayed",
            "From a partition's assignment to its first read, 95th percentile; audio a second taken in again.",
            "slow: a stream table that is not compacted, or a slow store. Much audio: checkpoints are missing or rare.",
            "s",
            Query(quantile(0.95, "trunkline_restore_duration_seconds"), "restore"),
            Query(f"sum({rate('trunkline_replayed_audio_seconds_total')})", "audio replayed a second"),
        ),
    ]


def _state() -> list[Panel]:
    return [
        graph(
            "Checkpoints a second",
            "By outcome; restored, refused and missing ones are asked for at a hand-over.",
            "failed: the store. Refused after a new model is right once. Missing: it forgets, see state.ttl_s and its "
            "memory policy.",
            "short",
            Query(f"sum by (outcome) ({rate('trunkline_checkpoints_total')})", "{{outcome}}"),
        ),
        graph(
            "Checkpoint bytes a second",
            "Written by all workers.",
            "at state.checkpoint_mb_per_s: checkpoints come late, and restarts replay more; raise it if Redis can.",
            "Bps",
            Query(f"sum({rate('trunkline_checkpoint_bytes_total')})", "written"),
        ),
        graph(
            "State store, 95th percentile",
            "Answered requests.",
            "near state.timeout_ms: Redis is busy or far away.",
            "s",
            Query(quantile(0.95, "trunkline_state_store_request_duration_seconds", "operation"), "{{operation}}"),
        ),
        graph(
            "State store errors a second",
            "Refused or too late.",
            "the workers' logs say which: memory full, no permission, no connection.",
            "short",
            Query(f"sum by (operation) ({rate('trunkline_state_store_errors_total')})", "{{operation}}"),
        ),
    ]

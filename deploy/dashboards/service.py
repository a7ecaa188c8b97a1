"""Do callers wait, and why? All workers of a deployment on one page."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.dashboards.panels import Bounds, Panel, Query, board, graph, number, ours, quantile, rate

BUSY = rate("trunkline_step_duration_seconds_sum")
HEARD = rate("trunkline_audio_processed_seconds_total")
FINALS = 'type!="partial"'
DEADLINE = f"trunkline_chunk_duration_seconds{ours()}"


def build() -> Dashboard:
    return board(
        "trunkline-service",
        "Trunkline: service",
        "Whether callers wait, and why.",
        [*_numbers(), *_waiting(), *_why(), *_content()],
    )


def _numbers() -> list[Panel]:
    return [
        number(
            "Lag",
            "Age of the oldest audio that is not yet through an engine: how long the worst-off caller waits.",
            "above 5 s follow the panels below from left to right: load, engine, reading.",
            "s",
            Query(f"max(trunkline_lag_seconds{ours()})"),
            Bounds(2, 5),
        ),
        number(
            "Audio waiting",
            "Audio that is not yet through an engine, read or not.",
            "if it grows, the workers hear less than is spoken: add workers.",
            "s",
            Query(f"sum(trunkline_lag_audio_seconds{ours()})"),
        ),
        number(
            "Streams",
            "Streams that take records; a stereo call is two.",
            "compare with what you expect; far less means that producers do not reach Kafka.",
            "short",
            Query(f"sum(trunkline_streams_open{ours()})"),
        ),
        number(
            "Busiest engine",
            "Share of time in which the busiest worker's engine steps.",
            "above 80 % for a quarter of an hour add workers, before callers wait.",
            "percentunit",
            Query(f"max({BUSY})"),
            Bounds(0.8, 0.95),
        ),
        number(
            "Workers",
            "Workers that take part in the group. Without any, the other numbers are the last that were known.",
            "if some are missing, look at the pods and their logs; partitions of a dead worker move in seconds.",
            "short",
            Query(f"sum(trunkline_ready{ours()}) or vector(0)"),
            Bounds(1, 0.5),
        ),
        number(
            "State store",
            "1 while all workers' state stores take checkpoints.",
            "at 0 look at Redis; calls go on, but a restart replays them from their beginning.",
            "short",
            Query(f"min(trunkline_state_store_up{ours()})"),
            Bounds(1, 0.5),
        ),
    ]


def _waiting() -> list[Panel]:
    return [
        graph(
            "Lag by worker",
            "Age of the oldest audio not yet through the engine.",
            "one worker only: see its dashboard. All workers: too much load, or Kafka.",
            "s",
            Query(f"max by (instance) (trunkline_lag_seconds{ours()})", "{{instance}}"),
        ),
        graph(
            "Delays, 95th percentile",
            "From a record's Kafka timestamp to the event on the broker; the last line includes the endpoint silence.",
            "partials slow: engine or lag. Only finals slow: commits, see *delivery and state*.",
            "s",
            Query(quantile(0.95, "trunkline_partial_delay_seconds"), "partial"),
            Query(quantile(0.95, "trunkline_final_delay_seconds"), "final"),
            Query(quantile(0.95, "trunkline_utterance_delay_seconds"), "end of utterance to final"),
        ),
    ]


def _why() -> list[Panel]:
    return [
        graph(
            "Streams against slots",
            "Active hold a slot; waiting and parked ones could go on but for a slot.",
            "waiting or parked while the engine is not busy: raise batching.slots. While it is: add workers.",
            "short",
            Query(f"sum(trunkline_slots{ours()})", "slots"),
            Query(f"sum(trunkline_streams_open{ours()})", "open"),
            Query(f"sum(trunkline_streams_active{ours()})", "active"),
            Query(f"sum(trunkline_streams_spilled{ours()})", "spilled"),
            Query(f"sum(trunkline_streams_waiting{ours()})", "waiting"),
            Query(f"sum(trunkline_streams_parked{ours()})", "parked"),
        ),
        graph(
            "Engine busy",
            "Share of time in which each worker's engine steps; 1 is all of it.",
            "at 1 with lag: overload, add workers. Low with lag: the audio does not come, see *Reading*.",
            "percentunit",
            Query(f"max by (instance) ({BUSY})", "{{instance}}"),
        ),
        graph(
            "Audio a second",
            "Seconds of audio a second: what is heard, and what the engines could hear as they are batched now.",
            "when heard comes near what could be heard, add workers.",
            "short",
            Query(f"sum({HEARD})", "heard"),
            Query(f"sum({HEARD}) / (sum({BUSY}) / count({BUSY}) > 0.01)", "could be heard"),
        ),
        graph(
            "Audio waiting, in memory and in Kafka",
            "Seconds of audio read and waiting, and an estimate of what is not read.",
            "falling by itself: wait. Flat or rising: add workers; the catch-up rate says how long it takes.",
            "s",
            Query(f"sum(trunkline_lag_audio_seconds{ours()})", "waiting, read or not"),
            Query(f"sum(trunkline_queue_audio_seconds{ours()})", "in memory"),
        ),
        graph(
            "Catch-up rate",
            "Seconds of waiting audio worked off a second: above 0 the workers catch up.",
            "0 with much waiting: they only just keep up, so add workers.",
            "short",
            Query(f"clamp_min(-sum(deriv(trunkline_lag_audio_seconds{ours()}[$__rate_interval])), 0)", "catching up"),
            Query(f"clamp_min(sum(deriv(trunkline_lag_audio_seconds{ours()}[$__rate_interval])), 0)", "falling behind"),
        ),
        graph(
            "Step time by phase against the deadline",
            "Mean of a step's phases, and the duration of a chunk: the deadline when every stream has one chunk ready.",
            "a sum near the deadline: a smaller batching.max_batch or a faster device. Much copying: more slots.",
            "s",
            Query(
                f"sum by (phase) ({rate('trunkline_step_phase_duration_seconds_sum')}) / on () group_left () "
                f"sum({rate('trunkline_step_duration_seconds_count')})",
                "{{phase}}",
            ),
            Query(f"max({DEADLINE})", "deadline"),
        ),
        graph(
            "Batch occupancy",
            "Streams in a step, mean, and the most that a step takes.",
            "always full: raise batching.max_batch if the device has room. Nearly empty is right with little load.",
            "short",
            Query(
                f"sum({rate('trunkline_batch_streams_sum')}) / sum({rate('trunkline_batch_streams_count')})",
                "streams a step",
            ),
            Query(f"max(trunkline_batch_capacity_streams{ours()})", "at most"),
        ),
        graph(
            "Reading",
            "Partitions that workers have, and those that are read; workers that pause.",
            "fewer read than assigned: a pause means full memory (overload, or events that Kafka does not take); else "
            "a broker is away.",
            "short",
            Query(f"sum(trunkline_partitions_assigned{ours()})", "assigned"),
            Query(f"sum(trunkline_partitions_read{ours()})", "read"),
            Query(f"sum(trunkline_reading_paused{ours()})", "workers pausing"),
        ),
    ]


def _content() -> list[Panel]:
    return [
        graph(
            "Events a second",
            "Events decided.",
            "utterances stop while audio is heard: listen to what is sent; it may be silence or the wrong encoding.",
            "short",
            Query(f"sum by (type) ({rate('trunkline_events_total', FINALS)})", "{{type}}"),
        ),
        graph(
            "Rejected, lost, repeated",
            "Records rejected and repeated a second, and seconds of audio a second that never came.",
            "look at audio.rejected, whose reasons docs/wire.md explains; gaps and duplicates are the producers'.",
            "short",
            Query(f"sum by (reason) ({rate('trunkline_records_rejected_total')}) > 0", "rejected: {{reason}}"),
            Query(f"sum({rate('trunkline_records_duplicate_total')})", "repeated"),
            Query(f"sum({rate('trunkline_gap_audio_seconds_total')})", "gaps, s of audio"),
        ),
    ]

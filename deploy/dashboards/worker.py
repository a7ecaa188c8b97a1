"""One worker: where its time and its memory go."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.dashboards.panels import Bounds, Panel, Query, board, graph, number, ours, quantile, rate

ONE = 'instance="$instance"'


def build() -> Dashboard:
    return board(
        "trunkline-worker",
        "Trunkline: one worker",
        "Where one worker's time and memory go.",
        [*_numbers(), *_engine(), *_load(), *_process()],
        by_worker=True,
    )


def _gauge(name: str) -> str:
    return f"trunkline_{name}{ours(ONE)}"


def _numbers() -> list[Panel]:
    return [
        number(
            "Ready",
            "1 while it takes part in the group; 0, too, when it is not there.",
            "at 0 ask its /readyz, which says what it waits for; if it does not answer, its pod is gone or hangs.",
            "short",
            Query(f"sum({_gauge('ready')}) or vector(0)"),
            Bounds(1, 0.5),
        ),
        number(
            "Lag",
            "Age of the oldest audio not yet through the engine.",
            "with a busy engine add workers; else see partitions and requests.",
            "s",
            Query(f"max({_gauge('lag_seconds')})"),
            Bounds(2, 5),
        ),
        number(
            "Engine busy",
            "Share of time in which the engine steps.",
            "above 80 % for long add workers.",
            "percentunit",
            Query(rate("trunkline_step_duration_seconds_sum", ONE)),
            Bounds(0.8, 0.95),
        ),
        number(
            "Streams",
            "Streams that take records.",
            "far more than on other workers: partitions are few, or keys are uneven.",
            "short",
            Query(_gauge("streams_open")),
        ),
        number(
            "Partitions",
            "Input partitions that it has.",
            "0: there are more workers than partitions, or it is not ready.",
            "short",
            Query(_gauge("partitions_assigned")),
        ),
        number(
            "Up since",
            "Time since its process started.",
            "short and again short: it crashes; read the log of the container before this one.",
            "s",
            Query(f"time() - process_start_time_seconds{ours(ONE)}"),
        ),
    ]


def _engine() -> list[Panel]:
    phases = f"sum by (phase) ({rate('trunkline_step_phase_duration_seconds_sum', ONE)})"
    steps = f"sum({rate('trunkline_step_duration_seconds_count', ONE)})"
    return [
        graph(
            "Share of time by phase",
            "Host time of the engine's thread. With CUDA a phase that waits for the device carries its time.",
            "much copying: more slots. Much features: more threads (model.threads). Else the model itself is the load.",
            "percentunit",
            Query(phases, "{{phase}}"),
            stacked=True,
        ),
        graph(
            "Step time over the deadline, by phase",
            "Mean of a step's phases as a share of a chunk's duration.",
            "a sum near 1: fewer streams a step (batching.max_batch), a faster device, or a larger look-ahead.",
            "percentunit",
            Query(f"{phases} / on () group_left () ({steps} * max({_gauge('chunk_duration_seconds')}))", "{{phase}}"),
            stacked=True,
        ),
        graph(
            "Step time",
            "Of whole steps, and the deadline: a chunk's duration.",
            "a high p99 alone: rare shapes or a busy machine; give the worker cores of its own.",
            "s",
            Query(quantile(0.5, "trunkline_step_duration_seconds", "", ONE), "p50"),
            Query(quantile(0.95, "trunkline_step_duration_seconds", "", ONE), "p95"),
            Query(quantile(0.99, "trunkline_step_duration_seconds", "", ONE), "p99"),
            Query(_gauge("chunk_duration_seconds"), "deadline"),
        ),
        graph(
            "Batch",
            "Streams in a step, encoder calls a step, and the most streams that a step takes.",
            "full batches and free device memory: raise batching.max_batch.",
            "short",
            Query(
                f"{rate('trunkline_batch_streams_sum', ONE)} / {rate('trunkline_batch_streams_count', ONE)}",
                "streams a step",
            ),
            Query(
                f"{rate('trunkline_encoder_calls_total', ONE)} / {rate('trunkline_batch_streams_count', ONE)}",
                "encoder calls a step",
            ),
            Query(_gauge("batch_capacity_streams"), "at most"),
        ),
    ]


def _load() -> list[Panel]:
    return [
        graph(
            "Streams against slots",
            "Where the streams' state is.",
            "waiting or parked for long: more slots if the engine has time, more workers if not.",
            "short",
            Query(_gauge("slots"), "slots"),
            Query(_gauge("streams_admitted"), "admitted"),
            Query(_gauge("streams_active"), "active"),
            Query(_gauge("streams_spilled"), "spilled"),
            Query(_gauge("streams_waiting"), "waiting"),
            Query(_gauge("streams_parked"), "parked"),
        ),
        graph(
            "Audio in memory",
            "Audio that waits for the engine, and where reading pauses; streams are parked from half of it.",
            "near the limit: overload. More memory (batching.memory_mb) only delays it.",
            "s",
            Query(_gauge("queue_audio_seconds"), "waiting"),
            Query(_gauge("queue_capacity_audio_seconds"), "limit"),
        ),
        graph(
            "Lag by partition",
            "Age of the oldest audio not yet through the engine.",
            "one partition only: its broker, or very uneven keys.",
            "s",
            Query(_gauge("lag_seconds"), "{{partition}}"),
        ),
        graph(
            "Audio waiting by partition",
            "Seconds of audio from the read position on, and what waits in memory.",
            "as lag; this is how much work it is.",
            "s",
            Query(_gauge("lag_audio_seconds"), "{{partition}}"),
        ),
        graph(
            "Records",
            "Records read a second, and those not read.",
            "none read while some are there: see partitions read on *Trunkline: service*.",
            "short",
            Query(rate("trunkline_records_read_total", ONE), "read a second"),
            Query(f"sum({_gauge('lag_records')})", "not read"),
        ),
        graph(
            "Audio",
            "Seconds of audio a second: read, heard, taken in again after a restart or parking.",
            "much taken in again: give the deployment a state store, or find out why workers restart.",
            "short",
            Query(rate("trunkline_audio_read_seconds_total", ONE), "read"),
            Query(rate("trunkline_audio_processed_seconds_total", ONE), "heard"),
            Query(rate("trunkline_replayed_audio_seconds_total", ONE), "again"),
        ),
    ]


def _process() -> list[Panel]:
    return [
        graph(
            "Memory",
            "The process, the streams' state in all slots, and what is held on the accelerator.",
            "the process near its limit: lower batching.memory_mb or batching.slots. Steady growth: report it.",
            "bytes",
            Query(f"process_resident_memory_bytes{ours(ONE)}", "process"),
            Query(_gauge("arena_bytes"), "arenas"),
            Query(_gauge("device_memory_bytes"), "accelerator"),
        ),
        graph(
            "Processor",
            "Cores that the process takes.",
            "at its limit while the engine is not busy: the event loop lacks time; give it a core more.",
            "short",
            Query(f"rate(process_cpu_seconds_total{ours(ONE)}[$__rate_interval])", "cores"),
        ),
    ]

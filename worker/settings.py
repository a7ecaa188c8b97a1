"""All settings of the worker in one model. `sources.py` says where they come from."""

import re
from dataclasses import astuple, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from producer.reach import addresses
from producer.security import SaslMechanism, Security, SecurityProtocol, read_secret, secret_problem, tls_problems
from wire.records import SAMPLE_RATES, Encoding
from wire.topics import Topics

PREFIX = "TRUNKLINE_"

Positive = Annotated[int, Field(gt=0)]

# No query: with one the client could be told to verify no certificate, and it may hold a password.
_REDIS_URL = re.compile(
    r"rediss?://(?:[^/?#@]*@)?(?:\[[0-9a-fA-F:.]+\]|[^/?#@:\[\]]+)(?::\d{1,5})?(?:/\d*)?|unix:///[^?#]+"
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def contradictions(self) -> dict[str, str]:
        """What is wrong with settings that are each right by itself, by field."""
        return {}


class KafkaSettings(Section):
    bootstrap_servers: str = Field(default="127.0.0.1:9092", description="Brokers, `host:port`, separated by commas.")
    group: str = Field(default="trunkline", description="Consumer group; workers of one group share the partitions.")
    audio_topic: str = Topics().audio
    final_topic: str = Topics().final
    partial_topic: str = Topics().partial
    rejected_topic: str = Topics().rejected
    streams_topic: str = Topics().streams
    session_timeout_ms: Positive = Field(
        default=10_000, description="A worker silent for so long loses its partitions."
    )
    request_timeout_ms: Positive = Field(default=15_000, description="Deadline of one request, and of start and stop.")
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        default="exactly_once",
        description="`exactly_once` needs transactions; `at_least_once` is for clusters without them.",
    )
    transaction_timeout_ms: Positive = Field(
        default=60_000, description="A transaction that takes longer is given up; also how long brokers keep one open."
    )
    commit_interval_ms: Positive = Field(
        default=3_000, description="How often the stream table and the offsets move on when there is no event."
    )
    commit_spacing_ms: Annotated[int, Field(ge=0)] = Field(
        default=50, description="From one transaction of a partition to the next at least; events wait so long at most."
    )
    instance_id: str | None = Field(
        default=None,
        description="Static membership: a restart within the session time-out keeps its partitions, but while the "
        "worker is down nobody else reads them, and a drain does not hand them over. Unique in the group.",
    )
    max_poll_records: Positive = Field(default=500, description="Records taken in one turn of the event loop.")
    security_protocol: SecurityProtocol = Field(
        default="PLAINTEXT",
        description="Of the brokers' port. With TLS (`SSL`, `SASL_SSL`) certificates and host names are verified.",
    )
    sasl_mechanism: SaslMechanism = Field(default="SCRAM-SHA-512", description="With `SASL_PLAINTEXT` and `SASL_SSL`.")
    sasl_username: str | None = Field(default=None, description="Who this worker is, with SASL.")
    sasl_password: SecretStr | None = Field(
        default=None, description="From the environment or a file; on a command line others can read it."
    )
    sasl_password_file: str | None = Field(default=None, description="A file with the password as its first line.")
    ssl_ca_file: str | None = Field(
        default=None, description="PEM certificates of the authorities to trust; the system's if not given."
    )
    ssl_cert_file: str | None = Field(
        default=None, description="This worker's PEM certificate, where brokers ask for one."
    )
    ssl_key_file: str | None = Field(default=None, description="Its key, without a passphrase.")

    @property
    def topics(self) -> Topics:
        return Topics(
            audio=self.audio_topic,
            final=self.final_topic,
            partial=self.partial_topic,
            rejected=self.rejected_topic,
            streams=self.streams_topic,
        )

    @property
    def security(self) -> Security:
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Security)}
        return Security(**given | {"sasl_password": _plain(self.sasl_password)})

    def client(self) -> dict[str, Any]:
        """Keyword arguments of aiokafka's clients. Raises SecurityError."""
        return {"bootstrap_servers": self.bootstrap_servers, **self.security.client()}

    def contradictions(self) -> dict[str, str]:
        found = self.security.problems()
        try:
            addresses(self.bootstrap_servers)
        except ValueError as wrong:
            found["bootstrap_servers"] = str(wrong)
        names = astuple(self.topics)
        for field, name in zip(fields(Topics), names, strict=True):
            if names.count(name) > 1:
                found[f"{field.name}_topic"] = f"{name!r} is the name of another topic, too"
        return found


class ModelSettings(Section):
    source: str = Field(description="A .nemo file or a Hugging Face name.")
    id: str | None = Field(default=None, description="Name in the events; the file's name and digest if not given.")
    look_ahead: Annotated[int, Field(ge=0)] = Field(
        default=6,
        description="Right context in encoder frames of 80 ms; one of the model's. Latency is (n + 1) frames.",
    )
    decoder: Literal["auto", "rnnt", "ctc"] = Field(default="auto", description="`auto`: RNN-T where the model has it.")
    engine: Literal["fast", "reference"] = Field(
        default="fast",
        description="`reference` is NeMo's own forward with the fixed cache update: slower, for comparison.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of weights and caches of the fast engine; exactness is promised for float32."
    )
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda`, `cuda:1`.")
    threads: Positive | None = Field(
        default=None,
        description="CPU threads of the model step; if not given, half of the cores that this process may use, by its "
        "affinity and its container's limit.",
    )


class BatchingSettings(Section):
    slots: Positive = Field(default=64, description="Streams whose state is on the device at once.")
    max_batch: Positive = Field(default=32, description="Streams in one step at most.")
    max_frames: Positive = Field(
        default=28,
        description="Encoder frames of 80 ms that a stream which fell behind takes in one step; a chunk at least.",
    )
    memory_mb: Positive = Field(default=512, description="Audio waiting in memory above which reading pauses.")


class StreamSettings(Section):
    encoding: Encoding = Field(default="pcm_s16le", description="Of audio that came without a start.")
    sample_rate: Literal[SAMPLE_RATES] = Field(default=8000, description="Of audio that came without a start, in Hz.")  # type: ignore[valid-type]
    language: str | None = Field(default=None, description="Of streams whose start names none.")
    partials: bool = Field(default=True, description="Publish partial transcripts unless the start says otherwise.")
    endpoint_ms: Positive = Field(default=800, description="Silence that ends an utterance.")
    max_utterance_ms: Positive = Field(default=30_000, description="An utterance is cut at the word that passes this.")
    idle_ms: Positive = Field(default=60_000, description="A stream without a record for so long is ended.")
    reorder_ms: Positive = Field(
        default=2_000, description="Later audio that must come before missing audio is given up."
    )
    gap_fill_ms: Annotated[int, Field(ge=0)] = Field(
        default=1_000, description="Longer gaps end the segment; shorter ones are filled with silence."
    )
    max_gap_ms: Positive = Field(default=86_400_000, description="A position further ahead than this is rejected.")


class StateSettings(Section):
    store: Literal["device", "redis"] = Field(
        default="device",
        description="Where a stream's state survives its worker: `device` nowhere (its audio is read again from its "
        "first record), `redis` in checkpoints.",
    )
    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0", description="`redis://`, or `rediss://` for TLS; host, port, database."
    )
    redis_username: str | None = Field(default=None, description="ACL user.")
    redis_password: SecretStr | None = Field(default=None, description="Of the ACL user or of the default user.")
    redis_password_file: str | None = Field(default=None, description="A file with the password as its first line.")
    redis_ca_file: str | None = Field(default=None, description="Certificates to trust; the system's if not given.")
    redis_cert_file: str | None = Field(default=None, description="Client certificate, where the server asks for one.")
    redis_key_file: str | None = Field(default=None, description="Key of the client certificate.")
    key_prefix: str = Field(default="trunkline:", description="Before every key.")
    ttl_s: Positive = Field(
        default=172_800, description="Redis forgets a checkpoint after so long; more than the audio topic's retention."
    )
    timeout_ms: Positive = Field(default=2_000, description="Deadline of one request to Redis.")
    checkpoint_after_ms: Positive = Field(
        default=10_000, description="A stream is checkpointed when a restart would have to compute so much audio again."
    )
    checkpoint_mb_per_s: Annotated[float, Field(gt=0)] = Field(
        default=50.0, description="Bandwidth to Redis that checkpoints may take, in MB/s."
    )

    @property
    def password(self) -> str | None:
        """Raises OSError, UnicodeDecodeError for a file that cannot be read."""
        if self.redis_password_file is not None:
            return read_secret(self.redis_password_file)
        return _plain(self.redis_password)

    def contradictions(self) -> dict[str, str]:
        if self.store != "redis":
            return {}
        found: dict[str, str] = {}
        files = {f"redis_{n}_file": getattr(self, f"redis_{n}_file") for n in ("ca", "cert", "key")}
        if not _REDIS_URL.fullmatch(self.redis_url):
            found["redis_url"] = (
                "is not redis://host:port/database, or rediss:// for TLS, and nothing behind it; in a password the "
                "characters / @ ? # are written %2F %40 %3F %23"
            )
        elif self.redis_url.startswith("rediss://"):
            found |= tls_problems(self.redis_ca_file, self.redis_cert_file, self.redis_key_file, "redis_")
        else:
            for name, path in files.items():
                if path is not None:
                    found[name] = "is given, but state.redis_url is not rediss://, so without TLS"
        if self.redis_password is not None and self.redis_password_file is not None:
            found["redis_password_file"] = "is given beside redis_password: which of them?"
        elif wrong := secret_problem(self.redis_password_file):
            found["redis_password_file"] = wrong
        elif self.redis_username is not None and self.redis_password is None and self.redis_password_file is None:
            found["redis_username"] = "is given, but no password"
        return found


class TelemetrySettings(Section):
    host: str = Field(default="127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=9090, description="0 takes a free port and logs it.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Of the log on standard error."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="`auto`: text on a terminal, else one JSON object a line."
    )
    traces: Literal["off", "otlp", "console"] = Field(
        default="off",
        description="OpenTelemetry: a span for each event whose last record carries a `traceparent`. Needs "
        "`trunkline[tracing]`; endpoint by OTEL_ variables.",
    )
    log_transcripts: bool = Field(
        default=False,
        description="Write finals into the log. Without it no words are, and never audio, at any level.",
    )


class Settings(BaseSettings):
    """Everything the worker can be told."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    model: ModelSettings
    batching: BatchingSettings = BatchingSettings()
    stream: StreamSettings = StreamSettings()
    state: StateSettings = StateSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    drain_timeout_s: Positive = Field(default=20, description="Time to publish what was heard after SIGTERM.")


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()

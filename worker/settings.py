"""All settings of the worker in one model: flags win over `TRUNKLINE_` environment, environment over YAML.

A nested setting is `TRUNKLINE_MODEL__LOOK_AHEAD` in the environment, `model: {look_ahead: ...}` in YAML and
`--model.look_ahead` as a flag. `load` reports every error at once.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SourceError

from wire.records import SAMPLE_RATES, Encoding
from wire.topics import Topics

PREFIX = "TRUNKLINE_"
NOT_SETTINGS = frozenset({"TRUNKLINE_CONFIG", "TRUNKLINE_FAILPOINT", "TRUNKLINE_TESTS_NO_SKIP"})

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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

    @property
    def topics(self) -> Topics:
        return Topics(
            audio=self.audio_topic,
            final=self.final_topic,
            partial=self.partial_topic,
            rejected=self.rejected_topic,
            streams=self.streams_topic,
        )


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
        default=None, description="CPU threads of the model step; half of the cores this process may use if not given."
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


class TelemetrySettings(Section):
    host: str = Field(default="127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=9090, description="0 takes a free port and logs it.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"


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


class SettingsError(Exception):
    """Wrong settings; `problems` names all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("wrong settings:\n" + "\n".join(f"  - {p}" for p in problems))
        self.problems = problems


def load(argv: Sequence[str] = ()) -> Settings:
    """Settings from flags, environment and the YAML file of `--config` or TRUNKLINE_CONFIG.

    Raises SettingsError with every problem; SystemExit for `--help` and for flags that do not exist.
    """
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--config", default=os.environ.get("TRUNKLINE_CONFIG"))
    chosen, rest = early.parse_known_args(list(argv))
    problems = _unknown_names(os.environ)
    written = _read_file(chosen.config, problems) if chosen.config else {}

    class Loaded(Settings):
        """Run one worker. `--config FILE` or TRUNKLINE_CONFIG names a YAML file with any of these settings."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            flags: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls,
                cli_prog_name="trunkline worker",
                cli_parse_args=rest,
                cli_hide_none_type=True,
                cli_avoid_json=True,
            )
            return (flags, env_settings, InitSettingsSource(settings_cls, written))

    try:
        loaded = Loaded()  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError(problems + [_sentence(item) for item in error.errors()]) from None
    except SourceError as error:
        raise SettingsError([*problems, str(error)]) from None
    if problems:
        raise SettingsError(problems)
    return loaded


def _read_file(path: str, problems: list[str]) -> dict[str, Any]:
    """The map in a YAML file; what is wrong with the file itself is added to `problems`."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(f"--config: {path!r} cannot be read: {error}")
        return {}
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        problems.append(f"--config: {path!r} holds no map of sections")
        return {}
    return found


def _unknown_names(environ: Mapping[str, str]) -> list[str]:
    """A mistyped section in the environment would otherwise be passed over in silence."""
    known = {name.upper() for name in Settings.model_fields}
    return [
        f"{name}: no such setting (sections: {', '.join(sorted(known))})"
        for name in sorted(environ)
        if name.startswith(PREFIX)
        and name not in NOT_SETTINGS
        and name.removeprefix(PREFIX).split("__")[0].upper() not in known
    ]


def _sentence(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if where == "model" and item["type"] == "missing":
        where = "model.source"  # the section is missing because its one required setting is
    found = "" if item["type"] == "missing" else f" (found {item['input']!r})"
    return f"{where}: {item['msg']}{found}; flag --{where}, environment {PREFIX}{where.upper().replace('.', '__')}"

"""The worker's log on standard error: a JSON object a line, or text for a terminal; with partition and stream.

A task that serves one partition says so once, by `serve`; a line about one stream says so with `extra=about(...)`.
"""

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.settings import TelemetrySettings

# What was said. Disabled, whatever the level, unless telemetry.log_transcripts asks for it.
transcripts = logging.getLogger("trunkline.transcripts")
transcripts.disabled = True

# At DEBUG the Kafka client writes whole requests: audio, transcripts, passwords.
_TALKATIVE = ("aiokafka",)
_CONTEXT = ("partition", "stream")
_partition: ContextVar[int | None] = ContextVar("partition", default=None)


def serve(partition: int) -> None:
    """From here on the lines of this task, and of tasks that it starts, are about this partition."""
    _partition.set(partition)


def about(partition: int | None = None, stream: str | None = None) -> dict[str, Any]:
    """For the `extra` of a line."""
    return {name: value for name, value in (("partition", partition), ("stream", stream)) if value is not None}


def set_up(settings: "TelemetrySettings") -> None:
    """Send all logs of this process to standard error, as the settings say."""
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text() if text else _Json())
    handler.addFilter(_in_context)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
    transcripts.disabled = not settings.log_transcripts
    transcripts.setLevel(logging.INFO)
    sys.excepthook = lambda kind, error, trace: logging.critical("the process ends", exc_info=(kind, error, trace))


def take_over(name: str) -> None:
    """Let a library's logger that writes by itself write through ours."""
    logger = logging.getLogger(name)
    logger.handlers.clear()
    logger.propagate = True


def _in_context(record: logging.LogRecord) -> bool:
    if not hasattr(record, "partition") and (partition := _partition.get()) is not None:
        record.partition = partition
    return True


def _context(record: logging.LogRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _CONTEXT if hasattr(record, name)}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds, rest = divmod(record.created, 1)
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(rest * 1000):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        context = " ".join(f"{name}={value}" for name, value in _context(record).items())
        return super().formatMessage(record) + (f" ({context})" if context else "")

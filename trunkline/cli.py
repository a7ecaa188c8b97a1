"""`trunkline COMMAND ...`: looks the command up and imports its module only then.

So `trunkline produce` and `trunkline tail` run where torch and NeMo are not installed.
"""

import importlib
import os
import signal
import sys
from importlib.metadata import version

# Command: module with `main(argv) -> int`, the extra that brings what it needs, one line of help.
_COMMANDS = {
    "produce": ("producer.cli", None, "send recordings and live audio to Kafka as calls"),
    "tail": ("trunkline.tail", None, "follow transcripts as they are made"),
    "topics": ("worker.ingest.topics_cli", None, "create, check and list the topics"),
    "doctor": ("worker.doctor.cli", "worker", "check whether a worker could work here, and say what to do"),
    "worker": ("worker.cli", "worker", "transcribe: audio from Kafka in, transcripts out"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (2 for wrong usage)."""
    arguments = sys.argv[1:] if argv is None else argv
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    if command in ("-V", "--version"):
        print(f"trunkline {version('trunkline')}")
        return 0
    if command not in _COMMANDS:
        print(f"trunkline: no command {command!r}\n\n{_help()}", file=sys.stderr)
        return 2
    module, extra, _ = _COMMANDS[command]
    try:
        run = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        print(
            f"trunkline {command} needs {error.name}, which is not installed. In a checkout: "
            f"pip install --require-hashes -r deploy/{extra}.lock",
            file=sys.stderr,
        )
        return 1
    try:
        code: int = run(rest)
        if sys.stdout is not None:  # it may have been closed before
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does; nor is the rest to be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _help() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, _, text) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: trunkline COMMAND [OPTIONS]",
            "",
            "commands:",
            *lines,
            "",
            "trunkline COMMAND --help says more.",
        ]
    )

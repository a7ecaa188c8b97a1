"""The command line of `trunkline produce`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from producer.flags import EPILOG as SECURITY
from producer.flags import add_kafka_flags, cluster
from producer.output import printable
from producer.raw import STDIN, RawFormat
from producer.security import SecurityError
from wire.records import ENCODINGS, SAMPLE_RATES, Scalar
from wire.topics import Topics

EPILOG = """\
exit codes:
  0    every call was played and every record is confirmed by Kafka
  1    Kafka was not reached, or calls were played and some audio is missing: not confirmed, dropped, or in a file
       that is damaged further in; each call's message says which. Also after Ctrl-C
  2    nothing was sent: wrong usage, or a file that cannot be played
  130  ended by Ctrl-C, 143 by SIGTERM: the calls were ended in good order, all they sent is confirmed.
       A second one stops at once; the calls may then lack their end

examples:
  trunkline produce call.wav                                        one call in real time
  trunkline produce recordings/ --channel-names agent,customer      all below it at once, stereo as two streams
  trunkline produce recordings/ --calls 200 --speed max --metadata site=oslo
  arecord -q -t raw -f S16_LE -r 16000 | trunkline produce --raw --sample-rate 16000 --call-id desk-4 -
  trunkline produce --raw --encoding mulaw --channels 2 call.ul     G.711 bytes go to Kafka as they are
  ffmpeg -v error -i rtsp://camera -f s16le -ar 8000 -ac 1 - | trunkline produce --raw --when-full drop -
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """The options; `raw` is a RawFormat or None, `cluster` where Kafka is.

    Exits with 2, and says why, where they make no sense.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.raw:
        for name in ("sample_rate", "channels"):
            if getattr(options, name) is not None:
                parser.error(f"--{name.replace('_', '-')} is for --raw; other files say it themselves")
        if STDIN in options.paths:
            parser.error("standard input needs --raw, with --encoding, --sample-rate and --channels as they are")
        options.raw = None
    else:
        for path in options.paths:
            if path.is_dir():
                parser.error(f"{printable(str(path))} is a directory; with --raw name the files")
        options.raw = RawFormat(options.encoding or "pcm_s16le", options.sample_rate or 8000, options.channels or 1)
    if STDIN in options.paths and (options.paths.count(STDIN) > 1 or options.calls):
        parser.error("standard input can be played once: without --calls, and named once")
    if options.call_id == "":
        parser.error("--call-id has at least one character")
    if options.call_id and (len(options.paths) > 1 or options.paths[0].is_dir() or options.calls):
        parser.error("--call-id is for a single call")
    try:
        options.cluster = cluster(options)
    except SecurityError as error:
        parser.error(str(error))
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trunkline produce",
        description="Send audio to Kafka as live calls. Each channel of a recording is its own stream.",
        epilog=f"{EPILOG}\n{SECURITY}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="FILE_OR_DIR",
        help="WAV, FLAC or OGG, 8 to 48 kHz; a directory with all below it; with --raw also - for standard input",
    )
    kafka = parser.add_argument_group("Kafka")
    add_kafka_flags(kafka)
    kafka.add_argument("--topic", default=Topics().audio, help="default: %(default)s")
    kafka.add_argument(
        "--delivery-timeout",
        type=_positive,
        default=120.0,
        metavar="S",
        help="seconds in which Kafka must confirm a record: a shorter outage loses nothing; default: %(default)g",
    )
    kafka.add_argument(
        "--queue-mb",
        type=_whole(1, 1_000_000),
        default=64,
        metavar="MB",
        help="audio kept in memory until Kafka confirms it; default: %(default)s",
    )
    kafka.add_argument(
        "--when-full",
        choices=("wait", "drop"),
        default="wait",
        help="when that is full: wait (the default), or drop new audio, which becomes a gap in the transcript",
    )
    kafka.add_argument(
        "--traces",
        choices=("off", "otlp", "console"),
        default="off",
        help="OpenTelemetry: each record becomes a span; console: on standard output. Sampling and endpoint by OTEL_ "
        "variables; default: %(default)s",
    )
    audio = parser.add_argument_group("audio")
    audio.add_argument("--raw", action="store_true", help="samples without a header, little-endian, interleaved")
    audio.add_argument(
        "--encoding",
        choices=ENCODINGS,
        help="with --raw what the samples are (default pcm_s16le); else what is sent (default: the file's own)",
    )
    audio.add_argument(
        "--sample-rate", type=int, choices=SAMPLE_RATES, metavar="HZ", help="of raw samples; default: 8000"
    )
    audio.add_argument("--channels", type=_whole(1, 64), metavar="N", help="of raw samples; default: 1")
    audio.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="N|max",
        help="1 is real time (default), max as fast as it goes; a pipe on standard input has its own pace",
    )
    audio.add_argument(
        "--chunk-ms",
        type=_whole(10, 1000),
        default=100,
        metavar="MS",
        help="audio of a record; default: %(default)s",
    )
    calls = parser.add_argument_group("calls")
    calls.add_argument(
        "--calls", type=_whole(1, 1_000_000), metavar="N", help="play N calls at once, repeating files as needed"
    )
    calls.add_argument("--call-id", metavar="ID", help="of a single call; default: the file's name, or stdin")
    calls.add_argument("--prefix", default="", help="put before the call ids")
    calls.add_argument("--language", metavar="TAG", help="for example en-US; comes back with the transcripts")
    calls.add_argument(
        "--channel-names",
        type=lambda text: text.split(","),
        default=[],
        metavar="A,B",
        help="names of the channels, for example agent,customer; default: 0,1",
    )
    calls.add_argument(
        "--metadata",
        type=_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="comes back with the transcripts; may be given several times",
    )
    return parser


def _speed(text: str) -> float | None:
    return None if text == "max" else _positive(text, " or max")


def _positive(text: str, other: str = "") -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number{other}")
    return number


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return number

    return parse


def _pair(text: str) -> tuple[str, Scalar]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value

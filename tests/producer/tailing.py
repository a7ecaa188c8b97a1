"""`trunkline tail` as a process, the events it reads, and the terminal it writes to."""

import os
import re
import select
import subprocess
import sys
import time
from itertools import count

from confluent_kafka import Producer as Client

from tests.producer.test_cli import ROOT
from wire import Head, Partial, StreamEnd, Utterance, Word, encode_final, encode_partial
from wire.events import Final
from wire.topics import event_id

COMMAND = [sys.executable, "-m", "trunkline", "tail"]


def head(stream: str, number: int, offset: int = 5, call: str | None = None, channel: str | None = None) -> Head:
    return Head(event_id(stream, 0, offset, number), stream, number, "m", (offset, offset + 9), call, channel)


def said(stream: str, number: int, text: str, **about: object) -> Utterance:
    words = tuple(Word(word, 1200, 3400, 0.5) for word in text.split())
    return Utterance(head(stream, number, **about), text, words, 1200, 3400, "silence")


def ended(stream: str, number: int, reason: str = "end", **about: object) -> StreamEnd:
    return StreamEnd(head(stream, number, **about), reason, 3_723_450, number, 7, 500)


def guess(stream: str, number: int, text: str, stable: str = "", **about: object) -> Partial:
    return Partial(head(stream, number, **about), text, stable, 1200, 2000)


class Worker:
    """Writes events as a worker does: finals in transactions, partials without."""

    _ids = count()

    def __init__(self, servers, topics) -> None:
        self._topics = topics
        common = {"bootstrap.servers": servers, "partitioner": "murmur2_random", "linger.ms": 0}
        self._partials = Client(common)
        self._finals = Client({**common, "transactional.id": f"{topics.final}-{next(self._ids)}"})
        self._finals.init_transactions(20)

    def tell(self, *events: Final | Partial, commit: bool = True, partition: int | None = None) -> None:
        where = {} if partition is None else {"partition": partition}
        finals = [event for event in events if not isinstance(event, Partial)]
        for event in events:
            if isinstance(event, Partial):
                self._partials.produce(self._topics.partial, encode_partial(event), event.head.stream, **where)
        assert self._partials.flush(20) == 0
        if finals:
            self._finals.begin_transaction()
            for event in finals:
                self._finals.produce(self._topics.final, encode_final(event), event.head.stream, **where)
            assert self._finals.flush(20) == 0
            self._finals.commit_transaction(20) if commit else self._finals.abort_transaction(20)


class Tail:
    """The command in a process of its own; ready when it follows."""

    def __init__(self, servers, topics, *arguments, stdout=subprocess.PIPE, environment=None) -> None:
        names = ("--final-topic", topics.final, "--partial-topic", topics.partial)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments, "--bootstrap-servers", servers, *names],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        self._read = b""
        self.greeting = self.process.stderr.readline().decode()
        assert self.greeting.startswith("following "), self.greeting + self.process.stderr.read().decode()

    def line(self, timeout_s: float = 20) -> str:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._read:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no line but {self._read!r}"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"ended after {self._read!r}"
            self._read += data
        line, self._read = self._read.split(b"\n", 1)
        return line.decode()

    def end(self, timeout_s: float = 20) -> tuple[list[str], str]:
        """The lines that remain, and the errors, once it has ended by itself."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return (self._read + stdout).decode().splitlines(), stderr.decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


class Screen:
    """What a terminal shows after these bytes: new lines, returns, cursor up, erased lines; no wrapping."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = self._column = 0

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]

    def write(self, text: str) -> None:
        for code, char in re.findall(r"\x1b\[([0-9;?]*[a-zA-Z])|(.)", text, re.DOTALL):
            if char == "\n":
                self._row += 1
                self.lines += [""] * (self._row + 1 - len(self.lines))
            elif char == "\r":
                self._column = 0
            elif char:
                line = self.lines[self._row].ljust(self._column)
                self.lines[self._row] = line[: self._column] + char + line[self._column + 1 :]
                self._column += 1
            elif code.endswith("A"):
                self._row = max(0, self._row - int(code[:-1] or 1))
            elif code == "2K":
                self.lines[self._row] = ""
            else:
                assert code.endswith("m") or code in ("?25l", "?25h"), code

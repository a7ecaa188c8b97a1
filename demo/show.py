"""The live table of calls; plain lines where there is no terminal."""

import asyncio
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo.follow import Transcript
from producer.output import terminal

REFRESH_S = 0.2


class Screen:
    """Shows the transcripts of all streams as they grow, until cancelled."""

    def __init__(
        self, console: Console, transcripts: Mapping[str, Transcript], seconds: Callable[[str], float]
    ) -> None:
        self._console = console
        self._transcripts = transcripts
        self._seconds = seconds

    async def run(self) -> None:
        if terminal():
            with Live(console=self._console, auto_refresh=False) as live:
                try:
                    while True:
                        live.update(self._table(), refresh=True)
                        await asyncio.sleep(REFRESH_S)
                finally:
                    live.update(self._table(), refresh=True)
        told: dict[str, int] = {}
        while True:
            for stream, transcript in sorted(self._transcripts.items()):
                for text in transcript.said[told.get(stream, 0) :]:
                    self._console.print(f"{stream:<12} {transcript.channel:<9} {text}", highlight=False)
                told[stream] = len(transcript.said)
            await asyncio.sleep(REFRESH_S)

    def _table(self) -> Table:
        table = Table(expand=True, box=None, pad_edge=False, header_style="bold")
        table.add_column("call", no_wrap=True, width=12)
        table.add_column("who", no_wrap=True, width=9)
        table.add_column("s", justify="right", width=3)
        table.add_column("transcript (dim: not final yet)", no_wrap=True, ratio=1)
        room = max(20, self._console.width - 30)
        for stream, transcript in sorted(self._transcripts.items()):
            line = Text(transcript.text)
            if transcript.hypothesis:
                line.append((" " if transcript.said else "") + transcript.hypothesis, style="dim italic")
            if len(line) > room:  # the newest words are at the end
                line = Text("…") + line[len(line) - room + 1 :]
            mark = "✓" if transcript.ended else f"{self._seconds(stream):.0f}"
            table.add_row(stream, transcript.channel, mark, line)
        return table

"""Vocabulary pieces to words with times and confidence."""

from dataclasses import dataclass, field
from typing import Any

from wire.events import Word

WORD_START = "\u2581"  # SentencePiece's mark of a piece that begins a word


@dataclass(slots=True)
class OpenWord:
    """A word that may still grow; frames count from the segment's start."""

    text: str
    start: int
    end: int
    confidences: list[float] = field(default_factory=list)

    def grow(self, text: str, frame: int, confidence: float) -> None:
        self.text += text
        self.end = frame + 1
        self.confidences.append(confidence)

    def close(self, origin: int, frame_ms: int, told: int = 0, limit: int | None = None) -> Word:
        """The word in ms of stream time; its confidence is the mean over its tokens.

        It begins no earlier than `told`, up to where words were told, and ends no later than `limit`: the last
        frames reach past the segment's audio.
        """
        mean = sum(self.confidences) / len(self.confidences)
        # rounded, since float32 takes a probability past 1 and its last bits depend on the batch
        start, end = (origin + frame * frame_ms for frame in (self.start, self.end))
        if limit is not None:
            start, end = min(start, limit), min(end, limit)
        return Word(self.text, max(start, told), end, round(min(mean, 1.0), 4))


class Hypothesis:
    """The words of the utterance under way. Greedy tokens never change, so only the last word can."""

    def __init__(self, pieces: tuple[str, ...]) -> None:
        self._pieces = pieces
        self.words: list[OpenWord] = []
        self.tokens = 0

    def begins_word(self, token: int) -> bool:
        return not self.words or self._pieces[token].startswith(WORD_START)

    def add(self, token: int, frame: int, confidence: float) -> None:
        """Take the next token, emitted at encoder frame `frame`."""
        text = self._pieces[token].removeprefix(WORD_START)
        # a bare mark is the start of a word whose letters follow
        if self.begins_word(token) and not (self.words and not self.words[-1].text):
            self.words.append(OpenWord("", frame, frame))
        self.words[-1].grow(text, frame, confidence)
        self.tokens += 1

    def text(self, first: int = 0) -> str:
        """The words from number `first` on."""
        return " ".join(word.text for word in self.words[first:] if word.text)

    def stable(self, first: int = 0) -> str:
        """The part of `text(first)` that will not change."""
        return " ".join(word.text for word in self.words[first:-1] if word.text)

    def state(self) -> list[list[Any]]:
        """Plain values: text, start, end and confidences of each word."""
        return [[word.text, word.start, word.end, [*word.confidences]] for word in self.words]

    def restore(self, state: list[list[Any]]) -> None:
        self.words = [OpenWord(*word) for word in state]
        self.tokens = sum(len(word.confidences) for word in self.words)

    def take(self, keep_last: bool = False) -> list[OpenWord]:
        """Remove and return the words; with `keep_last` the last one stays and may grow."""
        count = len(self.words) - (1 if keep_last else 0)
        taken, self.words = self.words[:count], self.words[count:]
        self.tokens = sum(len(word.confidences) for word in self.words)
        return [word for word in taken if word.text]

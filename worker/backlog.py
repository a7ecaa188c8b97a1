"""How much audio a number of unread records holds."""

# Records that the mean looks back on, about.
WINDOW = 1_000
# Of a record, before any was read: what most producers send at once.
USUAL_S = 0.1


class RecordAudio:
    """Mean seconds in an audio record of one partition, lately. `new`: seconds since they were last counted."""

    def __init__(self) -> None:
        self.new = 0.0
        self._records = 0
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """A record that holds so much."""
        self.new += seconds
        self._records += 1
        self._seconds += seconds
        if self._records > 2 * WINDOW:
            self._records //= 2
            self._seconds *= self._records / (2 * WINDOW + 1)

    @property
    def mean(self) -> float:
        return self._seconds / self._records if self._records else USUAL_S

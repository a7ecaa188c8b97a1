"""Hypothesis strategies: every record and event that the contract allows, and values that it may not."""

from hypothesis import strategies as st

from wire import ENCODINGS, SAMPLE_RATES, events, records

INT = st.integers(0, 2**63 - 1)


def text(low: int, high: int) -> st.SearchStrategy[str]:
    """Strings of low..high bytes of UTF-8."""
    letters = st.characters(exclude_categories=("Cs",))
    return st.text(letters, min_size=low, max_size=min(high, 40)).filter(lambda s: len(s.encode()) <= high)


def optional(strategy):
    return st.none() | strategy


NONCE = text(1, 64)
METADATA = st.dictionaries(
    text(1, 128),
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text(0, 1024),
    max_size=64,
)
OPTIONS = st.builds(
    records.Options,
    look_ahead=optional(INT),
    endpoint_ms=optional(INT),
    max_utterance_ms=optional(INT),
    idle_ms=optional(INT),
    decoder=optional(st.sampled_from(records.DECODERS)),
    partials=optional(st.booleans()),
)
RECORDS = st.one_of(
    st.builds(
        records.Start,
        nonce=NONCE,
        encoding=st.sampled_from(ENCODINGS),
        sample_rate=st.sampled_from(SAMPLE_RATES),
        language=optional(text(1, 64)),
        call_id=optional(text(1, 256)),
        channel=optional(text(1, 64)),
        metadata=METADATA,
        options=OPTIONS,
    ),
    st.builds(records.Audio, sequence=INT, position=INT, payload=st.binary(min_size=1), nonce=optional(NONCE)),
    st.builds(records.Flush, id=text(1, 128), nonce=optional(NONCE), position=optional(INT)),
    st.builds(records.End, nonce=optional(NONCE), position=optional(INT)),
)

HEAD = st.builds(
    events.Head,
    id=text(1, 512),
    stream=text(1, 256),
    number=INT,
    model=text(1, 1024),
    offsets=st.tuples(INT, INT).map(lambda pair: tuple(sorted(pair))),
    call_id=optional(text(1, 256)),
    channel=optional(text(1, 64)),
    language=optional(text(1, 64)),
    metadata=METADATA,
)


@st.composite
def spans(draw, kind, **fields):
    """Events and words with a start that is not after their end."""
    start, end = sorted(draw(st.tuples(INT, INT)))
    return draw(st.builds(kind, start=st.just(start), end=st.just(end), **fields))


@st.composite
def partials(draw):
    whole = draw(text(0, 200))
    stable = whole[: draw(st.integers(0, len(whole)))]
    return draw(spans(events.Partial, head=HEAD, text=st.just(whole), stable=st.just(stable)))


WORD = spans(events.Word, text=text(0, 200), confidence=st.floats(0, 1))
FINALS = st.one_of(
    spans(
        events.Utterance,
        head=HEAD,
        text=text(0, 200),
        words=st.lists(WORD, max_size=5).map(tuple),
        reason=st.sampled_from(events.UTTERANCE_REASONS),
    ),
    st.builds(events.Marker, head=HEAD, flush_id=text(1, 128), time=INT),
    spans(events.Gap, head=HEAD),
    st.builds(
        events.StreamEnd,
        head=HEAD,
        reason=st.sampled_from(events.END_REASONS),
        duration=INT,
        utterances=INT,
        words=INT,
        gap_ms=INT,
    ),
)

# What MessagePack can express, keys of any kind included.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=("Cs",)))
    | st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS.filter(lambda k: k == k), inner, max_size=4),
    max_leaves=12,
)

"""One example per record and event type: the object, and its wire map written by hand."""

import hashlib
from typing import Any

from wire import (
    Audio,
    End,
    Flush,
    Gap,
    Head,
    Marker,
    Options,
    Partial,
    Rejected,
    Start,
    StreamEnd,
    Utterance,
    Word,
)

HEAD = Head(
    id="call-7/0/3-1041/2",
    stream="call-7/0",
    number=2,
    model="demo-hybrid",
    offsets=(1041, 1099),
    call_id="call-7",
    channel="agent",
    language="en",
    metadata={"queue": "billing", "priority": 2},
)
HEAD_MAP = {
    "id": "call-7/0/3-1041/2",
    "stream": "call-7/0",
    "number": 2,
    "model": "demo-hybrid",
    "offsets": [1041, 1099],
    "call_id": "call-7",
    "channel": "agent",
    "language": "en",
    "metadata": {"queue": "billing", "priority": 2},
}
BARE_HEAD = Head(id="s/0-0/0", stream="s", number=0, model="m", offsets=(0, 9))
BARE_HEAD_MAP = {"id": "s/0-0/0", "stream": "s", "number": 0, "model": "m", "offsets": [0, 9]}
SHA256 = hashlib.sha256(b"\xc1").digest()

RECORDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "start": (
        Start(
            nonce="b7e1",
            encoding="pcm_f32le",
            sample_rate=16000,
            language="de",
            call_id="call-7",
            channel="Kundin Müller",
            metadata={"a": "ü", "b": -3, "c": 0.5, "d": True, "e": None},
            options=Options(
                look_ahead=6,
                endpoint_ms=800,
                max_utterance_ms=30000,
                idle_ms=60000,
                decoder="ctc",
                partials=False,
            ),
        ),
        {
            "v": 1,
            "type": "start",
            "nonce": "b7e1",
            "encoding": "pcm_f32le",
            "sample_rate": 16000,
            "call_id": "call-7",
            "channel": "Kundin Müller",
            "language": "de",
            "metadata": {"a": "ü", "b": -3, "c": 0.5, "d": True, "e": None},
            "options": {
                "look_ahead": 6,
                "endpoint_ms": 800,
                "max_utterance_ms": 30000,
                "idle_ms": 60000,
                "decoder": "ctc",
                "partials": False,
            },
        },
    ),
    "start_minimal": (
        Start(nonce="n", encoding="mulaw", sample_rate=8000),
        {"v": 1, "type": "start", "nonce": "n", "encoding": "mulaw", "sample_rate": 8000},
    ),
    "audio": (
        Audio(sequence=4, position=3200, payload=bytes(range(256)), nonce="b7e1"),
        {
            "v": 1,
            "type": "audio",
            "sequence": 4,
            "position": 3200,
            "payload": bytes(range(256)),
            "nonce": "b7e1",
        },
    ),
    "audio_minimal": (
        Audio(sequence=0, position=0, payload=b"\x7f"),
        {"v": 1, "type": "audio", "sequence": 0, "position": 0, "payload": b"\x7f"},
    ),
    "flush": (
        Flush(id="f-1", nonce="b7e1", position=2**63 - 1),
        {"v": 1, "type": "flush", "id": "f-1", "nonce": "b7e1", "position": 2**63 - 1},
    ),
    "flush_minimal": (Flush(id="f"), {"v": 1, "type": "flush", "id": "f"}),
    "end": (End(nonce="b7e1", position=480000), {"v": 1, "type": "end", "nonce": "b7e1", "position": 480000}),
    "end_minimal": (End(), {"v": 1, "type": "end"}),
}

FINALS: dict[str, tuple[Any, dict[str, Any]]] = {
    "utterance": (
        Utterance(
            head=HEAD,
            text="grüezi mitenand",
            words=(Word("grüezi", 160, 560, 0.9375), Word("mitenand", 560, 1200, 1.0)),
            start=160,
            end=1200,
            reason="silence",
        ),
        {
            "v": 1,
            "type": "utterance",
            **HEAD_MAP,
            "text": "grüezi mitenand",
            "words": [
                {"text": "grüezi", "start": 160, "end": 560, "confidence": 0.9375},
                {"text": "mitenand", "start": 560, "end": 1200, "confidence": 1.0},
            ],
            "start": 160,
            "end": 1200,
            "reason": "silence",
        },
    ),
    "utterance_minimal": (
        Utterance(head=BARE_HEAD, text="", words=(), start=0, end=0, reason="max_length"),
        {
            "v": 1,
            "type": "utterance",
            **BARE_HEAD_MAP,
            "text": "",
            "words": [],
            "start": 0,
            "end": 0,
            "reason": "max_length",
        },
    ),
    "marker": (
        Marker(head=HEAD, flush_id="f-1", time=30000),
        {"v": 1, "type": "marker", **HEAD_MAP, "flush_id": "f-1", "time": 30000},
    ),
    "gap": (
        Gap(head=HEAD, start=500, end=720),
        {"v": 1, "type": "gap", **HEAD_MAP, "start": 500, "end": 720},
    ),
    "stream_end": (
        StreamEnd(head=HEAD, reason="idle", duration=60000, utterances=7, words=93, gap_ms=220),
        {
            "v": 1,
            "type": "end",
            **HEAD_MAP,
            "reason": "idle",
            "duration": 60000,
            "utterances": 7,
            "words": 93,
            "gap_ms": 220,
        },
    ),
}

PARTIALS: dict[str, tuple[Any, dict[str, Any]]] = {
    "partial": (
        Partial(head=HEAD, text="grüezi mit", stable="grüezi", start=160, end=800),
        {
            "v": 1,
            "type": "partial",
            **HEAD_MAP,
            "text": "grüezi mit",
            "stable": "grüezi",
            "start": 160,
            "end": 800,
        },
    ),
}

REJECTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "rejected": (
        Rejected(reason="malformed", detail="the value is not one", data=b"\xc1", size=1, sha256=SHA256),
        {
            "v": 1,
            "type": "rejected",
            "reason": "malformed",
            "detail": "the value is not one",
            "data": b"\xc1",
            "size": 1,
            "sha256": SHA256,
        },
    ),
}

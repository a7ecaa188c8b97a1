"""Word error rate against the demo calls' true texts, and percentiles."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jiwer
import numpy as np

CALLS = Path(__file__).parent / "calls"


def references() -> dict[str, str]:
    """True text of each channel, by stream id of its file: `call-00/0`, `call-00/1`, ..."""
    texts: dict[str, list[str]] = {}
    for call in json.loads((CALLS / "calls.json").read_text()):
        name = Path(call["file"]).stem
        for channel in range(len(call["channels"])):
            texts[f"{name}/{channel}"] = []
        for turn in call["turns"]:
            texts[f"{name}/{turn['channel']}"].append(turn["text"])
    return {stream: " ".join(said) for stream, said in texts.items()}


def word_error_rate(heard: Mapping[str, str]) -> tuple[float, int]:
    """Errors per word of the true texts, and how many words those have. A call played again is `call-00-2/0`."""
    true = references()
    pairs = []
    for stream, text in sorted(heard.items()):
        call, _, channel = stream.rpartition("/")
        name = "-".join(call.split("-")[:2])
        pairs.append((true[f"{name}/{channel}"], text))
    result = jiwer.process_words([reference for reference, _ in pairs], [text for _, text in pairs])
    words = sum(len(reference.split()) for reference, _ in pairs)
    return float(result.wer), words


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else float("nan")

"""Greedy decoding of a whole encoder output: by NeMo, and by hand with the probabilities that NeMo does not show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.engine.interface import Tokens

AMBIGUOUS = 1e-3  # log probability between the best two, under which streaming may decide otherwise
NEAR = 1e-4  # the same for two plays of one signal by one engine, whose frames differ less


@dataclass(frozen=True)
class Step:
    """One decision of a greedy decoder."""

    label: int | None  # None for blank and for a repeated CTC label
    frame: int
    probability: float
    margin: float  # between the best two, in log probability


def _decide(scores: Tensor, frame: int) -> tuple[int, Step]:
    best = scores.log_softmax(-1).topk(2)
    label = int(best.indices[0])
    return label, Step(label, frame, float(best.values[0].exp()), float(best.values[0] - best.values[1]))


@torch.inference_mode()
def rnnt_steps(nemo: Any, encoded: Tensor, max_symbols: int) -> list[Step]:
    """The textbook loop over frames and symbols, one joint call for each decision. encoded: (T, D)."""
    blank = nemo.joint.num_classes_with_blank - 1
    predicted, state = nemo.decoder.predict(None, None, add_sos=False, batch_size=1)
    steps = []
    for frame, vector in enumerate(encoded):
        for _ in range(max_symbols):
            label, step = _decide(nemo.joint.joint(vector[None, None], predicted)[0, 0, 0], frame)
            if label == blank:
                steps.append(Step(None, frame, step.probability, step.margin))
                break
            steps.append(step)
            predicted, state = nemo.decoder.predict(torch.tensor([[label]]), state, add_sos=False, batch_size=1)
    return steps


@torch.inference_mode()
def ctc_steps(nemo: Any, encoded: Tensor) -> list[Step]:
    head = getattr(nemo, "ctc_decoder", nemo.decoder)
    blank = before = head.num_classes_with_blank - 1
    steps = []
    for frame, scores in enumerate(head(encoder_output=encoded.T[None])[0]):
        label, step = _decide(scores, frame)
        new = label not in (blank, before)
        steps.append(step if new else Step(None, frame, step.probability, step.margin))
        before = label
    return steps


def steps(nemo: Any, encoded: Tensor, decoder: str) -> list[Step]:
    if decoder == "ctc":
        return ctc_steps(nemo, encoded)
    return rnnt_steps(nemo, encoded, nemo.cfg.decoding.greedy.max_symbols)


@torch.inference_mode()
def nemo_hypothesis(nemo: Any, encoded: Tensor, decoder: str) -> Any:
    """NeMo's own offline greedy decoding of (T, D): a Hypothesis."""
    length = torch.tensor([len(encoded)])
    if decoder == "rnnt":
        return nemo.decoding.rnnt_decoder_predictions_tensor(encoded.T[None], length, return_hypotheses=True)[0]
    hybrid = hasattr(nemo, "ctc_decoder")
    scores = (nemo.ctc_decoder if hybrid else nemo.decoder)(encoder_output=encoded.T[None])
    decoding = nemo.ctc_decoding if hybrid else nemo.decoding
    return decoding.ctc_decoder_predictions_tensor(scores, length, return_hypotheses=True)[0]


def compare(tokens: Tokens, expected: Sequence[Step]) -> float:
    """Assert that labels, frames and confidences are those expected, up to the first frame whose decision is
    ambiguous; from there on the two may part. Returns the share of frames compared."""
    frames = expected[-1].frame + 1
    limit = next((step.frame for step in expected if step.margin <= AMBIGUOUS), frames)
    made = list(zip(tokens.ids, tokens.frames, tokens.confidences, strict=True))
    made = [token for token in made if token[1] < limit]
    wanted = [step for step in expected if step.label is not None and step.frame < limit]
    assert [token[:2] for token in made] == [(step.label, step.frame) for step in wanted]
    for (_, _, confidence), step in zip(made, wanted, strict=True):
        assert abs(confidence - step.probability) <= 1e-4
    return limit / frames


def judge(nemo: Any, encoded: Tensor, tokens: Tokens, decoder: str) -> int:
    """Assert, for every frame, that what was decided there is what greedy decoding of encoded (T, D) decides.

    Unlike `compare` this does not end at the first ambiguous decision: RNN-T is asked for its scores after the labels
    that were in fact chosen, and each choice must be the best one, or as good but for AMBIGUOUS; a CTC frame's decision
    depends on no earlier one but the last frame's. Returns the number of frames before the first whose decision is
    closer than NEAR.
    """
    if not len(encoded):
        assert not tokens.ids
        return 0
    return (_judge_ctc if decoder == "ctc" else _judge_rnnt)(nemo, encoded, tokens)


@torch.inference_mode()
def _judge_rnnt(nemo: Any, encoded: Tensor, tokens: Tokens) -> int:
    blank, most = nemo.joint.num_classes_with_blank - 1, nemo.cfg.decoding.greedy.max_symbols
    places: list[tuple[int, int]] = []  # of each decision: its frame, and how many labels came before it
    labels: list[int] = []
    made = 0
    for frame in range(len(encoded)):
        here = tokens.ids[made : made + tokens.frames[made:].count(frame)]
        assert len(here) <= most
        decided = here if len(here) == most else [*here, blank]
        places += [(frame, made + number) for number in range(len(decided))]
        labels += decided
        made += len(here)
    assert made == len(tokens.ids)
    assert tokens.frames == sorted(tokens.frames)
    frames, before = (list(column) for column in zip(*places, strict=True))
    predicted, _ = nemo.decoder.predict(torch.tensor([tokens.ids], dtype=torch.int64), None, add_sos=True)
    scores = nemo.joint.joint(encoded[frames][:, None], predicted[0, before][:, None])[:, 0, 0].log_softmax(-1)
    best = scores.topk(2).values
    chosen = scores[torch.arange(len(labels)), labels]
    assert float((best[:, 0] - chosen).max()) <= AMBIGUOUS
    scored = [score for label, score in zip(labels, chosen.exp().tolist(), strict=True) if label != blank]
    for confidence, score in zip(tokens.confidences, scored, strict=True):
        assert abs(confidence - score) <= 1e-4
    close = (best[:, 0] - best[:, 1] <= NEAR).nonzero()
    return frames[int(close[0])] if len(close) else len(encoded)


@torch.inference_mode()
def _judge_ctc(nemo: Any, encoded: Tensor, tokens: Tokens) -> int:
    expected = ctc_steps(nemo, encoded)
    made = dict(zip(tokens.frames, zip(tokens.ids, tokens.confidences, strict=True), strict=True))
    assert tokens.frames == sorted(made)  # in order, one a frame
    assert made.keys() <= set(range(len(expected)))
    certain = [step.margin > AMBIGUOUS for step in expected]
    for step, here, before in zip(expected, certain, [True, *certain], strict=False):
        if here and before:
            label, confidence = made.get(step.frame, (None, None))
            assert label == step.label, step
            assert confidence is None or abs(confidence - step.probability) <= 1e-4
    return next((step.frame for step in expected if step.margin <= NEAR), len(expected))

"""Greedy decoding in batches, with each stream's decoder state in the arenas.

A decoder takes the encoder frames that a step emitted and returns the tokens they add. The arithmetic is
NeMo's own: its CTC head, and its label-looping computer for RNN-T, which takes rows of different length.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from worker.engine.arenas import Arenas
from worker.engine.interface import Tokens
from worker.engine.ragged import valid, window


class Decoder(Protocol):
    def add_state(self, arenas: Arenas) -> None:
        """Allocate this decoder's arenas, filled with the state before the first frame."""

    def __call__(self, encoded: Tensor, length: Tensor, slots: Tensor, arenas: Arenas) -> list[Tokens]:
        """Decode (B, T, D) frames, `length[b]` of them valid, and advance the state of `slots`.

        Frames in the result count from the first of this call.
        """


class CtcDecoder:
    """Greedy CTC: a label counts where it is not blank and differs from the frame before."""

    def __init__(self, head: Any) -> None:
        self._head = head
        self._blank = int(head.num_classes_with_blank) - 1

    def add_state(self, arenas: Arenas) -> None:
        arenas.add("ctc.last_label", torch.tensor(self._blank))

    def __call__(self, encoded: Tensor, length: Tensor, slots: Tensor, arenas: Arenas) -> list[Tokens]:
        if not encoded.shape[1]:
            return [Tokens() for _ in slots]
        scores, labels = self._head(encoder_output=encoded.transpose(1, 2)).max(-1)
        before = torch.cat([arenas.gather("ctc.last_label", slots)[:, None], labels], dim=1)
        emitted = (labels != self._blank) & (labels != before[:, :-1]) & valid(length, labels.shape[1])
        arenas.scatter("ctc.last_label", slots, window(before, length, 1)[:, 0])
        row, frame = (index.tolist() for index in emitted.nonzero(as_tuple=True))
        tokens = [Tokens() for _ in range(len(labels))]
        for b, t, label, score in zip(
            row, frame, labels[emitted].tolist(), scores[emitted].exp().tolist(), strict=True
        ):
            tokens[b].ids.append(label)
            tokens[b].frames.append(t)
            tokens[b].confidences.append(score)
        return tokens


class RnntDecoder:
    """Greedy RNN-T by NeMo's label-looping computer, on predictor states gathered from the arenas."""

    def __init__(self, predictor: Any, joint: Any, max_symbols: int) -> None:
        from nemo.collections.asr.parts.submodules.transducer_decoding.label_looping_base import (
            BatchedLabelLoopingState,
        )
        from nemo.collections.asr.parts.submodules.transducer_decoding.rnnt_label_looping import (
            GreedyBatchedRNNTLabelLoopingComputer,
        )
        from omegaconf import OmegaConf

        self._state_type = BatchedLabelLoopingState
        self.computer = GreedyBatchedRNNTLabelLoopingComputer(
            decoder=predictor,
            joint=joint,
            blank_index=int(joint.num_classes_with_blank) - 1,
            max_symbols_per_step=max_symbols,
            preserve_step_confidence=True,
            exclude_blank_from_confidence=True,
            # alpha scales the softmax; 1 leaves the maximum probability as it is
            confidence_method_cfg=OmegaConf.create({"name": "max_prob", "alpha": 1.0}),
            # graphs keep a batch's state in buffers of their own; `torch_impl` takes ours and gives it back
            allow_cuda_graphs=False,
        )
        self._blank = int(joint.num_classes_with_blank) - 1
        self._classes = int(joint.num_classes_with_blank)
        self._device = next(joint.parameters()).device

    def add_state(self, arenas: Arenas) -> None:
        start = self.computer._get_batched_decoding_state_after_sos(device=self._device, batch_size=1)
        for index, part in enumerate(start.predictor_states):  # LSTM: h and c, (layers, B, hidden)
            arenas.add(f"rnnt.predictor.{index}", part[:, 0])
        self._parts = len(start.predictor_states)
        arenas.add("rnnt.output", start.predictor_outputs[0])

    def __call__(self, encoded: Tensor, length: Tensor, slots: Tensor, arenas: Arenas) -> list[Tokens]:
        if not encoded.shape[1]:
            return [Tokens() for _ in slots]
        states = tuple(
            arenas.gather(f"rnnt.predictor.{i}", slots).transpose(0, 1).contiguous() for i in range(self._parts)
        )
        hypotheses, after = self.computer.torch_impl(
            encoded,
            length,
            self._state_type(
                predictor_states=states,
                predictor_outputs=arenas.gather("rnnt.output", slots),
                labels=torch.full_like(length, self._blank),  # passed through to `after`, where nobody reads them
                decoded_lengths=torch.zeros_like(length),
            ),
        )
        for i, part in enumerate(after.predictor_states):
            arenas.scatter(f"rnnt.predictor.{i}", slots, part.transpose(0, 1))
        arenas.scatter("rnnt.output", slots, after.predictor_outputs)
        counts = hypotheses.current_lengths.tolist()
        longest = max(counts)
        ids = hypotheses.transcript[:, :longest].tolist()
        frames = hypotheses.timestamps[:, :longest].tolist()
        confidences = self._probability(hypotheses.step_confidence[:, :longest]).tolist()
        return [Tokens(ids[b][:n], frames[b][:n], confidences[b][:n]) for b, n in enumerate(counts)]

    def _probability(self, confidence: Tensor) -> Tensor:
        """NeMo scales max_prob so that chance is 0: (p V - 1) / (V - 1). Undo that."""
        return (confidence * (self._classes - 1) + 1) / self._classes

"""What NeMo itself makes of the same audio, offline: the text that the service must give."""

import itertools
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.engine.greedy import AMBIGUOUS, nemo_hypothesis, steps
from tests.engine.play import offline
from tests.integration.sending import PCM
from tests.integration.support import Heard
from worker.stream.resample import Resampler


class Oracle:
    """NeMo's encoder over the whole audio under a look-ahead's mask, then its greedy decoding."""

    def __init__(self, model: Path) -> None:
        from nemo.collections.asr.models import ASRModel

        logger = logging.getLogger("nemo_logger")
        level = logger.level
        logger.setLevel(logging.ERROR)
        self._nemo = ASRModel.restore_from(str(model), map_location="cpu").eval()
        logger.setLevel(level)
        self._nemo.preprocessor.featurizer.dither = 0.0
        self._nemo.preprocessor.featurizer.pad_to = 0

    def text(self, samples: PCM | NDArray[np.float32], rate: int, look_ahead: int = 6, decoder: str = "rnnt") -> str:
        return str(nemo_hypothesis(self._nemo, self._encode(samples, rate, look_ahead), decoder).text).strip()

    def check(self, heard: Heard, samples: PCM, rate: int, look_ahead: int = 6, decoder: str = "rnnt") -> None:
        """Assert that the utterances are NeMo's text; after a choice that NeMo itself makes by less than AMBIGUOUS,
        the two may part, with a warning.

        Between utterances there need be no space in NeMo's: an endpoint may fall before a token that begins no word.
        """
        expected = rest = self.text(samples, rate, look_ahead, decoder)
        for utterance in heard.utterances:
            if not rest.startswith(utterance.text):
                break
            rest = rest.removeprefix(utterance.text).lstrip()
        else:
            if not rest:
                return
        made = steps(self._nemo, self._encode(samples, rate, look_ahead), decoder)
        sure = list(itertools.takewhile(lambda step: step.margin > AMBIGUOUS, made))
        known = self._nemo.tokenizer.ids_to_text([step.label for step in sure if step.label is not None])
        both = f"{heard.text!r}\n{expected!r}\nsmallest margin {min(step.margin for step in made):.2g}"
        assert len(sure) < len(made), both
        assert heard.text.replace(" ", "").startswith(known.replace(" ", "")), both
        warnings.warn(f"parted after {len(sure)} of {len(made)} choices:\n{both}", stacklevel=2)

    @torch.inference_mode()
    def _encode(self, samples: PCM | NDArray[np.float32], rate: int, look_ahead: int) -> torch.Tensor:
        floats = samples / np.float32(32768) if samples.dtype == np.int16 else samples
        resampler = Resampler(rate, 16000)
        whole = np.concatenate([resampler.process(floats.astype(np.float32)), resampler.flush()])
        return offline(self._nemo, whole, (70, look_ahead))

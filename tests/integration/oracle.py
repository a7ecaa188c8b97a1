"""What NeMo itself makes of the same audio, offline: the text that the service must give."""

import logging
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
        """Assert that the utterances are NeMo's text, unless NeMo's own choice hangs by less than AMBIGUOUS somewhere.

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
        closest = min(steps(self._nemo, self._encode(samples, rate, look_ahead), decoder), key=lambda s: s.margin)
        assert closest.margin <= AMBIGUOUS, f"smallest margin {closest.margin:.2g}\n{heard.text!r}\n{expected!r}"

    @torch.inference_mode()
    def _encode(self, samples: PCM | NDArray[np.float32], rate: int, look_ahead: int) -> torch.Tensor:
        floats = samples / np.float32(32768) if samples.dtype == np.int16 else samples
        resampler = Resampler(rate, 16000)
        whole = np.concatenate([resampler.process(floats.astype(np.float32)), resampler.flush()])
        return offline(self._nemo, whole, (70, look_ahead))

"""The engine that the settings ask for."""

import logging

import torch

from worker.engine.batched import BatchedEngine
from worker.engine.fast.engine import MAX_FRAMES, FastEngine, unknown
from worker.engine.interface import UnsupportedModel
from worker.engine.model import SpeechModel
from worker.engine.reference import ReferenceEngine

log = logging.getLogger(__name__)


def build(
    model: SpeechModel, slots: int, kind: str = "fast", dtype: str = "float32", max_frames: int = MAX_FRAMES
) -> BatchedEngine:
    """`kind` "fast" or "reference", which is float32 whatever `dtype` says.

    max_frames: encoder frames of a row that the fast engine computes in one pass.
    Raises UnsupportedModel for a model that the fast engine does not know.
    """
    if kind == "fast" and (reasons := unknown(model)):
        raise UnsupportedModel(
            model.info.model_id,
            [f"the fast engine does not compute {', '.join(reasons)} (model.engine: reference does, slower)"],
        )
    if kind == "reference":
        if dtype != "float32":
            log.warning(
                "%s: %s is of the fast engine, the reference engine runs in float32", model.info.model_id, dtype
            )
        return ReferenceEngine(model, slots)
    return FastEngine(model, slots, getattr(torch, dtype), max_frames)

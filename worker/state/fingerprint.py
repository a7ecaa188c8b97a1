"""Which checkpoints fit this worker: those of the same weights, configuration and layout of engine state."""

import hashlib

import torch
from omegaconf import OmegaConf

from worker.engine.interface import Engine, Mode
from worker.engine.model import SpeechModel
from worker.state.checkpoint import Fingerprint

# The parts of a NeMo configuration that a stream's state depends on. The rest holds paths of temporary files.
SECTIONS = ("preprocessor", "encoder", "decoder", "joint", "decoding", "aux_ctc")
LENGTH = 24  # hex digits: 96 bits


def fingerprint(engine: Engine, model: SpeechModel) -> Fingerprint:
    """Of a loaded model and an engine without streams: slot 0 is opened and read.

    Reads all weights (half a second for 115 million parameters): not for the event loop.
    """
    return Fingerprint(f"{engine.info.model_id}/{_model(model)}", _layout(engine))


def _model(model: SpeechModel) -> str:
    digest = hashlib.sha256(repr(model.info).encode())
    for section in SECTIONS:
        found = model.nemo.cfg.get(section)
        if found is not None:
            digest.update(OmegaConf.to_yaml(found, sort_keys=True).encode())
    for name, tensor in sorted(model.nemo.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:LENGTH]


def _layout(engine: Engine) -> str:
    engine.open(0, Mode(engine.info.look_aheads[0], engine.info.decoders[0]))
    state = engine.save(0)
    parts = [type(engine).__name__, *sorted(state.counters)]
    parts += sorted(f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in state.tensors.items())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:LENGTH]

"""Small NeMo models with random weights, one for each kind of encoder that the engine claims to stream.

Built twice from one recipe they are equal, so that a test has a stock copy of the model the engine patched.
"""

import logging
import tarfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from demo import MODELS as DEMO_MODELS
from worker.engine import native
from worker.engine.batched import BatchedEngine
from worker.engine.fast.engine import FastEngine, unknown
from worker.engine.interface import Mode
from worker.engine.model import SpeechModel, adopt
from worker.engine.reference import ReferenceEngine


@dataclass(frozen=True)
class Recipe:
    """What distinguishes one random model from another. The defaults are those of the demo model."""

    name: str
    contexts: tuple[tuple[int, ...], ...]
    style: str = "chunked_limited"
    convolution: str | tuple[int, int] | None = "causal"
    head: str = "ctc"  # "ctc", "ctc-lstm", "hybrid", "rnnt", "rnnt-stateless", "rnnt-prompt" or "tdt"
    layers: int = 3
    width: int = 32
    heads: int = 4
    expansion: int = 2
    channels: int = 16  # of sub-sampling
    kernel: int = 9
    norm: str = "layer_norm"
    bias: bool = True
    xscaling: bool = True
    untie_biases: bool = True
    mels: int = 80
    subsampling: str = "dw_striding"
    factor: int = 8
    causal_downsampling: bool = True
    attention: str = "rel_pos"
    normalize: str = "NA"
    window: int = 400  # samples
    window_name: str | None = "hann"
    features: tuple[tuple[str, Any], ...] = ()  # more settings of the preprocessor
    reduction: str | None = None
    feat_out: int = -1  # width after a projection of the encoder's output; -1: none
    predictor_layers: int = 1
    blank_as_pad: bool = True
    seed: int = 0

    def __str__(self) -> str:
        return self.name


CHUNKED = Recipe("chunked", ((28, 6), (28, 1), (28, 0)), layers=4)
CHUNKED_BATCH_NORM = Recipe(
    "chunked-batch-norm",
    ((30, 2), (30, 0)),
    norm="batch_norm",
    bias=False,
    xscaling=False,
    mels=128,
    width=64,
    layers=2,
)
CHUNKED_STRIDING = Recipe(
    "chunked-striding", ((14, 1), (14, 13)), subsampling="striding", untie_biases=False, kernel=5, feat_out=24
)
CHUNKED_FACTOR_4 = Recipe("chunked-factor-4", ((12, 3),), factor=4, layers=2)
CHUNKED_NO_LEFT = Recipe("chunked-no-left", ((0, 2),), layers=2)
REGULAR_CAUSAL = Recipe("regular-causal", ((20, 2),), style="regular")
REGULAR_SYMMETRIC = Recipe("regular-symmetric", ((20, 2), (20, 0)), style="regular", convolution=None)
REGULAR_SKEWED = Recipe(
    "regular-skewed",
    ((14, 1),),
    style="regular",
    convolution=(6, 2),
    norm="batch_norm",
    bias=False,
    xscaling=False,
    mels=128,
)
REGULAR_4_4 = Recipe("regular-4-4", ((14, 1),), style="regular", convolution=(4, 4), width=64, subsampling="striding")

STREAMABLE = (
    CHUNKED,
    CHUNKED_BATCH_NORM,
    CHUNKED_STRIDING,
    CHUNKED_FACTOR_4,
    CHUNKED_NO_LEFT,
    REGULAR_CAUSAL,
    REGULAR_SYMMETRIC,
    REGULAR_SKEWED,
    REGULAR_4_4,
)


def build(recipe: Recipe, tokenizer: Path) -> Any:
    """A NeMo model in eval mode; `tokenizer` is a folder with tokenizer.model and vocab.txt."""
    import nemo.collections.asr.models as zoo
    from nemo.collections.asr.models.rnnt_bpe_models_prompt import EncDecRNNTBPEModelWithPrompt

    logger = logging.getLogger("nemo_logger")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    kind = {
        "ctc": zoo.EncDecCTCModelBPE,
        "ctc-lstm": zoo.EncDecCTCModelBPE,
        "hybrid": zoo.EncDecHybridRNNTCTCBPEModel,
        "rnnt": zoo.EncDecRNNTBPEModel,
        "rnnt-stateless": zoo.EncDecRNNTBPEModel,
        "rnnt-prompt": EncDecRNNTBPEModelWithPrompt,
        "tdt": zoo.EncDecRNNTBPEModel,
    }[recipe.head]
    try:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            model = kind(cfg=_config(recipe, tokenizer), trainer=None)
            _randomize(model)
    finally:
        logger.setLevel(level)
    return model.eval()


def unpack_tokenizer(into: Path) -> Path:
    """The demo model's tokenizer, as the folder that a NeMo configuration names."""
    with tarfile.open(DEMO_MODELS / "demo.nemo") as archive:
        for member in archive.getmembers():
            for ending, name in (("_vocab.txt", "vocab.txt"), ("_tokenizer.model", "tokenizer.model")):
                if member.name.endswith(ending):
                    packed = archive.extractfile(member)
                    assert packed is not None
                    (into / name).write_bytes(packed.read())
    return into


SLOTS = 16


def uncompiled() -> AbstractContextManager[object]:
    """What is built meanwhile computes with PyTorch's operations, as on CUDA."""
    return patch.object(native, "loaded", lambda: False)


class Pair:
    """A model with its engines, one of which patches it, and an equal model that nothing touches."""

    def __init__(self, model: SpeechModel, stock: Any) -> None:
        self.model = model
        self.stock = stock
        assert not unknown(model)
        self.reference = ReferenceEngine(model, SLOTS)
        self.engines: dict[str, BatchedEngine] = {
            "reference": self.reference,
            "fast": FastEngine(model, SLOTS),
        }
        with uncompiled():
            self.engines["buckets"] = FastEngine(model, SLOTS, buckets=True)

    def context(self, look_ahead: int) -> tuple[int, int]:
        return self.model.left_context[look_ahead], look_ahead

    @property
    def modes(self) -> list[Mode]:
        return [Mode(look_ahead, self.model.info.decoders[0]) for look_ahead in self.model.info.look_aheads]


class Zoo:
    """Makes each random model once a session."""

    def __init__(self, tokenizer: Path) -> None:
        self.tokenizer = tokenizer
        self.pair = cache(self._pair)

    def build(self, recipe: Recipe) -> Any:
        return build(recipe, self.tokenizer)

    def _pair(self, recipe: Recipe) -> Pair:
        return Pair(adopt(self.build(recipe), recipe.name), self.build(recipe))


def _randomize(model: Any) -> None:
    """Give zero or trivial parameters of a fresh model values that would show an error.

    Positional biases and the running statistics of batch norm start at values that hide what they do.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_bias_u", "pos_bias_v")):
            torch.nn.init.normal_(parameter, std=0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)


def _config(recipe: Recipe, tokenizer: Path) -> Any:
    from omegaconf import OmegaConf

    modules = "nemo.collections.asr.modules"
    several = len(recipe.contexts) > 1
    config: dict[str, Any] = {
        "sample_rate": 16000,
        "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "normalize": recipe.normalize,
            "features": recipe.mels,
            "window_size": recipe.window / 16000,
            "window": recipe.window_name,
            "n_fft": 512,
            "pad_to": 0,
            **dict(recipe.features),
        },
        "encoder": {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": recipe.mels,
            "feat_out": recipe.feat_out,
            "n_layers": recipe.layers,
            "d_model": recipe.width,
            "n_heads": recipe.heads,
            "ff_expansion_factor": recipe.expansion,
            "subsampling": recipe.subsampling,
            "subsampling_factor": recipe.factor,
            "subsampling_conv_channels": recipe.channels,
            "causal_downsampling": recipe.causal_downsampling,
            "self_attention_model": recipe.attention,
            "att_context_size": [list(c) for c in recipe.contexts] if several else list(recipe.contexts[0]),
            "att_context_style": recipe.style,
            "xscaling": recipe.xscaling,
            "reduction": recipe.reduction,
            "reduction_position": 1 if recipe.reduction else None,
            "reduction_factor": 2 if recipe.reduction else 1,
            "untie_biases": recipe.untie_biases,
            "use_bias": recipe.bias,
            "conv_kernel_size": recipe.kernel,
            "conv_norm_type": recipe.norm,
            "conv_context_size": (
                list(recipe.convolution) if isinstance(recipe.convolution, tuple) else recipe.convolution
            ),
        },
        "optim": {"name": "adamw", "lr": 1e-3},
    }
    ctc = {"_target_": f"{modules}.ConvASRDecoder", "feat_in": None, "num_classes": -1, "vocabulary": []}
    if recipe.head == "ctc-lstm":
        ctc |= {"_target_": f"{modules}.LSTMDecoder", "lstm_hidden_size": recipe.width, "bidirectional": True}
    if recipe.head.startswith("ctc"):
        config |= {"decoder": ctc, "decoding": {"strategy": "greedy_batch"}}
        return OmegaConf.create(config)
    config |= {
        "model_defaults": {"enc_hidden": recipe.width, "pred_hidden": 32, "joint_hidden": 32},
        "decoder": {
            "_target_": f"{modules}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": recipe.blank_as_pad,
            "prednet": {"pred_hidden": 32, "pred_rnn_layers": recipe.predictor_layers, "t_max": None, "dropout": 0.0},
        },
        "joint": {
            "_target_": f"{modules}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": True,
            "fused_batch_size": 4,
            "jointnet": {"joint_hidden": 32, "activation": "relu", "dropout": 0.0},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 3}},
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0}},
    }
    if recipe.head == "hybrid":
        config["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": ctc,
            "decoding": {"strategy": "greedy_batch"},
        }
    if recipe.head == "rnnt-stateless":
        config["decoder"] |= {"_target_": f"{modules}.StatelessTransducerDecoder", "context_size": 2}
        del config["decoder"]["random_state_sampling"], config["decoder"]["blank_as_pad"]
    if recipe.head == "rnnt-prompt":
        config["model_defaults"] |= {
            "initialize_prompt_feature": True,
            "num_prompts": 4,
            "prompt_dictionary": {"en-US": 0, "de-DE": 1},
        }
    if recipe.head == "tdt":
        durations = [0, 1, 2, 3, 4]
        config["model_defaults"] |= {"tdt_durations": durations, "num_tdt_durations": len(durations)}
        config["joint"]["num_extra_outputs"] = len(durations)
        config["decoding"] |= {"model_type": "tdt", "durations": durations}
        config["loss"] = {"loss_name": "tdt", "tdt_kwargs": {"durations": durations}}
    return OmegaConf.create(config)

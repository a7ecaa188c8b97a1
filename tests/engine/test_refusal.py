"""A model that cannot be streamed exactly is refused, with every reason by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.engine.models import CHUNKED, DEMO_MODELS, REGULAR_CAUSAL, STREAMABLE, Recipe, Zoo
from worker.engine.interface import ModelUnavailable
from worker.engine.model import UnsupportedModel, adopt, load

REFUSED = {
    "abs_pos": (replace(CHUNKED, attention="abs_pos"), ["self_attention_model", "abs_pos"]),
    "longformer": (
        replace(REGULAR_CAUSAL, attention="rel_pos_local_attn", contexts=((20, 2),)),
        ["self_attention_model", "rel_pos_local_attn"],
    ),
    "unlimited-left": (replace(CHUNKED, contexts=((-1, 6),)), ["[-1, 6]", "unlimited"]),
    "unlimited-both": (
        replace(REGULAR_CAUSAL, contexts=((-1, -1),), convolution=None),
        ["[-1, -1]", "unlimited"],
    ),
    "one-context-of-several": (replace(CHUNKED, contexts=((28, 6), (-1, 0))), ["[-1, 0]", "unlimited"]),
    "look-ahead-in-sub-sampling": (replace(CHUNKED, causal_downsampling=False), ["causal_downsampling"]),
    "symmetric-convolution": (replace(CHUNKED, convolution=None), ["conv_context_size", "[4, 4]"]),
    "chunk-with-right-context": (
        replace(CHUNKED, style="chunked_limited_with_rc", contexts=((28, 6, 2),)),
        ["att_context_style", "chunked_limited_with_rc"],
    ),
    "group-norm": (replace(CHUNKED, norm="group_norm4"), ["conv_norm_type", "group_norm"]),
    "instance-norm": (replace(CHUNKED, norm="instance_norm"), ["conv_norm_type", "instance_norm"]),
    "file-normalisation": (replace(CHUNKED, normalize="per_feature"), ["normalize", "per_feature"]),
    "striding-conv1d": (replace(CHUNKED, subsampling="striding_conv1d"), ["striding_conv1d"]),
    "stacking": (replace(CHUNKED, subsampling="stacking"), ["StackingSubsampling"]),
    "vggnet": (replace(CHUNKED, subsampling="vggnet", causal_downsampling=False), ["vggnet"]),
    "durations": (replace(CHUNKED, head="tdt"), ["TDT"]),
    "no-embedding-of-blank": (replace(CHUNKED, head="rnnt", blank_as_pad=False), ["blank_as_pad"]),
    "state-in-the-ctc-decoder": (replace(CHUNKED, head="ctc-lstm"), ["CTC decoder", "LSTMDecoder", "ConvASRDecoder"]),
    "stateless-prediction": (
        replace(CHUNKED, head="rnnt-stateless"),
        ["prediction network", "StatelessTransducerDecoder", "RNNTDecoder"],
    ),
    "language-prompt": (replace(CHUNKED, head="rnnt-prompt"), ["prompt"]),
    "reduction": (replace(CHUNKED, reduction="pooling"), ["reduction between layers"]),
    "exact-pad": (replace(CHUNKED, features=(("exact_pad", True),)), ["exact_pad"]),
    "spliced-frames": (replace(CHUNKED, features=(("frame_splicing", 2),), mels=80), ["frame_splicing"]),
    "linear-features": (replace(CHUNKED, features=(("log", False),)), ["not logarithmic"]),
    "no-window": (replace(CHUNKED, window_name=None), ["no window"]),
    "odd-window": (replace(CHUNKED, window=401), ["window", "401", "even"]),
    "gaps-between-windows": (replace(CHUNKED, window=128), ["window", "128", "hop", "160"]),
}


@pytest.mark.parametrize(("recipe", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_streamed_is_refused_by_name(zoo: Zoo, recipe: Recipe, named: list[str]) -> None:
    with pytest.raises(UnsupportedModel) as refused:
        adopt(zoo.build(recipe), "the-model")
    assert "the-model" in str(refused.value)
    assert any(all(word in problem for word in named) for problem in refused.value.problems)


def test_a_left_context_that_is_no_multiple_of_the_chunk_is_refused(zoo: Zoo) -> None:
    """NeMo refuses it when a model is made, but lets it be set afterwards."""
    nemo = zoo.build(CHUNKED)
    nemo.encoder.att_context_size_all = [[30, 6]]
    with pytest.raises(UnsupportedModel, match=r"\[30, 6\].*no multiple.* 7"):
        adopt(nemo, "the-model")


def _hook(nemo: Any) -> None:
    """As a multi-talker model does for its speaker kernels."""
    nemo.encoder.layers[1].register_forward_hook(lambda module, args, result: result * 2)


def _other_encoder(nemo: Any) -> None:
    nemo.encoder = torch.nn.Identity()


def _other_features(nemo: Any) -> None:
    from nemo.collections.asr.modules import AudioToMFCCPreprocessor

    nemo.preprocessor = AudioToMFCCPreprocessor()


def _no_decoder(nemo: Any) -> None:
    del nemo.decoder


def _no_word_start(nemo: Any) -> None:
    nemo.tokenizer = SimpleNamespace(vocab_size=3, ids_to_tokens=lambda ids: ["abc"[i] for i in ids])


def _other_joint(nemo: Any) -> None:
    from nemo.collections.asr.modules.hybrid_autoregressive_transducer import HATJoint

    nemo.joint.__class__ = HATJoint


@pytest.mark.parametrize(
    ("change", "head", "reason"),
    [
        (_hook, "ctc", "hooks on the encoder"),
        (_other_encoder, "ctc", r"encoder is Identity.*Conformer"),
        (_other_features, "ctc", r"preprocessor is .*log-mel filter banks"),
        (_no_decoder, "ctc", "EncDecCTCModelBPE has neither a CTC nor an RNN-T decoder"),
        (_no_word_start, "ctc", "no vocabulary piece marks the start of a word"),
        (_other_joint, "rnnt", "joint network is HATJoint, RNNTJoint is needed"),
    ],
)
def test_a_model_with_a_part_of_another_kind_is_refused(
    zoo: Zoo, change: Callable[[Any], None], head: str, reason: str
) -> None:
    nemo = zoo.build(replace(CHUNKED, head=head))
    change(nemo)
    with pytest.raises(UnsupportedModel, match=reason):
        adopt(nemo, "the-model")


def test_all_reasons_are_given_at_once(zoo: Zoo) -> None:
    recipe = replace(CHUNKED, convolution=None, normalize="per_feature", norm="instance_norm", contexts=((-1, 6),))
    with pytest.raises(UnsupportedModel) as refused:
        adopt(zoo.build(recipe), "the-model")
    assert len(refused.value.problems) == 4


def test_what_is_supported_is_not_refused(zoo: Zoo) -> None:
    for recipe in STREAMABLE:
        info = zoo.pair(recipe).model.info
        assert sorted(info.look_aheads, reverse=True) == list(info.look_aheads)
        assert set(info.look_aheads) == {right for _, right in recipe.contexts}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.nemo"
    with pytest.raises(ModelUnavailable, match=r"absent\.nemo"):
        load(str(path), device="cpu")


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "broken.nemo"
    path.write_bytes(b"no archive")
    with pytest.raises(ModelUnavailable, match=r"broken\.nemo.*could not be read as a NeMo model"):
        load(str(path), device="cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"model.device is '{device}'"):
        load(str(DEMO_MODELS / "demo.nemo"), device=device)

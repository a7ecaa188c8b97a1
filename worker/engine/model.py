"""Loading a NeMo model and refusing, with every reason, one that cannot be streamed exactly."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.engine.interface import EngineInfo, Geometry, ModelUnavailable, UnsupportedModel
from worker.telemetry.logs import take_over

WORD_START = "\u2581"


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """A validated NeMo model in eval mode, and what an engine needs to know of it."""

    nemo: Any
    info: EngineInfo
    style: str  # "chunked_limited" or "regular"
    left_context: dict[int, int]  # look-ahead -> frames of left context
    device: torch.device

    @property
    def encoder(self) -> Any:
        return self.nemo.encoder

    @property
    def featurizer(self) -> Any:
        return self.nemo.preprocessor.featurizer


def load(source: str, device: str = "auto", model_id: str | None = None) -> SpeechModel:
    """Load a `.nemo` file or a Hugging Face name.

    Raises ModelUnavailable if `source` is neither a model file nor a name that can be fetched, or `device` cannot be
    used; UnsupportedModel if the model cannot be streamed exactly.
    """
    path = Path(source)
    if not path.is_file() and (path.suffix == ".nemo" or source.startswith((".", "/"))):
        raise ModelUnavailable(f"no model file at {source!r}: give a .nemo file or a Hugging Face name")
    import nemo.utils  # makes NeMo's logger, which would write by itself

    take_over("nemo_logger")
    from nemo.collections.asr.models import ASRModel  # half a minute the first time

    target = choose_device(device)
    nemo_logger = logging.getLogger("nemo_logger")
    level = nemo_logger.level
    nemo_logger.setLevel(logging.ERROR)
    try:
        if path.is_file():
            nemo = _restore(ASRModel, path, target)
        else:
            nemo = _fetch(ASRModel, source, target)
    finally:
        nemo_logger.setLevel(level)
    return adopt(nemo.to(target), model_id or identify(source, nemo))


def choose_device(name: str) -> torch.device:
    """Raises ModelUnavailable."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelUnavailable(f"model.device is {name!r}, which this machine cannot use: {first}") from error
    return device


def _restore(kind: Any, path: Path, target: torch.device) -> Any:
    try:
        return kind.restore_from(str(path), map_location=target)
    except Exception as error:
        detail = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelUnavailable(f"{str(path)!r} could not be read as a NeMo model ({detail})") from error


def _fetch(kind: Any, source: str, target: torch.device) -> Any:
    """A model by its Hugging Face name, from the hub or its cache."""
    try:
        return kind.from_pretrained(source, map_location=target)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelUnavailable(
            f"no file {source!r}, and no model of that name could be had from Hugging Face: {first}"
        ) from error


def identify(source: str, nemo: Any) -> str:
    """`name@digest`: the digest of the weights tells two models of one name apart in the events."""
    digest = hashlib.sha256()
    for name, tensor in sorted(nemo.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"{Path(source).stem if source.endswith('.nemo') else source}@{digest.hexdigest()[:12]}"


def adopt(nemo: Any, model_id: str) -> SpeechModel:
    """Check a NeMo model already in memory and make it ready. Raises UnsupportedModel."""
    problems = _problems(nemo)
    if problems:
        raise UnsupportedModel(model_id, problems)
    nemo.eval()
    featurizer = nemo.preprocessor.featurizer
    featurizer.dither = 0.0
    featurizer.pad_to = 0
    encoder = nemo.encoder
    left = {int(right): int(left) for left, right in reversed(encoder.att_context_size_all)}
    if encoder.att_context_style == "regular":
        # what one layer cannot see to its right is missing from the next as well: the sum over layers
        recompute = {r: (r + int(encoder.conv_context_size[1])) * len(encoder.layers) for r in left}
    else:
        recompute = dict.fromkeys(left, 0)
    info = EngineInfo(
        model_id=model_id,
        geometry=Geometry(
            sample_rate=int(featurizer.sample_rate),
            hop=int(featurizer.hop_length),
            half_window=int(featurizer.win_length) // 2,
            subsampling=int(encoder.subsampling_factor),
            recompute=recompute,
        ),
        pieces=_pieces(nemo),
        look_aheads=tuple(sorted(left, reverse=True)),
        decoders=_decoders(nemo),
    )
    return SpeechModel(nemo, info, encoder.att_context_style, left, next(encoder.parameters()).device)


def _decoders(nemo: Any) -> tuple[str, ...]:
    """Decoders the model has, its default first: RNN-T wherever there is one."""
    if hasattr(nemo, "joint"):
        return ("rnnt", "ctc") if hasattr(nemo, "ctc_decoder") else ("rnnt",)
    return ("ctc",)


def _pieces(nemo: Any) -> tuple[str, ...]:
    tokenizer = getattr(nemo, "tokenizer", None)
    if tokenizer is not None:
        return tuple(tokenizer.ids_to_tokens([i])[0] for i in range(tokenizer.vocab_size))
    labels = [str(label) for label in nemo.decoder.vocabulary]
    return tuple(label.replace(" ", WORD_START) for label in labels)


def _problems(nemo: Any) -> list[str]:
    from nemo.collections.asr.modules import ConformerEncoder
    from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures
    from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling

    found: list[str] = []

    def need(condition: bool, reason: str) -> None:
        if not condition:
            found.append(reason)

    encoder = getattr(nemo, "encoder", None)
    if not isinstance(encoder, ConformerEncoder):
        return [f"the encoder is {type(encoder).__name__}, a (Fast)Conformer is needed"]
    need(
        encoder.self_attention_model == "rel_pos",
        f"self_attention_model is {encoder.self_attention_model!r}, only 'rel_pos' streams with a cache",
    )
    sub = encoder.pre_encode
    need(
        isinstance(sub, ConvSubsampling) and sub._subsampling in ("dw_striding", "striding"),
        f"sub-sampling is {getattr(sub, '_subsampling', type(sub).__name__)!r}, 'dw_striding' or 'striding' is needed",
    )
    need(bool(getattr(sub, "is_causal", False)), "causal_downsampling is off: sub-sampling would look ahead")
    need(encoder.reduction_position is None, "a reduction between layers cannot be cached")
    need(
        not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules()),
        "hooks on the encoder change what its modules compute (a multi-talker model's speaker kernels do)",
    )
    norms = {layer.conv.norm_type for layer in encoder.layers}
    need(
        norms <= {"layer_norm", "batch_norm", "fused_batch_norm"},
        f"conv_norm_type {sorted(norms)} mixes frames over time; layer_norm or batch_norm is needed",
    )
    style = encoder.att_context_style
    need(
        style in ("chunked_limited", "regular"),
        f"att_context_style is {style!r}; 'chunked_limited' or 'regular' is needed",
    )
    for left, right, *_ in encoder.att_context_size_all:
        pair = f"att_context_size [{left}, {right}]"
        need(left >= 0 and right >= 0, f"{pair} is unlimited; both sides must be finite")
        if style == "chunked_limited" and left >= 0 and right >= 0:
            need(
                left % (right + 1) == 0,
                f"{pair}: the left context is no multiple of the chunk of {right + 1}",
            )
    if style == "chunked_limited":
        need(
            encoder.conv_context_size[1] == 0,
            f"conv_context_size is {list(encoder.conv_context_size)}: a chunked_limited encoder is exact only "
            "with causal convolution",
        )
    featurizer = getattr(getattr(nemo, "preprocessor", None), "featurizer", None)
    if not isinstance(featurizer, FilterbankFeatures):
        found.append(f"the preprocessor is {type(featurizer).__name__}, log-mel filter banks are needed")
    else:
        need(
            featurizer.normalize in (None, "", "NA"),
            f"normalize is {featurizer.normalize!r}: features normalised over the file cannot be computed live",
        )
        need(not featurizer.exact_pad, "exact_pad is on")
        need(featurizer.frame_splicing == 1, "frame_splicing is on")
        need(bool(featurizer.log), "features are not logarithmic")
        need(featurizer.window is not None, "the preprocessor has no window")
        samples, hop = int(featurizer.win_length), int(featurizer.hop_length)
        need(samples % 2 == 0, f"the window is {samples} samples long: an even number is needed")
        need(samples >= hop, f"the window of {samples} samples is shorter than the hop of {hop}")
    found.extend(_decoder_problems(nemo))
    if not found:
        pieces = _pieces(nemo)
        need(any(p.startswith(WORD_START) for p in pieces), "no vocabulary piece marks the start of a word")
    return found


def _decoder_problems(nemo: Any) -> list[str]:
    """Of the heads. Only NeMo's plain ones are known to keep all their state where the engine keeps it."""
    from nemo.collections.asr.modules import ConvASRDecoder, RNNTDecoder, RNNTJoint

    found: list[str] = []

    def plain(role: str, module: Any, kind: type) -> bool:
        if type(module) is not kind:
            found.append(f"the {role} is {type(module).__name__}, {kind.__name__} is needed")
        return type(module) is kind

    if hasattr(nemo, "prompt_kernel") or getattr(nemo, "concat", False):
        found.append("the model is told its language by a prompt, which streams do not give")
    head = getattr(nemo, "ctc_decoder", None if hasattr(nemo, "joint") else getattr(nemo, "decoder", None))
    if not hasattr(nemo, "joint") and head is None:
        found.append(f"{type(nemo).__name__} has neither a CTC nor an RNN-T decoder")
    if head is not None:
        plain("CTC decoder", head, ConvASRDecoder)
    if hasattr(nemo, "joint"):
        if plain("joint network", nemo.joint, RNNTJoint) and nemo.joint.num_extra_outputs:
            found.append("a transducer that predicts durations (TDT) is not supported")
        if plain("prediction network", nemo.decoder, RNNTDecoder) and not nemo.decoder.blank_as_pad:
            found.append("blank_as_pad is off: the prediction network has no start symbol for a batch")
    return found

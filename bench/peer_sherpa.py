"""sherpa-onnx: the demo model's CTC branch in ONNX, as the project's scripts for NeMo's streaming models export it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import sherpa_onnx

from worker.engine.interface import Samples
from worker.engine.model import SpeechModel


def export(model: SpeechModel, look_ahead: int, folder: Path) -> tuple[str, str]:
    """Model and token files. One look-ahead for each file: it is part of the graph."""
    nemo = model.nemo
    encoder = nemo.encoder
    context = [model.left_context[look_ahead], look_ahead]
    encoder.set_default_att_context_size(context)
    encoder.setup_streaming_params(att_context_size=context)
    streaming = encoder.streaming_cfg
    nemo.set_export_config({"decoder_type": "ctc", "cache_support": True})
    path, tokens = folder / f"ctc-{look_ahead}.onnx", folder / "tokens.txt"
    nemo.export(str(path))
    pieces = [*model.info.pieces, "<blk>"]
    tokens.write_text("".join(f"{piece} {number}\n" for number, piece in enumerate(pieces)))
    metadata = {
        "vocab_size": len(model.info.pieces),
        "window_size": streaming.chunk_size[1] + streaming.pre_encode_cache_size[1],
        "chunk_shift": streaming.chunk_size[1],
        "normalize_type": "",  # none
        "cache_last_channel_dim1": len(encoder.layers),
        "cache_last_channel_dim2": streaming.last_channel_cache_size,
        "cache_last_channel_dim3": encoder.d_model,
        "cache_last_time_dim1": len(encoder.layers),
        "cache_last_time_dim2": encoder.d_model,
        "cache_last_time_dim3": encoder.conv_context_size[0],
        "subsampling_factor": encoder.subsampling_factor,
        "model_type": "EncDecHybridRNNTCTCBPEModel",
        "version": 1,
    }
    graph = onnx.load(str(path))
    del graph.metadata_props[:]
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=str(value))
    onnx.save(graph, str(path))
    return str(path), str(tokens)


class Sherpa:
    """Its recogniser for NeMo's streaming CTC models."""

    tail = round(0.66 * 16000)  # samples of silence that its examples put after a stream

    def __init__(self, model: str, tokens: str, threads: int) -> None:
        self._recogniser: Any = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(
            tokens=tokens, model=model, num_threads=threads, sample_rate=16000, feature_dim=80
        )

    def play(self, signals: Sequence[Samples], chunk: int, texts: list[str]) -> Iterator[None]:
        """As NemoPipeline.play. All streams that can take a step take it together."""
        streams = [self._recogniser.create_stream() for _ in signals]
        length = len(signals[0])
        for begin in range(0, length, chunk):
            for stream, signal in zip(streams, signals, strict=True):
                stream.accept_waveform(16000, signal[begin : begin + chunk])
                if begin + chunk >= length:
                    stream.accept_waveform(16000, [0.0] * self.tail)
                    stream.input_finished()
            while ready := [stream for stream in streams if self._recogniser.is_ready(stream)]:
                self._recogniser.decode_streams(ready)
            yield
        texts[:] = [self._recogniser.get_result(stream) for stream in streams]

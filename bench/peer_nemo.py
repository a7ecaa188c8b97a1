"""NeMo's own streaming pipelines, `CacheAwareCTCPipeline` and `CacheAwareRNNTPipeline`, fed chunk by chunk."""

from collections.abc import Iterator, Sequence

import torch

from worker.engine.interface import Samples


class NemoPipeline:
    """A pipeline on one `.nemo` file. Settings are those that NeMo ships for these pipelines, on the CPU in float32.

    It pads 9 frames of log zero before a stream and always drops 2, so its frames never lie on the offline grid.

    At look-ahead 0 NeMo 3.0.0 cuts its window of 17 mel frames to 16 (0.17 s / 0.01 s is 16.999...), and three words of
    four come out wrong. Here it has all 17, so that equal words are compared.
    """

    tail = 0

    def __init__(self, model: str, context: tuple[int, int], decoder: str, batch: int) -> None:
        from nemo.collections.asr.inference.factory.pipeline_builder import PipelineBuilder
        from omegaconf import OmegaConf

        method = {"name": "entropy", "entropy_type": "tsallis", "alpha": 0.5, "entropy_norm": "exp"}
        greedy = {"loop_labels": True, "max_symbols": 10, "use_cuda_graph_decoder": False}
        settings = {
            "pipeline_type": "cache_aware",
            "asr_decoding_type": decoder,
            "log_level": 40,
            "matmul_precision": "highest",
            "enable_itn": False,
            "enable_nmt": False,
            "itn": {"batch_size": 32, "n_jobs": 1, "left_padding_size": 4},
            "asr": {
                "model_name": model,
                "device": "cpu",
                "device_id": 0,
                "compute_dtype": "float32",
                "use_amp": False,
                "decoding": {"strategy": "greedy_batch", "greedy": greedy},
            },
            "confidence": {"exclude_blank": True, "aggregation": "mean", "method_cfg": method},
            "endpointing": {"stop_history_eou": 800, "residue_tokens_at_end": 2},
            "streaming": {
                "sample_rate": 16000,
                "batch_size": batch,
                "num_slots": batch,
                "word_boundary_tolerance": 4,
                "att_context_size": list(context),
                "use_cache": True,
                "use_feat_cache": True,
                "chunk_size_in_secs": None,
                "request_type": "frame",
            },
            "return_tail_result": False,
            "asr_output_granularity": "segment",
        }
        self._pipeline = PipelineBuilder.build_pipeline(OmegaConf.create(settings))
        frames = round(self._pipeline.buffer_size_in_secs / self._pipeline.window_stride)
        if self._pipeline.expected_feature_buffer_len != frames:
            self._pipeline.buffer_size_in_secs *= 1 + 1e-9
            self._pipeline.expected_feature_buffer_len = frames
            self._pipeline.init_bufferer_for_cache_aware_streaming()
            assert self._pipeline.bufferer.feature_buffer_len == frames

    def play(self, signals: Sequence[Samples], chunk: int, texts: list[str]) -> Iterator[None]:
        """One step of `chunk` samples of every signal at a time; at the end `texts` has what was said."""
        from nemo.collections.asr.inference.streaming.framing.request import Frame
        from nemo.collections.asr.inference.streaming.framing.request_options import ASRRequestOptions

        texts[:] = [""] * len(signals)
        length = len(signals[0])
        self._pipeline.open_session()
        for begin in range(0, length, chunk):
            end = min(begin + chunk, length)
            frames = [
                Frame(
                    samples=torch.nn.functional.pad(torch.from_numpy(signal[begin:end]), (0, chunk - (end - begin))),
                    stream_id=number,
                    is_first=begin == 0,
                    is_last=end == length,
                    length=end - begin,
                    options=ASRRequestOptions(),
                )
                for number, signal in enumerate(signals)
            ]
            for output in self._pipeline.transcribe_step(frames):
                texts[output.stream_id] += output.final_transcript
            yield
        self._pipeline.close_session()

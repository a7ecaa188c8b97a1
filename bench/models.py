"""The models that the benches measure: the demo model, and random ones of the sizes that people use."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from bench.floor import Size
from tests.engine.models import Recipe, build, unpack_tokenizer
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode
from worker.engine.model import SpeechModel, adopt, load

SHIPPED = Path(__file__).parents[1] / "demo" / "models"
CONTEXTS = ((70, 13), (70, 6), (70, 1), (70, 0))

# about 115 M parameters: the size of NeMo's published streaming "large" models
LARGE = Recipe("17x512", CONTEXTS, head="hybrid", layers=17, width=512, heads=8, expansion=4, channels=256)
# about 0.6 B
HUGE = Recipe("24x1024", CONTEXTS, layers=24, width=1024, heads=8, expansion=4, channels=256)


def shipped(name: str = "demo") -> SpeechModel:
    return load(str(SHIPPED / f"{name}.nemo"), device="cpu")


@cache
def _tokenizer() -> tempfile.TemporaryDirectory[str]:
    """Kept until the process ends: a model that is saved copies its tokenizer from there."""
    folder = tempfile.TemporaryDirectory()
    unpack_tokenizer(Path(folder.name))
    return folder


def random(recipe: Recipe) -> SpeechModel:
    return adopt(build(recipe, Path(_tokenizer().name)), recipe.name)


MODELS: dict[str, Callable[[], SpeechModel]] = {
    "demo": shipped,
    "regular": lambda: shipped("regular"),
    LARGE.name: lambda: random(LARGE),
    HUGE.name: lambda: random(HUGE),
}


def warmed(model: SpeechModel, slots: int) -> FastEngine:
    """A fast engine that is ready as a worker's is, for all look-aheads."""
    engine = FastEngine(model, slots)
    for look_ahead in model.left_context:
        engine.warm_up(Mode(look_ahead, model.info.decoders[0]), slots)
    return engine


def size_of(model: SpeechModel) -> Size:
    encoder = model.encoder
    layer = encoder.layers[0]
    return Size(
        layers=len(encoder.layers),
        width=int(encoder.d_model),
        hidden=int(layer.feed_forward1.linear1.out_features),
        kernel=int(layer.conv.depthwise_conv.kernel_size[0]),
        left=max(model.left_context.values()),
    )

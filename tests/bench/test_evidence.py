"""The plot is what its numbers say, and every step is timed."""

from pathlib import Path

import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from bench.evidence.measure import Ours, Score
from bench.evidence.report import draw, table
from tests.engine.models import CHUNKED, Zoo
from tests.engine.speech import RATE, excerpt
from worker.engine.interface import Mode
from worker.engine.model import adopt

SCORES = [
    Score("chunked_limited CTC", "stock", "seen", 200, 20, 10, 70),
    Score("chunked_limited CTC", "ours", "seen", 200, 4, 2, 4),
    Score("chunked_limited CTC", "stock", "seen +7", 200, 100, 20, 100),
    Score("regular CTC", "fixed", "seen", 50, 1, 0, 0),
]


def test_bars_are_as_tall_as_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    draw(SCORES, tmp_path / "plot.svg")
    found = {
        axes.get_title(loc="left"): {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
        for axes in drawn[0].axes
    }
    assert found["chunked_limited CTC"] == {"offline": [], "stock": [50.0, 110.0], "fixed": [], "ours": [5.0]}
    assert found["regular CTC"]["fixed"] == [2.0]
    text = (tmp_path / "plot.svg").read_text()
    draw(SCORES, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
    assert "seen +7" in text


def test_a_row_tells_each_kind_of_error_in_its_engines_column() -> None:
    _, header, rows = table(SCORES)
    seen = dict(zip(header, rows[0], strict=True))
    assert seen["words"] == "200"
    assert seen["stock"] == "50.0 (10.0 5.0 35.0)"
    assert seen["ours"] == "5.0 (2.0 1.0 2.0)"
    assert seen["fixed"] == ""


@torch.inference_mode()
def test_each_step_of_ours_is_timed(zoo: Zoo) -> None:
    ours = Ours(adopt(zoo.build(CHUNKED), "evidence"), Mode(1, "ctc"))
    texts: list[str] = []
    steps = sum(1 for _ in ours.steps(excerpt(0, 2 * RATE), texts))
    assert len(ours.seconds) == steps > 10
    assert len(texts) == 1

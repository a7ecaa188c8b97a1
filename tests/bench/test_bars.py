"""The plot is what its numbers say."""

from xml.etree import ElementTree

from bench.bars import HEIGHT, Group, bars

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_tall_as_their_values() -> None:
    groups = [Group("a & b", "one", [50.0, None]), Group("a & b", "two", [25.0, 140.0])]
    root = ElementTree.fromstring(bars("WER < 100", groups, ("stock", "fixed")))
    found = {rect[0].text: float(rect.get("height", "nan")) for rect in root.iter(f"{SVG}rect") if len(rect)}
    assert found == {
        "one, stock: 50.0": HEIGHT / 2,
        "two, stock: 25.0": HEIGHT / 4,
        "two, fixed: 140.0": HEIGHT,
    }
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts.count("a & b") == 1
    assert "140" in texts

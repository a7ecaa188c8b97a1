"""The tables and the plot."""

from collections.abc import Sequence
from pathlib import Path

from bench.evidence.measure import ENGINES, Score

COLOURS = ("#9aa5b1", "#d1495b", "#edae49", "#30638e")

Shown = tuple[str, list[str], list[list[str]]]  # caption, header, rows


def table(scores: list[Score]) -> Shown:
    """A row for each style and case, a column for each engine."""
    rows: dict[tuple[str, str], dict[str, Score]] = {}
    for score in scores:
        rows.setdefault((score.style, score.case), {})[score.engine] = score
    header = ["model, head", "case", "words", *ENGINES]
    lines = []
    for (style, case), found in rows.items():
        cells = [_cell(found[engine]) if engine in found else "" for engine in ENGINES]
        lines.append([style, case, str(next(iter(found.values())).words), *cells])
    return "word error rate, % (deletions, insertions, substitutions)", header, lines


def steps(latency: dict[str, dict[str, dict[str, float]]]) -> Shown:
    rows = [
        [style, engine, *(str(value) for value in values.values())]
        for style, engines in latency.items()
        for engine, values in engines.items()
    ]
    return (
        "encoder step of one stream on one thread, processor time, engines in turn, the two models beside each other",
        ["model", "engine", "p50 ms", "p95 ms", "steps"],
        rows,
    )


def markdown(shown: list[Shown]) -> str:
    parts = []
    for caption, header, rows in shown:
        lines = [header, ["---"] * len(header), *rows]
        parts.append(f"{caption[0].upper()}{caption[1:]}:\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(parts)


def _cell(score: Score) -> str:
    parts = (100 * n / score.words for n in (score.deletions, score.insertions, score.substitutions))
    return f"{score.wer:.1f} ({' '.join(f'{part:.1f}' for part in parts)})"


def draw(scores: Sequence[Score], path: Path) -> None:
    """Word error rates as bars, a row of axes for each model and head; needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "trunkline", "svg.fonttype": "none"}  # the same figures give the same file
    from matplotlib import pyplot

    styles = list(dict.fromkeys(score.style for score in scores))
    figure, rows = pyplot.subplots(len(styles), figsize=(9, 2.6 * len(styles)), squeeze=False)
    for style, axes in zip(styles, rows[:, 0], strict=True):
        found = {(score.case, score.engine): score.wer for score in scores if score.style == style}
        names = list(dict.fromkeys(case for case, _ in found))
        width = 0.8 / len(ENGINES)
        for number, (engine, colour) in enumerate(zip(ENGINES, COLOURS, strict=True)):
            heard = [(place, found[name, engine]) for place, name in enumerate(names) if (name, engine) in found]
            places = [place + (number - (len(ENGINES) - 1) / 2) * width for place, _ in heard]
            made = axes.bar(places, [wer for _, wer in heard], width, color=colour, label=engine)
            axes.bar_label(made, fmt="%.0f", fontsize=7)
        axes.set_title(style, fontsize=10, loc="left")
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.set(ylabel="word errors, %", ylim=(0, 115))
    rows[0, 0].legend(fontsize=8, ncols=len(ENGINES), loc="upper right", bbox_to_anchor=(1, 1.3))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)

"""Delay against load, as a picture."""

from pathlib import Path

from bench.service.delay import LIMIT_MS, Delays


def draw(delays: Delays, path: Path, where: str) -> None:
    """Partials' and finals' delay by calls at once; needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "trunkline"  # the same figures give the same file
    from matplotlib import pyplot

    rows = sorted([*delays.levels, *delays.loads.values()], key=lambda row: row["calls"])
    calls = [row["calls"] for row in rows]
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for name, label, style in (
        ("p50_ms", "partials, p50", "o-"),
        ("p95_ms", "partials, p95", "o-"),
        ("p99_ms", "partials, p99", "o:"),
        ("finals_p50_ms", "finals, p50", "s--"),
        ("finals_p95_ms", "finals, p95", "s--"),
    ):
        axes.plot(calls, [row[name] for row in rows], style, label=label, markersize=4)
    axes.axhline(LIMIT_MS, color="grey", linewidth=0.8)
    axes.axvline(delays.held, color="grey", linewidth=0.8)
    axes.set(xlabel="stereo calls in real time", ylabel="ms after the record that completes the chunk", yscale="log")
    axes.set_title(f"Delay against load: {where}", fontsize=10)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})

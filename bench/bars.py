"""A grouped bar chart as SVG, with nothing but text: no plotting library is worth its weight here."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#9aa5b1", "#d1495b", "#edae49", "#30638e", "#66a182")
BAR, GAP, HEIGHT, LEFT, TOP, BOTTOM = 12, 18, 220, 46, 54, 118


@dataclass(frozen=True)
class Group:
    """Bars that stand together; groups of one section stand under one heading. None: no such bar."""

    section: str
    name: str
    values: Sequence[float | None]


def bars(title: str, groups: Sequence[Group], series: Sequence[str], most: float = 100.0) -> str:
    """Values from 0 to `most`; what is higher is cut at the top and still labelled."""
    step = len(series) * BAR + GAP
    width = LEFT + len(groups) * step + GAP
    base = TOP + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{base + BOTTOM}" '
        f'viewBox="0 0 {width} {base + BOTTOM}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{base + BOTTOM}" fill="white"/>',
        f'<text x="{LEFT}" y="16" font-size="14">{escape(title)}</text>',
    ]
    for number, name in enumerate(series):
        x = LEFT + 90 * number
        parts.append(f'<rect x="{x}" y="24" width="10" height="10" fill="{COLOURS[number]}"/>')
        parts.append(f'<text x="{x + 14}" y="33">{escape(name)}</text>')
    for share in range(5):
        y = base - HEIGHT * share / 4
        parts.append(f'<line x1="{LEFT}" x2="{width}" y1="{y:g}" y2="{y:g}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{most * share / 4:g}</text>')
    section = None
    for place, group in enumerate(groups):
        x = LEFT + GAP / 2 + place * step
        if group.section != section:
            section = group.section
            parts.append(f'<text x="{x:g}" y="{base + BOTTOM - 6}" font-weight="bold">{escape(section)}</text>')
        for number, value in enumerate(group.values):
            if value is None:
                continue
            tall = HEIGHT * min(value, most) / most
            left = x + number * BAR
            parts.append(
                f'<rect x="{left:g}" y="{base - tall:g}" width="{BAR - 1}" height="{tall:g}" fill="{COLOURS[number]}">'
                f"<title>{escape(f'{group.name}, {series[number]}: {value:.1f}')}</title></rect>"
            )
            parts.append(
                f'<text x="{left + BAR / 2 - 1:g}" y="{base - tall - 2:g}" text-anchor="middle" font-size="7">'
                f"{value:.0f}</text>"
            )
        middle = x + len(series) * BAR / 2
        parts.append(
            f'<text x="{middle:g}" y="{base + 12}" text-anchor="end" '
            f'transform="rotate(-45 {middle:g} {base + 12})">{escape(group.name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"

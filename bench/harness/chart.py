"""One horizontal bar chart as SVG. The scale is linear and starts at zero: a bar twice as long is twice as much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 820
MARGIN = 24
LABELS = 250
"""Room for the names at the left."""
VALUES = 80
"""Room for the number behind the longest bar."""
BAR = 22
GAP = 8
HEAD = 76
GROUP_HEAD = 34
FOOT = 34

INK = "#1f2933"
FAINT = "#616e7c"
LINES = "#d9dee3"
PLAIN = "#9aa5b1"
OURS = "#2b6cb0"


@dataclass(frozen=True)
class Bar:
    """A value of a group; one of them is what the chart is about."""

    group: str
    name: str
    value: float
    highlighted: bool = False


def draw(title: str, subtitle: str, bars: list[Bar]) -> str:
    """The whole picture."""
    groups = list(dict.fromkeys(bar.group for bar in bars))
    height = HEAD + len(groups) * GROUP_HEAD + len(bars) * (BAR + GAP) + FOOT
    step = tick(max(bar.value for bar in bars))
    top = max(bar.value for bar in bars)
    body = [*axis(step, top, height), text(MARGIN, 34, title, size=18, weight="bold")]
    body.append(text(MARGIN, 54, subtitle, colour=FAINT))
    y = HEAD
    for group in groups:
        body.append(text(MARGIN, y + 20, group, size=14, weight="bold"))
        y += GROUP_HEAD
        for bar in (bar for bar in bars if bar.group == group):
            body += drawn_bar(bar, y, top)
            y += BAR + GAP
    return document(title, height, body)


def document(title: str, height: int, body: list[str]) -> str:
    # A background of its own: a page that shows the picture may be dark.
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img" font-family="Helvetica, Arial, sans-serif">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def drawn_bar(bar: Bar, y: int, top: float) -> list[str]:
    x = MARGIN + LABELS
    length = max(at(bar.value, top) - x, 1)
    colour = OURS if bar.highlighted else PLAIN
    weight = "bold" if bar.highlighted else "normal"
    middle = y + BAR * 0.7
    return [
        text(x - 10, middle, bar.name, anchor="end", weight=weight),
        f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
        text(x + length + 8, middle, f"{bar.value:,.0f}", weight=weight),
    ]


def axis(step: float, top: float, height: int) -> list[str]:
    drawn = []
    for number in range(int(top // step) + 1):
        x = at(number * step, top)
        drawn.append(f'<line x1="{x:.1f}" y1="{HEAD}" x2="{x:.1f}" y2="{height - FOOT}" stroke="{LINES}"/>')
        drawn.append(text(x, height - FOOT + 20, f"{number * step:,.0f}", size=12, anchor="middle", colour=FAINT))
    return drawn


def at(value: float, top: float) -> float:
    """Where a value lies on the x axis."""
    return MARGIN + LABELS + (WIDTH - 2 * MARGIN - LABELS - VALUES) * value / top


def tick(top: float) -> float:
    """A round distance that divides the axis into two to five parts."""
    power = 10.0 ** math.floor(math.log10(max(top, 1)))
    return next(power * part for part in (0.2, 0.5, 1, 2) if top / (power * part) <= 5)


def text(
    x: float, y: float, words: str, *, size: int = 13, anchor: str = "start", weight: str = "normal", colour: str = INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{colour}">{escape(words)}</text>'
    )

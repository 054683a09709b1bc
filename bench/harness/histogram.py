"""A distribution as SVG: how many values fall into each tenth of a second, and marks that they are to be read against.

The axis of the numbers starts at zero; that of the values begins and ends where there is something to see.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from .chart import FAINT, LINES, MARGIN, OURS, WIDTH, document, text, tick

BIN = 0.1
HEIGHT = 360
TOP = 118
"""Room for the title and the names of the marks."""
BOTTOM = 64
LEFT = MARGIN + 36
"""Room for the numbers at the left."""
GOAL = "#9b2c2c"


@dataclass(frozen=True)
class Mark:
    """A line at a value, with its name above."""

    name: str
    value: float


@dataclass(frozen=True)
class Scale:
    """Where a value and a number lie in the picture."""

    first: int
    last: int
    """The outermost bins, the last one not included."""
    most: int

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - MARGIN - LEFT) * (value / BIN - self.first) / (self.last - self.first)

    def y(self, number: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * number / self.most


def draw(title: str, subtitle: str, values: list[float], marks: list[Mark], seconds_of: str) -> str:
    """The whole picture."""
    bins = Counter(math.floor(value / BIN) for value in values)
    ends = [*bins, *(round(mark.value / BIN) for mark in marks)]
    scale = Scale(min(ends) - 1, max(ends) + 2, max(bins.values()))
    body = [text(MARGIN, 34, title, size=18, weight="bold"), text(MARGIN, 54, subtitle, colour=FAINT)]
    body += axes(scale, seconds_of)
    body += [column(scale, number, count) for number, count in sorted(bins.items())]
    for number, mark in enumerate(sorted(marks, key=lambda mark: mark.value)):
        body += drawn_mark(scale, mark, is_low=number % 2 == 1)
    return document(title, HEIGHT, body)


def axes(scale: Scale, seconds_of: str) -> list[str]:
    """How many, at the left; seconds, below."""
    drawn = []
    step = max(tick(scale.most), 1)
    for number in range(0, scale.most + 1, int(step)):
        y = scale.y(number)
        drawn.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - MARGIN}" y2="{y:.1f}" stroke="{LINES}"/>')
        drawn.append(text(LEFT - 8, y + 4, f"{number}", size=12, anchor="end", colour=FAINT))
    every = 1 if scale.last - scale.first <= 20 else 5
    for number in range(scale.first, scale.last + 1):
        if number % every == 0:
            value = f"{number * BIN:.1f}"
            drawn.append(text(scale.x(number * BIN), HEIGHT - BOTTOM + 20, value, size=12, anchor="middle", colour=FAINT))
    middle = (LEFT + WIDTH - MARGIN) / 2
    caption = f"seconds {seconds_of}; workers in each tenth of a second"
    drawn.append(text(middle, HEIGHT - BOTTOM + 44, caption, size=12, anchor="middle", colour=FAINT))
    return drawn


def column(scale: Scale, number: int, count: int) -> str:
    left, right = scale.x(number * BIN), scale.x((number + 1) * BIN)
    y = scale.y(count)
    return (
        f'<rect x="{left + 1:.1f}" y="{y:.1f}" width="{right - left - 2:.1f}" height="{scale.y(0) - y:.1f}" '
        f'rx="2" fill="{OURS}"/>'
    )


def drawn_mark(scale: Scale, mark: Mark, is_low: bool) -> list[str]:
    """Every other name is lower, and beside its line, because its neighbours may be near."""
    x = scale.x(mark.value)
    y = TOP - 20 if is_low else TOP - 34
    name = f"{mark.name} {mark.value:.2f} s"
    return [
        f'<line x1="{x:.1f}" y1="{y + 4 if not is_low else y - 9:.1f}" x2="{x:.1f}" y2="{scale.y(0):.1f}" '
        f'stroke="{GOAL}" stroke-dasharray="4 3"/>',
        text(x - 5 if is_low else x, y, name, size=12, anchor="end" if is_low else "middle", colour=GOAL),
    ]

"""Comparisons: what is compared runs side by side, in rounds, and only ratios and medians count."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Measurements = dict[str, list[float]]


def side_by_side(variants: Mapping[str, Callable[[], float]], rounds: int) -> Measurements:
    """Measures each variant once a round. Every other round runs backwards, so that none always follows another."""
    measured: Measurements = {name: [] for name in variants}
    for number in range(rounds):
        for name in list(variants) if number % 2 == 0 else reversed(list(variants)):
            measured[name].append(variants[name]())
    return measured


def ratio(measured: Measurements, name: str, reference: str) -> float:
    """The median of the ratios within a round: what slows a whole round down falls out."""
    return statistics.median(ratios(measured, name, reference))


def ratios(measured: Measurements, name: str, reference: str) -> list[float]:
    pairs = zip(measured[name], measured[reference], strict=True)
    return [value / max(against, 1e-9) for value, against in pairs]


def median(measured: Measurements, name: str) -> float:
    return statistics.median(measured[name])


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

"""How figures are shown with their units; only shares and percentages have a ``%``."""

from __future__ import annotations

SHARE, PERCENT, SCORE = "share", "percent", "score"


def figure_text(value: float, unit: str) -> str:
    """Return a figure for people: ``62.5 %`` for a share of 0.625, ``0.412 nats``, ``3.1`` for a plain score."""
    if unit == SHARE:
        return f"{100 * value:.1f} %"
    if unit == PERCENT:
        return f"{value:.1f} %"
    return f"{value:.4g}" if unit in ("", SCORE) else f"{value:.4g} {unit}"


def interval_text(low: float, high: float, unit: str) -> str:
    """Return an interval, without its unit: ``58.0 to 67.0``."""
    scale, spec = (100, ".1f") if unit == SHARE else (1, ".1f" if unit == PERCENT else ".4g")
    return f"{scale * low:{spec}} to {scale * high:{spec}}"

"""The scaling plot of ``docs/performance.md``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from fitting import CostModel
from matplotlib import pyplot
from matplotlib.axes import Axes
from points import Measured, Point

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "performance"

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")

Value = Callable[[Point], float]

AXES: dict[str, tuple[str, Value]] = {
    "experts": ("experts of 113 M parameters", lambda point: point.experts),
    "parameters": ("parameters of each of 2 experts, millions", lambda point: point.parameters / 1e6),
    "workers": ("workers, 8 experts of 113 M", lambda point: point.workers),
}
"""Sweep over a setting: what its axis says, and where a point stands on it."""


def plot(measured: Sequence[Measured], models: dict[str, CostModel], path: Path) -> None:
    """One panel a setting; a colour a method: whole process, its sweeps (dashed), the model (dotted)."""
    figure, panels = pyplot.subplots(1, len(AXES), figsize=(13, 4.2), constrained_layout=True)
    for panel, (setting, (label, value)) in zip(panels, AXES.items(), strict=True):
        for colour, method in zip(COLOURS, models, strict=False):
            points = [entry for entry in measured if entry.point.setting == setting and entry.point.method == method]
            _lines(panel, points, value, colour)
            if setting != "workers":
                xs = [value(entry.point) for entry in points]
                modelled = [models[method].seconds(entry.swept_bytes) for entry in points]
                panel.plot(xs, modelled, ":", color=colour, label=f"{method}: model")
        _dress(panel, label, logarithmic=setting == "parameters")
    panels[0].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _lines(panel: Axes, points: Sequence[Measured], value: Value, colour: str) -> None:
    if not points:
        return
    xs, method = [value(entry.point) for entry in points], points[0].point.method
    panel.plot(xs, [entry.seconds for entry in points], "o-", color=colour, label=f"{method}: whole process")
    panel.plot(xs, [entry.sweep_seconds for entry in points], "s--", color=colour, label=f"{method}: sweeps", ms=4)
    panel.plot(xs, [entry.floor_seconds for entry in points], "k_", ms=8, label="floor: sum the bytes once")


def _dress(panel: Axes, label: str, *, logarithmic: bool) -> None:
    panel.set_xlabel(label)
    panel.set_ylabel("seconds")
    panel.grid(alpha=0.3)
    if logarithmic:
        panel.set_xscale("log")
        panel.set_yscale("log")
    else:
        panel.set_ylim(bottom=0)

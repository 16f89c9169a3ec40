"""The tables of ``docs/results.md``: figures with intervals, paired differences, verdicts on the paper's claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lines_pipeline.suites.intervals import mean_over_tasks, percentile_interval, resampled_means
from lines_pipeline.suites.samples import Array, Samples

PLAIN, LINES, UNIFORM = "plain", "LiNeS", "uniform"
VARIANTS = (PLAIN, LINES, UNIFORM)
Measured = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean and the same of every resample [RESAMPLES]; fractions of one."""

    mean: float
    drawn: Array

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.mean - other.mean, self.drawn - other.drawn)

    def interval(self) -> tuple[float, float]:
        """Return the middle 95 %."""
        return percentile_interval(self.drawn)

    def points(self, sign: bool = False) -> str:
        """Return mean and interval in percentage points."""
        low, high = self.interval()
        return f"{100 * self.mean:{'+' if sign else ''}.1f} ({100 * low:.1f} to {100 * high:.1f})"


def write_page(measured: Measured, path: Path | None) -> None:
    """Write the tables below the line ``<!-- tables -->`` of a page, or print them."""
    text = "\n".join(tables(measured)) + "\n"
    if path is None:
        print(text)
        return
    before = path.read_text().split(MARK)[0]
    path.write_text(f"{before}{MARK}\n\n{text}")


MARK = "<!-- tables: written by benchmarks/results.py -->"


def tables(measured: Measured) -> Iterator[str]:
    """Yield the lines of all tables, zoo by zoo."""
    zoos = [key.removesuffix("/references") for key in measured if key.endswith("/references")]
    for zoo in zoos:
        yield f"## `{zoo}`"
        yield ""
        yield from _forgetting(measured, zoo)
        for count in _counts(measured, zoo):
            yield from _merges(measured, zoo, count)
    yield from _replicates(measured, zoos)
    yield from _claims(measured, zoos)


def _forgetting(measured: Measured, zoo: str) -> Iterator[str]:
    if f"{zoo}/forgetting" not in measured:
        return
    metrics = measured[f"{zoo}/forgetting"]["metrics"]
    yield "| one expert's update | own task, of the expert's | other tasks, of the pretrained model's |"
    yield "|---|---|---|"
    for way in dict.fromkeys(step.split("[")[0] for step in metrics):
        members = [found for step, found in metrics.items() if step.split("[")[0] == way]
        own, others = (
            np.array([100 * one[f"{part}_normalized_accuracy"] for one in members]) for part in ("target", "control")
        )
        yield f"| {way.replace('_', ' ')} | {_over_members(own)} | {_over_members(others)} |"
    yield ""


def _over_members(values: Array) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def _merges(measured: Measured, zoo: str, count: int) -> Iterator[str]:
    yield f"### {_merged(measured, zoo, count)}"
    yield ""
    head = (
        "method",
        *VARIANTS,
        "LiNeS − plain",
        "LiNeS − uniform",
        "tasks won : lost",
        "worst task",
        "chosen",
        "merge",
    )
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for method, cell in _cells(measured, zoo, count):
        normalized = _normalized(measured, zoo, cell)
        lines, plain, uniform = normalized["LiNeS"], normalized["plain"], normalized["uniform"]
        won, lost = _wins(cell)
        worst = " → ".join(f"{100 * min(_accuracies(cell, variant)):.0f}" for variant in ("plain", "LiNeS"))
        chosen = ", ".join(f"{value:g}" for value in cell["chosen"].values())
        yield (
            f"| {method} | {plain.points()} | {lines.points()} | {uniform.points()} | {(lines - plain).points(True)} | "
            f"{(lines - uniform).points(True)} | {won} : {lost} | {worst} | {chosen} | {_cost(cell)} |"
        )
    yield ""
    yield from _unseen(measured, zoo, count)


def _merged(measured: Measured, zoo: str, count: int) -> str:
    """Return what so many experts of a zoo are."""
    _, cell = next(_cells(measured, zoo, count))
    return f"{count} tasks" if len(cell["tasks"]) == count else f"{count} models of {len(cell['tasks'])} task"


def _cost(cell: Any) -> str:
    """Return time and memory of one merge."""
    return f"{cell['alone']['seconds']:.0f} s, {cell['alone']['peak_bytes'] / 1e6:.0f} MB"


def _unseen(measured: Measured, zoo: str, count: int) -> Iterator[str]:
    """Yield the table of tasks that were not merged, where there are any."""
    cells = list(_cells(measured, zoo, count))
    others = [task for task in cells[0][1]["samples"]["plain"] if task not in cells[0][1]["tasks"]]
    if not others:
        return
    zero_shot = _zero_shot(measured, zoo, count)
    yield f"Accuracy on the {len(others)} tasks that were not merged (zero-shot {zero_shot:.1f}):"
    yield ""
    yield "| method | plain | LiNeS | LiNeS − plain |"
    yield "|---|---|---|---|"
    for method, cell in cells:
        plain, lines = (_mean_accuracy(cell, variant, others) for variant in ("plain", "LiNeS"))
        yield f"| {method} | {plain.points()} | {lines.points()} | {(lines - plain).points(True)} |"
    yield ""


def _replicates(measured: Measured, zoos: Sequence[str]) -> Iterator[str]:
    """Yield what LiNeS adds on every pretrained model and seed of a family, where there are several."""
    families = dict.fromkeys(zoo.split("@")[0] for zoo in zoos)
    for family in families:
        members = [zoo for zoo in zoos if zoo.split("@")[0] == family]
        if len(members) > 1:
            yield from _replicates_of(measured, family, members)


def _replicates_of(measured: Measured, family: str, zoos: Sequence[str]) -> Iterator[str]:
    choices = [zoo.removeprefix(family).removeprefix("@") or "base0" for zoo in zoos]
    yield f"## `{family}` on other pretrained models and seeds: LiNeS − plain"
    yield ""
    yield f"| method, tasks | {' | '.join(choices)} | mean |"
    yield "|---" * (len(zoos) + 2) + "|"
    for count in _counts(measured, family):
        for method, _ in _cells(measured, family, count):
            keys = [(zoo, f"{zoo}/{count}/{method}") for zoo in zoos]
            gains = [_gain(measured, zoo, measured[key]) if key in measured else None for zoo, key in keys]
            have = np.array([100 * gain.mean for gain in gains if gain is not None])
            if len(have) > 1:
                cells = " | ".join("" if gain is None else gain.points(True) for gain in gains)
                yield f"| {method}, {count} | {cells} | {have.mean():+.1f} |"
    yield ""


def _gain(measured: Measured, zoo: str, cell: Any) -> Estimate:
    normalized = _normalized(measured, zoo, cell)
    return normalized[LINES] - normalized[PLAIN]


def _claims(measured: Measured, zoos: Sequence[str]) -> Iterator[str]:
    yield "## The paper's claims, here"
    yield ""
    yield "| merge | zoo | LiNeS raises | verdict | depth helps, not size | verdict |"
    yield "|---|---|---|---|---|---|"
    for zoo in zoos:
        for count in _counts(measured, zoo):
            for method, cell in _cells(measured, zoo, count):
                normalized = _normalized(measured, zoo, cell)
                differences = (normalized[LINES] - normalized[other] for other in (PLAIN, UNIFORM))
                told = " | ".join(f"{one.points(True)} | {_verdict(one)}" for one in differences)
                yield f"| {method}, {_merged(measured, zoo, count)} | `{zoo}` | {told} |"
    yield ""


def _verdict(difference: Estimate) -> str:
    low, high = difference.interval()
    return "holds" if low > 0 else "the contrary holds" if high < 0 else "not shown"


def _counts(measured: Measured, zoo: str) -> list[int]:
    keys = [key.removeprefix(f"{zoo}/").split("/") for key in measured if key.startswith(f"{zoo}/")]
    return sorted({int(parts[0]) for parts in keys if len(parts) == 2 and parts[0].isdigit()})


def _cells(measured: Measured, zoo: str, count: int) -> Iterator[tuple[str, Any]]:
    start = f"{zoo}/{count}/"
    return ((key.removeprefix(start), cell) for key, cell in measured.items() if key.startswith(start))


def _normalized(measured: Measured, zoo: str, cell: Any) -> dict[str, Estimate]:
    """Return the mean over the merged tasks of accuracy over that of the task's own expert, by variant."""
    found = measured[f"{zoo}/references"]["metrics"]
    experts = {task: found[f"accuracy/{task}"] / found[f"normalized_accuracy/{task}"] for task in cell["tasks"]}
    return {
        variant: _mean([_accuracy(cell, variant, task) for task in cell["tasks"]], list(experts.values()))
        for variant in cell["samples"]
    }


def _mean_accuracy(cell: Any, variant: str, tasks: Sequence[str]) -> Estimate:
    return _mean([_accuracy(cell, variant, task) for task in tasks], [1.0] * len(tasks))


def _mean(estimates: Sequence[Estimate], divisors: Sequence[float]) -> Estimate:
    pairs = list(zip(estimates, divisors, strict=True))
    return Estimate(
        float(np.mean([one.mean / divisor for one, divisor in pairs])),
        mean_over_tasks([one.drawn / divisor for one, divisor in pairs]),
    )


def _accuracies(cell: Any, variant: str) -> list[float]:
    return [_accuracy(cell, variant, task).mean for task in cell["tasks"]]


def _accuracy(cell: Any, variant: str, task: str) -> Estimate:
    """Return the accuracy on a task, resampled by cluster: the same draws whichever model is judged."""
    samples = Samples.unpacked(cell["samples"][variant][task])
    right = {"accuracy": samples.values["accuracy"]}
    return Estimate(float(right["accuracy"].mean()), resampled_means(right, samples.clusters)["accuracy"])


def _wins(cell: Any) -> tuple[int, int]:
    """Return on how many merged tasks LiNeS is better than the plain merge, and on how many it is worse."""
    pairs = list(zip(_accuracies(cell, "LiNeS"), _accuracies(cell, "plain"), strict=True))
    return sum(lines > plain for lines, plain in pairs), sum(lines < plain for lines, plain in pairs)


def _zero_shot(measured: Measured, zoo: str, count: int) -> float:
    """Return the pretrained model's mean accuracy on the tasks that were not merged, in percent."""
    cell = next(cell for _, cell in _cells(measured, zoo, count))
    found = measured[f"{zoo}/references"]["metrics"]
    return 100 * float(np.mean([found[f"accuracy/{t}"] for t in cell["samples"]["plain"] if t not in cell["tasks"]]))

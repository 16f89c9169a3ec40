"""The results of a run and of a validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from lines_pipeline.core.secrets import NO_SECRETS, Secrets


@dataclass(frozen=True)
class RunResult:
    """The result of a run: metrics and facts by node, the files it wrote, and where it is recorded."""

    name: str
    out: Path | str
    metrics: Mapping[str, Mapping[str, float]]
    files: tuple[Path, ...]
    """Empty where they are in an object store."""
    urls: tuple[str, ...]
    """The files in an object store."""
    facts: Mapping[str, Mapping[str, Any]]
    run_id: str
    tracking_uri: str
    chosen: Mapping[str, Any]
    cached: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    """What the run told of its inputs and results, as ``note: ...`` and ``warning: ...``."""
    units: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of the metrics, by node: ``share`` (0..1), ``nats``, ``score`` ..."""
    trials: tuple[Mapping[str, Any], ...] = ()
    """What ``tune`` tried, in order: ``trial``, ``values``, ``objective``, ``share`` of the samples, ``outcome``
    (complete, or stopped: the objective is then on that share), whether it was ``cached``, and ``metrics``."""
    computed: Mapping[str, Any] = field(default_factory=dict)
    """Of the facts, those that took the place of parameters, by node and name: ``scaled.alpha`` where that is auto."""
    secrets: Secrets = field(default=NO_SECRETS, repr=False)
    """What the recipe took from the environment: paths, names and the URI above have it by value."""

    def to_dict(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints: what comes from the environment is there by name."""
        plain = {
            "name": self.secrets.label(self.name),
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            "metrics": {node: dict(values) for node, values in self.metrics.items()},
            "units": {node: dict(values) for node, values in self.units.items()},
            "files": [str(file) for file in (*self.files, *self.urls)],
            "facts": {node: dict(values) for node, values in self.facts.items()},
            "chosen": dict(self.chosen),
            "cached": [self.secrets.label(step) for step in self.cached],
            "seconds": self.seconds,
            "notes": list(self.notes),
            **({"trials": [dict(trial) for trial in self.trials]} if self.trials else {}),
        }
        return self.secrets.hidden(plain)

    def _repr_html_(self) -> str:
        """Show metrics, chosen values, files and the run in a notebook, as ``to_dict`` has them."""
        shown = self.to_dict()
        rows = [f"chosen {name} = {value}" for name, value in shown["chosen"].items()]
        rows += [f"computed {name} = {computed_text(value)}" for name, value in self.computed.items()]
        rows += [f"written {file}" for file in shown["files"]]
        rows.append(f"run {shown['name']} {self.run_id or 'without a record'} ({self.seconds:.1f} s)")
        return _metrics_html(shown["metrics"]) + "".join(f"<div>{escape(row)}</div>" for row in rows)


@dataclass(frozen=True)
class Validation:
    """A recipe that passed every check that needs no tensor data; ``notes`` say what could not be checked yet."""

    name: str
    steps: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """Where results may be other than expected."""


def _metrics_html(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table with a row a metric and a column a node; empty where there are none."""
    names = dict.fromkeys(name for figures in metrics.values() for name in figures)
    rows = [[name, *(_number(figures.get(name)) for figures in metrics.values())] for name in names]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("metric", *metrics))
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""


def computed_text(value: Any) -> str:
    """Return a computed figure for people; of a list, the range and how many there are."""
    if not isinstance(value, list):
        return _number(value)
    return f"{min(value):.6g} to {max(value):.6g} ({len(value)} values)"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"

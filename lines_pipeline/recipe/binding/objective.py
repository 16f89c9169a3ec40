"""Parses the objective of ``tune``: a metric, or a linear expression of metrics."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lines_pipeline.graph.graph import Step

MAX_LENGTH = 2_000

_REFERENCE = re.compile(r"([A-Za-z_][\w-]*(?:\[[^\[\]\s]+\])?)\.([A-Za-z_][\w/-]*)", re.ASCII)
_EXAMPLE = "expected a metric such as val.mean_accuracy, or sums of numbers times metrics"

_Linear = dict[str, float]
"""Coefficient by placeholder; the constant under the empty name."""


class _NotLinearError(ValueError):
    """Refuses an expression that is no sum of numbers times metrics."""


@dataclass(frozen=True)
class DeclaredMetrics:
    """Tells, by full names of metrics, whether ``higher`` or ``lower`` is better, and how messages list them."""

    directions: Mapping[str, str]
    shown: str
    with_target: frozenset[str] = frozenset()
    """The metrics that it would give too, if its node named a target task."""
    lacking: Mapping[str, str] = field(default_factory=dict)
    """The metrics that it cannot give for want of a baseline, each with what is missing and what to do."""


MetricsOf = Callable[["Step"], DeclaredMetrics | None]
"""The metrics of a step; None where they are not known. Binding is handed it: it knows no suites."""


@dataclass(frozen=True)
class Objective:
    """``constant + sum of coefficient * node.metric``; a node is named as a step is (``val``, ``val[digits]``)."""

    terms: tuple[tuple[float, str, str], ...]
    constant: float = 0.0

    @property
    def nodes(self) -> list[str]:
        """Return the steps that it names, each once."""
        return list(dict.fromkeys(node for _, node, _ in self.terms))

    def value(self, metrics: Mapping[str, Mapping[str, float]]) -> float:
        """Return the objective, from metrics by step and name; KeyError (``node.metric``) where one is missing."""
        total = self.constant
        for coefficient, node, metric in self.terms:
            if metric not in metrics.get(node, {}):
                raise KeyError(f"{node}.{metric}")
            total += coefficient * metrics[node][metric]
        return total


def default_direction(
    objective: Objective, directions: Callable[[str], Mapping[str, str]]
) -> Literal["maximize", "minimize"] | None:
    """Return whether to maximize or minimize, by what is better of each metric (``directions`` of a step, by name).

    A metric that is subtracted counts the other way round. Where the terms disagree, what is better of all metrics
    decides (``val.accuracy/a - val.accuracy/b``); None where they disagree on that too. Metrics of which nothing is
    known are better higher.
    """
    terms = [
        (directions(node).get(metric, "higher") == "higher", coefficient > 0)
        for coefficient, node, metric in objective.terms
        if coefficient
    ]
    directions_of_terms, better = {higher == added for higher, added in terms}, {higher for higher, _ in terms}
    decided = directions_of_terms if len(directions_of_terms) == 1 else better
    if len(decided) > 1:
        return None
    return "minimize" if decided == {False} else "maximize"


def parse_objective(text: str) -> Objective:
    """Read ``val.a`` or ``2 * val.a + val.b`` (minus between spaces); ValueError says what is wrong."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the objective has {len(text)} characters, expected at most {MAX_LENGTH}")
    names: dict[str, tuple[str, str]] = {}

    def placeholder(match: re.Match[str]) -> str:
        name = f"metric{len(names)}_"
        names[name] = (match[1], match[2])
        return f" {name} "

    source = _REFERENCE.sub(placeholder, text)
    try:
        linear = _linear(ast.parse(source.strip(), mode="eval").body, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, ZeroDivisionError) as error:
        reason = str(error) if isinstance(error, _NotLinearError) else "not an expression of metrics"
        raise ValueError(f"cannot read '{text}': {reason}; {_EXAMPLE}, minus between spaces") from None
    return _collected(text, linear, names)


def _collected(text: str, linear: _Linear, names: Mapping[str, tuple[str, str]]) -> Objective:
    coefficients: dict[tuple[str, str], float] = {}
    for name, reference in names.items():
        coefficients[reference] = coefficients.get(reference, 0.0) + linear.get(name, 0.0)
    if not names or not all(math.isfinite(number) for number in (*linear.values(), *coefficients.values())):
        raise ValueError(f"'{text}' {'has numbers too large' if names else 'names no metric'}; {_EXAMPLE}")
    terms = tuple((coefficient, node, metric) for (node, metric), coefficient in coefficients.items())
    return Objective(terms, linear.get("", 0.0))


def _linear(node: ast.expr, names: Mapping[str, tuple[str, str]]) -> _Linear:
    if isinstance(node, ast.Name) and node.id in names:
        return {node.id: 1.0}
    if isinstance(node, ast.Name):
        raise _NotLinearError(f"'{node.id}' is not a metric")
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return {"": float(node.value)}  # type: ignore[arg-type]
    match node:
        case ast.UnaryOp(ast.USub(), operand):
            return _scaled(_linear(operand, names), -1.0)
        case ast.UnaryOp(ast.UAdd(), operand):
            return _linear(operand, names)
    if isinstance(node, ast.BinOp):
        return _combined(node.op, _linear(node.left, names), _linear(node.right, names))
    raise _NotLinearError(f"{type(node).__name__} is not allowed")


def _combined(operator: ast.operator, left: _Linear, right: _Linear) -> _Linear:
    if isinstance(operator, ast.Add | ast.Sub):
        signed = _scaled(right, -1.0 if isinstance(operator, ast.Sub) else 1.0)
        return {name: left.get(name, 0.0) + signed.get(name, 0.0) for name in {**left, **signed}}
    if isinstance(operator, ast.Div) and set(right) <= {""}:
        return _scaled(left, 1.0 / right[""])
    if isinstance(operator, ast.Mult) and set(right) <= {""}:
        return _scaled(left, right[""])
    if isinstance(operator, ast.Mult) and set(left) <= {""}:
        return _scaled(right, left[""])
    if isinstance(operator, ast.Mult | ast.Div):
        raise _NotLinearError("metrics may only be multiplied or divided by numbers")
    raise _NotLinearError(f"the operator {type(operator).__name__} is not allowed")


def _scaled(linear: _Linear, factor: float) -> _Linear:
    return {name: coefficient * factor for name, coefficient in linear.items()}

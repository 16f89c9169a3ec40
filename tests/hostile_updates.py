"""Task vectors of awkward shapes, and every op applied to them: what the laws of ``ops/test_laws.py`` are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st

from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops import registry
from lines_pipeline.ops.base import AnyOp, Beside
from lines_pipeline.ops.testing.examples import bind

SHAPES: Sequence[tuple[int, ...]] = (
    *((), (1,), (5,)),
    *((1, 6), (6, 1), (1, 1), (2, 7), (4, 4), (8, 3)),
    *((2, 3, 4), (2, 3, 2, 2), (3, 1, 1, 1)),
)
"""Scalars, rows of one, matrices with fewer directions than there are experts, kernels of convolutions."""


@dataclass(frozen=True)
class Variant:
    """An op, parameters, and optional ports that are given, too."""

    op: str
    params: Mapping[str, Any] = field(default_factory=dict)
    ports: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = [f"{name}={value}" for name, value in self.params.items()]
        return " ".join([self.op, *said, *self.ports])


NOT_APPLIED: Mapping[str, str] = {
    "load": "reads a file",
    "adapter": "reads a file",
    "save": "writes a file",
    "graft": "chooses tensors, and computes none",
    "evaluate": "measures",
    "drift": "measures",
    "fisher-information": "measures",
    "gram": "measures",
    "layer-inputs": "measures",
    "recalibrate": "measures",
    "regmean-plus-plus": "measures",
    "adamerging": "learns coefficients",
    "atlas": "learns coefficients",
    "pareto": "is made of metrics",
    "barrier": "is made of metrics",
    "wise-ft": "is made of metrics",
    "premise": "is made of metrics",
    "plot": "is made of metrics",
}
"""Ops that compute no tensor from tensors, and why."""

NEEDED: Mapping[str, Mapping[str, Any]] = {
    "trim": {"density": 0.3},
    "magnitude-mask": {"density": 0.3},
    "lines-scale": {"alpha": 0.25, "beta": 0.5},
    "scale": {"by": -0.5},
    "dare": {"density": 0.4},
    "della": {"density": 0.5},
    "breadcrumbs": {"density": 0.6, "gamma": 0.1},
    "partition": {"parts": 2, "part": 1},
    "interpolate": {"t": 0.3},
    "slerp": {"t": 0.3},
    "nearswap": {"t": 0.25},
    "wudi": {"iterations": 20},
    "doge-ta": {"iterations": 20, "lr": 0.01},
    "tsv-c": {"rank": 0.5},
    "fisher": {"floor_on": "first"},
}
"""Parameters of ops that need some, or whose defaults leave nothing to do."""

PORTS: Mapping[str, tuple[str, ...]] = {"consensus": ("deltas",)}
APPLIED = [name for name in registry() if name not in NOT_APPLIED]
VARIANTS = [
    *(Variant(name, NEEDED.get(name, {}), PORTS.get(name, ())) for name in APPLIED),
    Variant("task-arithmetic", {"reduce": "mean"}),
    Variant("task-arithmetic", {"sign": "sum", "normalize": True}),
    Variant("trim", {"norm_fraction": 0.6}),
    Variant("trim", {"deviations": 1.0}),
    Variant("trim", {"density": 0.3, "exact": True, "scope": "tensor"}),
    Variant("ties", {"density": 0.5, "aggregate": "max"}),
    Variant("ties", {"density": 0.5, "sign": "norm-mass"}),
    Variant("ties", {"density": 1.0, "sign": "norm-fraction", "aggregate": "sum"}),
    Variant("ties", {"density": 0.5, "exact": True, "zero_sign": "positive", "aggregate": "sum", "normalize": True}),
    Variant("ties", {"density": 0.5}, ("sign_from",)),
    Variant("consensus", {"min_tasks": 1}, ("masks",)),
    Variant("lines-scale", {"alpha": "auto", "beta": 0.5}, ("deltas",)),
    Variant("lines-scale", {"alpha": 0.25, "beta": 0.5, "schedule": "uniform"}),
    Variant("scale", {"by": "auto"}, ("like",)),
    Variant("dare", {"density": 0.4, "rescale": "l1"}),
    Variant("dare", {"density": 0.0}),
    Variant("della", {"density": 0.5, "rescale": "probability"}),
    Variant("della", {"density": 0.5, "rescale": "l1"}),
    Variant("breadcrumbs", {"density": 0.6, "gamma": 0.1, "rescale": "l1"}),
    Variant("sce", {"density": 0.5}),
    Variant("emr", {"rescale": "entries"}),
    Variant("nuslerp", {"flatten": False}),
    Variant("nuslerp", {"flatten": False, "row_wise": True}, ("base",)),
    Variant("nuslerp", {}, ("base",)),
    Variant("multislerp", {}, ("base",)),
    Variant("model-stock", {"filter_wise": True}),
    Variant("iso-cts", {"common_fraction": 0.3}),
    Variant("wudi-closed", {"ridge": 0.0}),
    Variant("svc", {"alpha": 0.1}),
    Variant("ace", {"tau": 0.0, "k_fraction": 1.0}),
    Variant("doge-ta", {"iterations": 3, "density": 1.0, "subspace": 1, "others": "mean"}),
    Variant("dc-merge", {"density": 1.0, "max_ratio": 2.0}),
    Variant("fisher", {"floor_on": "all"}),
    Variant("fisher", {"floor_on": "all", "floor": 0.0, "normalize": False}),
    Variant("fisher", {"floor_on": "all", "floor_kind": "add"}),
    Variant("regmean", {"ridge": 0.0}),
    Variant("regmean", {"reduce_non_diagonal": 0.0}),
]
"""Every op that computes tensors, and its other ways."""

COUNTS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("interpolate", "slerp", "nuslerp"), (2, 2)),
    **dict.fromkeys(("nearswap", "arcee-fusion"), (1, 1)),
    "model-stock": (2, 5),
}
"""The least and the most models that an op takes; of others 1 to 5."""


@dataclass(frozen=True)
class Case:
    """A base and the task vectors of experts."""

    base: torch.Tensor
    updates: Sequence[torch.Tensor]
    statistics: Sequence[torch.Tensor] = field(default=())
    """Of each expert: what its inputs are, [4, in] for matrices; no other tensors have inputs."""
    measured: Sequence[torch.Tensor] = field(default=())
    """The Fisher information of each expert, where it is not the magnitude of the task vector."""

    @property
    def information(self) -> Sequence[torch.Tensor]:
        """Return the Fisher information of each expert."""
        return self.measured or [update.abs() for update in self.updates]

    def scaled(self, factor: float) -> Case:
        """Return it with weights and task vectors times a factor; what was measured on inputs stays."""
        updates = [update * factor for update in self.updates]
        return Case(self.base * factor, updates, self.statistics, self.information)

    def reordered(self, order: Sequence[int]) -> Case:
        """Return it with the experts in another order."""
        statistics = [self.statistics[one] for one in order] if self.statistics else ()
        measured = [self.measured[one] for one in order] if self.measured else ()
        return Case(self.base, [self.updates[one] for one in order], statistics, measured)


def _values(shape: tuple[int, ...], low: int, high: int) -> st.SearchStrategy[torch.Tensor]:
    """Eighths from ``low / 8`` to ``high / 8``: sums and products by powers of two are exact."""
    count = int(torch.Size(shape).numel())
    numbers = st.lists(st.integers(low, high), min_size=count, max_size=count)
    return numbers.map(lambda found: torch.tensor(found, dtype=torch.float32).reshape(shape) / 8)


def _update(shape: tuple[int, ...]) -> st.SearchStrategy[torch.Tensor]:
    """Any values, mostly zeros, none at all, or a matrix of rank one."""
    kinds = [_values(shape, -16, 16), _values(shape, -1, 1), st.just(torch.zeros(shape))]
    if len(shape) == 2:
        columns, rows = _values((shape[0], 1), -4, 4), _values((1, shape[1]), -4, 4)
        kinds.append(st.builds(torch.matmul, columns, rows))
    return st.one_of(kinds)


@st.composite
def cases(draw: st.DrawFn, least: int = 1, most: int = 5, far_base: bool = False) -> Case:
    """Draw a case; a ``far_base`` is longer than any update, so that all models lie in about its direction."""
    shape = draw(st.sampled_from(SHAPES))
    base = draw(_values(shape, 40, 80) if far_base else _values(shape, -16, 16))
    updates = draw(st.lists(_update(shape), min_size=least, max_size=most))
    inputs = [draw(_values((4, shape[1]), -8, 8)) for _ in updates] if len(shape) == 2 else []
    return Case(base, updates, inputs)


def counts(name: str) -> tuple[int, int]:
    """The least and the most models that an op takes."""
    return COUNTS.get(name, (1, 5))


def result(variant: Variant, case: Case, task: int = 0, **params: Any) -> torch.Tensor:
    """Return what an op makes of a case, in its shape; of one of the task vectors, where it takes one: the ``task``."""
    op = registry()[variant.op]
    inputs: dict[str, list[Any]] = {
        name: _values_of(op, name, case, task)
        for name, port in op.inputs.items()
        if port.type is not EdgeType.STATISTICS and (not port.optional or name in variant.ports)
    }
    if op.name == "fisher":
        inputs["statistics"] = list(case.information)
    bound = bind(op, inputs, **{**variant.params, **params})
    beside = [_beside(op, rows) for rows in case.statistics] if op.name in ("regmean", "esm") else []
    given: dict[str, Any] = {**bound.inputs, "statistics": beside} if beside else {**bound.inputs}
    found = op.apply_at(bound.params, given, bound.tensor, bound.stats, 0)
    assert isinstance(found, torch.Tensor)
    return found.reshape(case.base.shape)


def _values_of(op: AnyOp, name: str, case: Case, task: int) -> list[torch.Tensor]:
    """What a case gives a port."""
    port = op.inputs[name]
    if name == "base":
        return [case.base]
    if name in ("merged", "sign_from", "like"):
        return [torch.stack(list(case.updates)).sum(0)]
    if port.type is EdgeType.WEIGHTS:
        values = [case.base + update for update in case.updates]
    else:
        values = [update > 0 if port.type is EdgeType.MASK else update for update in case.updates]
    if port.with_all:
        return [values[task], *values]
    return values if port.many else [values[task]]


def _beside(op: AnyOp, rows: torch.Tensor) -> Beside:
    """What an op's statistics have of a matrix, from the inputs [rows, in] of its layer."""
    return Beside("t", rows.T @ rows / len(rows)) if op.name == "regmean" else Beside("t", rows)

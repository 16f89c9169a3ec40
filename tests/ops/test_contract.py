"""The op contract is all that the layers above ask: ops with other names and ports give the same results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import model_weights
from peft_adapters import write_adapter
from safetensors.torch import load_file, save_file
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.core.events import Event, TableComputed
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops import registry
from lines_pipeline.ops.base import AnyOp, AnyStatistic, Ids, Op, Summary, Values
from lines_pipeline.ops.depth import Place
from lines_pipeline.ops.derivations import Derivation
from lines_pipeline.ops.drivers import Driver, Evaluated, MeasuredMetrics, Variant
from lines_pipeline.ops.explanations import OpExplanation, PlannedValue
from lines_pipeline.ops.kernels import Value
from lines_pipeline.ops.roles import FileOutput, Source, StepContext, SuiteUse
from lines_pipeline.ops.schemas.schema import Schema, SchemaContext

PREFIX = "of_"
ATTRIBUTES = (
    "formula",
    "former_fields",
    "gives",
    "granularity",
    "identified_by_content",
    "is_output",
    "is_source",
    "measures_metrics",
    "metrics_by",
    "needs_include",
    "Params",
    "source",
    "untuned",
    "version",
)


def inner(by_port: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the copy's ports, said of the ports of the op that it copies."""
    return {port.removeprefix(PREFIX): value for port, value in by_port.items()}


class Renamed(Op[Any, Any]):
    """A copy of an op that has another name, and other names for its ports, in another order."""

    def __init__(self, op: AnyOp) -> None:
        self.op = op
        declared = {attribute: getattr(op, attribute) for attribute in ATTRIBUTES}
        declared["name"] = f"my-{op.name}"
        declared["inputs"] = {PREFIX + port: op.inputs[port] for port in reversed(list(op.inputs))}
        declared["per_item"] = {name: PREFIX + port for name, port in op.per_item.items()}
        for attribute, value in declared.items():
            setattr(self, attribute, value)

    def gives_for(self, written: Mapping[str, object]) -> EdgeType | None:
        return self.op.gives_for(written)

    def check(self, params: Any, counts: Mapping[str, int]) -> str | None:
        return self.op.check(params, inner(counts))

    def diagnostics(self, params: Any, inputs: Ids, gives: EdgeType) -> Iterator[Diagnostic]:
        for diagnostic in self.op.diagnostics(params, inner(inputs), gives):
            field, *below = diagnostic.path
            written = f"{PREFIX}{field}" if field in self.op.inputs else field
            yield replace(diagnostic, path=(written, *below))

    def source_of(self, params: Any) -> Source | None:
        return self.op.source_of(params)

    def file_of(self, params: Any, inputs: Ids) -> FileOutput | None:
        return self.op.file_of(params, inner(inputs))

    def suite_of(self, params: Any, inputs: Ids) -> SuiteUse | None:
        return self.op.suite_of(params, inner(inputs))

    def derivation_of(self, params: Any) -> Derivation | None:
        derivation = self.op.derivation_of(params)
        if derivation is None:
            return None
        make, check = derivation.make, derivation.check
        return replace(derivation, make=lambda given: make(inner(given)), check=lambda given: check(inner(given)))

    def driver_of(self, params: Any) -> Driver | None:
        driver = self.op.driver_of(params)
        return None if driver is None else lambda inputs, context: self.renamed(driver(inner(inputs), context))

    def renamed(self, driven: Variant | Evaluated | MeasuredMetrics) -> Variant | Evaluated | MeasuredMetrics:
        if not isinstance(driven, Variant):
            return driven
        return replace(driven, op=self, inputs={PREFIX + port: ids for port, ids in driven.inputs.items()})

    def schema(self, params: Any, inputs: Mapping[str, Sequence[Schema]], context: SchemaContext) -> Schema:
        return self.op.schema(params, inner(inputs), context)

    def completed(self, params: Any, context: StepContext) -> Any:
        return self.op.completed(params, replace(context, labels=inner(context.labels)))

    def statistics(self, params: Any, inputs: Ids, step: str) -> Mapping[str, AnyStatistic]:
        return self.op.statistics(params, inner(inputs), step)

    def layer_pattern(self, params: Any) -> str | tuple[str, ...] | None:
        return self.op.layer_pattern(params)

    def check_depths(self, params: Any, depths: Any) -> Any:
        return self.op.check_depths(params, depths)

    def places_outside(self, params: Any) -> Any:
        return self.op.places_outside(params)

    def is_sum_of(self, params: Any) -> str | None:
        port = self.op.is_sum_of(params)
        return port and PREFIX + port

    def bind_model(self, params: Any, stats: Mapping[str, Any], places: Mapping[str, Place]) -> Mapping[str, Any]:
        return self.op.bind_model(params, stats, places)

    def bind_tensor(
        self, params: Any, stats: Mapping[str, Any], place: Place | None, counts: Mapping[str, int]
    ) -> Mapping[str, Any]:
        return self.op.bind_tensor(params, stats, place, inner(counts))

    def is_measured(self, params: Any) -> bool:
        return self.op.is_measured(params)

    def breaks_pipeline(self, params: Any) -> Any:
        return self.op.breaks_pipeline(params)

    def wants_whole(self, params: Any, tensor: TensorSpec) -> bool:
        return self.op.wants_whole(params, tensor)

    def working_bytes(self, params: Any, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return self.op.working_bytes(params, tensor, inner(counts))

    def times_taken(self, params: Any, tensor: TensorSpec, counts: Mapping[str, int]) -> int:
        return self.op.times_taken(params, tensor, inner(counts))

    def driver_bytes(self, params: Any, inputs: Mapping[str, Sequence[Schema]]) -> int:
        return self.op.driver_bytes(params, inner(inputs))

    def beside_bytes(self, params: Any, tensor: TensorSpec, beside: TensorSpec) -> int:
        return self.op.beside_bytes(params, tensor, beside)

    def apply(self, params: Any, inputs: Values, tensor: TensorSpec, stats: Mapping[str, Any]) -> Value:
        return self.op.apply(params, inner(inputs), tensor, stats)

    def apply_at(self, params: Any, inputs: Any, tensor: Any, stats: Any, position: Any) -> Any:
        return self.op.apply_at(params, inner(inputs), tensor, stats, position)

    def summary(
        self, params: Any, stats: Mapping[str, Any], numels: Mapping[str, int], counts: Mapping[str, int]
    ) -> Summary:
        return self.op.summary(params, stats, numels, inner(counts))

    def explain(self, params: Any, value: PlannedValue, stats: Mapping[str, Any] | None) -> OpExplanation | None:
        return self.op.explain(params, replace(value, counts=inner(value.counts)), stats)


MERGED = (
    *("scaled", "doubled", "agreed", "kept", "flat", "turned"),
    *("less", "free", "placed", "tabled", "uniform", "signed", "level", "rich"),
)
PICKED = (
    "larger",
    "several",
    "enlarged",
    "varied",
    "balanced",
    "tasks",
    "dropped",
    "given",
    "ranked",
    "banded",
    "third",
)
SPHERES = ("arc", "arcs", "tangents", "mean", "stock", "rows", "near", "fused")
TABLE = [0.25, 0.5, 0.75, 1.0]
SPECTRAL = ("shared", "beyond", "stepped", "solved", "calmed", "leading", "covaried", "projected", "covered")

NODES: Mapping[str, Mapping[str, Any]] = {
    "base": {"op": "load", "path": "folder"},
    "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b", "c"]}},
    "updates": {"op": "task-vector", "model": "experts", "base": "base"},
    "sum": {"op": "task-arithmetic", "deltas": "updates"},
    "scaled": {"op": "lines-scale", "delta": "ties", "deltas": "updates", "alpha": "auto", "beta": 0.5},
    "ties": {"op": "ties", "deltas": "updates", "density": 0.3, "exclude": ["visual.proj"]},
    "doubled": {"op": "lines-scale", "delta": "sum", "deltas": "updates", "alpha": "auto"},
    "masks": {"op": "tall-mask", "deltas": "updates", "merged": "sum", "threshold": [0.4, 0.3, 0.5]},
    "agreed": {"op": "consensus", "deltas": "updates", "merged": "sum", "threshold": 0.4},
    "own": {"op": "magnitude-mask", "delta": "sum", "density": 0.5},
    "trimmed": {"op": "trim", "delta": "sum", "density": 0.7},
    "kept": {"op": "mask", "delta": "trimmed", "mask": "own"},
    "flat": {"op": "iso-c", "deltas": "updates"},
    "turned": {"op": "tsv-m", "deltas": "updates"},
    "shared": {"op": "iso-cts", "deltas": "updates"},
    "beyond": {"op": "cart", "deltas": "updates"},
    "stepped": {"op": "wudi", "deltas": "updates", "iterations": 3},
    "solved": {"op": "wudi-closed", "deltas": "updates"},
    "calmed": {"op": "svc", "delta": "flat", "deltas": "updates"},
    "covaried": {"op": "ace", "deltas": "updates"},
    "projected": {"op": "doge-ta", "deltas": "updates", "iterations": 3},
    "covered": {"op": "dc-merge", "deltas": "updates", "density": 0.1},
    "leading": {"op": "tsv-c", "deltas": "updates"},
    "signed": {"op": "ties", "deltas": "updates", "sign_from": "sum", "density": [0.3, 0.5, 1], "exact": True},
    "level": {"op": "scale", "delta": "ties", "by": "auto", "like": "scaled"},
    "larger": {"op": "magmax", "deltas": "updates"},
    "several": {"op": "ram", "deltas": "updates", "epsilon": 0.001},
    "enlarged": {"op": "ramplus-tl", "deltas": "updates", "epsilon": 0.002},
    "varied": {"op": "sce", "deltas": "updates", "density": 0.5},
    "balanced": {"op": "pcb", "deltas": "updates"},
    "tasks": {"op": "emr", "deltas": "updates"},
    "dropped": {"op": "dare", "delta": "updates[a]", "density": 0.4, "rescale": "l1"},
    "given": {"op": "dare", "delta": "updates[b]", "density": 0.4, "uniforms": "uniforms.safetensors"},
    "ranked": {"op": "della", "delta": "updates[c]", "density": 0.5},
    "banded": {"op": "breadcrumbs", "delta": "updates[a]", "density": 0.6, "gamma": 0.05},
    "third": {"op": "partition", "delta": "updates[a]", "parts": 3, "part": 1},
    "placed": {"op": "lines-scale", "delta": "sum", "schedule": "cosine", "gamma": 0.3, "outside": "by-position"},
    "tabled": {"op": "lines-scale", "delta": "sum", "schedule": "table", "table": TABLE, "alpha": 0.5},
    "uniform": {"op": "lines-scale", "delta": "sum", "schedule": "uniform", "alpha": 0.25, "beta": 0.5},
    "rich": {"op": "larv", "delta": "sum", "base": "base", "form": "tiers"},
    "arc": {"op": "slerp", "models": ["experts[a]", "experts[b]"], "t": 0.3},
    "arcs": {"op": "nuslerp", "models": ["experts[a]", "experts[b]"], "base": "base"},
    "tangents": {"op": "multislerp", "models": "experts", "base": "base"},
    "mean": {"op": "karcher", "models": "experts"},
    "stock": {"op": "model-stock", "models": "experts", "base": "base"},
    "rows": {"op": "model-stock", "models": "experts", "base": "base", "filter_wise": True},
    "near": {"op": "nearswap", "models": ["experts[a]"], "base": "base", "t": 0.003},
    "fused": {"op": "arcee-fusion", "models": ["experts[a]"], "base": "base"},
    "round": {"op": "interpolate", "models": [*SPHERES], "weights": [1.0] * len(SPHERES), "normalize": True},
    "rounded": {"op": "save", "model": "round", "path": "round.safetensors"},
    "arced": {"op": "save", "model": "arcs", "path": "arcs/"},
    "adapted": {"op": "adapter", "path": "adapter", "base": "base"},
    "free": {"op": "adapter", "path": "adapter", "scale": 0.5},
    "less": {"op": "scale", "delta": "adapted", "by": 0.25},
    "all": {
        "op": "task-arithmetic",
        "deltas": [*MERGED, *SPECTRAL, *PICKED],
        "reduce": "mean",
    },
    "model": {"op": "apply", "base": "base", "delta": "all"},
    "headed": {"op": "graft", "model": "model", "donor": "experts[b]", "include": ["logit_scale"]},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    "folder": {"op": "save", "model": "headed", "path": "merged/"},
    "like": {"op": "save", "model": "experts[a]", "path": "again/", "like": "base"},
    "delta": {"op": "save", "model": "all", "path": "delta.safetensors"},
    "lora": {"op": "save", "model": "free", "path": "lora/", "format": "peft", "rank": 1},
    "mask": {"op": "save", "model": "own", "path": "mask.safetensors", "packed": True},
    "toys": {"op": "load", "path": "{m}.safetensors", "for_each": {"m": ["low", "high", "middle"]}},
    "soup": {"op": "soup", "models": "toys", "kind": "greedy", "suite": "suite.yaml"},
    "measured": {"op": "fisher-information", "model": "toys", "suite": "suite.yaml", "task": "rise"},
    "informed": {"op": "fisher", "models": "toys", "statistics": "measured", "floor_on": "all"},
    "weighed": {"op": "save", "model": "informed", "path": "weighed.safetensors"},
    "moved": {"op": "task-vector", "model": "toys[high]", "base": "toys[low]"},
    "learned": {"op": "adamerging", "base": "toys[low]", "deltas": "moved", "suite": "suite.yaml", "steps": 2},
    "labelled": {"op": "atlas", "base": "toys[low]", "deltas": "moved", "suite": "suite.yaml", "steps": 2},
    "combined": {"op": "task-arithmetic", "deltas": "moved", "coefficients": "learned"},
    "coefficients": {"op": "save", "model": "labelled", "path": "coefficients.safetensors"},
    "combination": {"op": "save", "model": "combined", "path": "combined.safetensors"},
    "varying": {"op": "gram", "model": "toys", "suite": "layers.yaml", "task": "rise"},
    "flowing": {"op": "layer-inputs", "model": "toys", "suite": "layers.yaml", "task": "rise", "rows": 2},
    "regressed": {"op": "regmean", "models": "toys", "statistics": "varying", "weights": [1.0, 2.0, 1.0]},
    "fitted": {"op": "save", "model": "regressed", "path": "fitted.safetensors"},
    "ordered": {"op": "regmean-plus-plus", "models": "toys", "suite": "layers.yaml", "tasks": ["rise"] * 3},
    "sorted": {"op": "save", "model": "ordered", "path": "sorted.safetensors"},
    "subspace": {"op": "esm", "models": ["toys[low]"], "base": "toys[high]", "statistics": ["flowing[low]"]},
    "deep": {"op": "load", "path": "deep_{m}.safetensors", "for_each": {"m": ["low", "high"]}},
    "drifted": {"op": "drift", "model": "deep[high]", "base": "deep[low]", "suite": "deep.yaml"},
    "drawn": {"op": "plot", "metrics": "drifted", "x": "block", "y": "cka"},
    "essential": {"op": "save", "model": "subspace", "path": "essential.safetensors"},
    "normed": {"op": "load", "path": "normed.safetensors"},
    "anew": {"op": "recalibrate", "model": "normed", "suite": "norms.yaml"},
    "calibrated": {"op": "save", "model": "anew", "path": "calibrated.safetensors"},
    "mixed": {"op": "interpolate", "models": ["toys[low]", "soup"], "t": 0.0},
    "val": {"op": "evaluate", "model": "mixed", "suite": "suite.yaml", "split": "val"},
    "between": {"op": "interpolate", "models": ["toys[low]", "toys[high]"], "t": "{t}", "for_each": {"t": [0, 0.5, 1]}},
    "along": {"op": "evaluate", "model": "between", "suite": "suite.yaml", "split": "val"},
    "barrier": {"op": "barrier", "metrics": "along", "metric": "mean_accuracy"},
    "curved": {"op": "wise-ft", "id": "along", "ood": "along", "x": "t", "metric": "mean_accuracy"},
    "aimed": {"op": "evaluate", "model": "toys", "suite": "suite.yaml", "split": "val", "target": "rise"},
    "verdict": {"op": "premise", "shallow": "aimed", "deep": "aimed", "uniform": "aimed"},
    "front": {"op": "pareto", "metrics": "along", "objectives": ["accuracy/rise", "accuracy/fall"], "parent": "val"},
    "curve": {"op": "plot", "metrics": ["along", "val"], "x": "t", "y": "mean_accuracy"},
    "together": {"op": "evaluate", "models": ["toys", "mixed"], "suite": "suite.yaml", "split": "val"},
    "eaten": {"op": "save", "model": "mixed", "path": "soup.safetensors"},
}
LINEAR = """
from torch import nn


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(1, 1, bias=False)])

    def forward(self, images):
        return self.blocks[0](images)


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])

    def forward(self, images):
        return self.blocks[1](self.blocks[0](images).abs())


class Norm(nn.BatchNorm2d):
    def __init__(self):
        super().__init__(1, affine=False)
"""
TUNE = {"parameters": {"mixed.t": {"values": [0.0, 0.5, 1.0]}}, "objective": "val.mean_accuracy"}


@pytest.fixture
def folder(toy: Path) -> Path:
    """Return a folder with the files that ``NODES`` name."""
    base = model_weights(0)
    (toy / "folder").mkdir()
    save_file(base, toy / "folder" / "model.safetensors")
    (toy / "folder" / "config.json").write_text('{"model_type": "toy"}')
    for seed, name in enumerate("abc", start=1):
        update = model_weights(seed, scale=0.004)
        moved = {key: value + update[key] if value.is_floating_point() else value for key, value in base.items()}
        save_file(moved, toy / f"{name}.safetensors")
    save_file({key: value.abs() % 1 for key, value in base.items()}, toy / "uniforms.safetensors")
    module = "visual.transformer.resblocks.0.mlp.c_fc"
    factors = {f"{module}.lora_A.weight": torch.full((1, 8), 0.5), f"{module}.lora_B.weight": torch.full((32, 1), 0.25)}
    write_adapter(toy / "adapter", factors)
    for name, total in {"low": -0.625, "middle": 0.3125, "high": 0.9375}.items():
        write_model(toy / f"{name}.safetensors", total)
        write_model(toy / f"deep_{name}.safetensors", total, total)
    tasks = {"rise": above(1 / 8, 2 / 8, 3 / 8), "fall": below(5 / 8, 6 / 8, 7 / 8)}
    recorded = {task: {"val": 0.5} for task in tasks}
    splits = {task: {"val": images} for task, images in tasks.items()}
    write_suite(toy, splits, expert_accuracy=recorded, pretrained_accuracy=recorded)
    write_layers(toy)
    return toy


def write_layers(folder: Path) -> None:
    """``layers.yaml``: the toy's models as linear layers."""
    (folder / "layers.py").write_text(LINEAR)
    task = {"head": "head.safetensors", "data": {"val": "rise_val.safetensors"}}
    suite = {"model": {"factory": "layers.py:Linear"}, "tasks": {"rise": task}}
    (folder / "layers.yaml").write_text(yaml.safe_dump(suite))
    (folder / "deep.yaml").write_text(yaml.safe_dump({**suite, "model": {"factory": "layers.py:Deep"}}))
    (folder / "norms.yaml").write_text(yaml.safe_dump({**suite, "model": {"factory": "layers.py:Norm"}}))
    state = {"running_mean": torch.zeros(1), "running_var": torch.ones(1), "num_batches_tracked": torch.tensor(2)}
    save_file(state, folder / "normed.safetensors")


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> dict[str, AnyOp]:
    """Register a renamed copy of every op, which recipes may name; return the copies."""
    by_name: dict[str, AnyOp] = {name: Renamed(op) for name, op in registry().items()}
    for copy in by_name.values():
        monkeypatch.setitem(registry().own, copy.name, copy)
    return by_name


def written(folder: Path, nodes: Mapping[str, Any], **top: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "tested", "nodes": dict(nodes), **top}, sort_keys=False))
    return path


def renamed(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The nodes with copies in place of the ops."""
    ports = {name: registry()[node["op"]].inputs for name, node in nodes.items()}
    return {
        name: {PREFIX + key if key in ports[name] else key: value for key, value in node.items()}
        | {"op": f"my-{node['op']}"}
        for name, node in nodes.items()
    }


def bits(value: torch.Tensor) -> tuple[Any, ...]:
    return value.dtype, value.shape, value.view(-1).view(torch.uint8).tolist()


def outcome(recipe: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """All that a plan says and a run gives, but for what names the recipe."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    events: list[Event] = []
    plan = lines_pipeline.plan(recipe, out="out").render()
    result = lines_pipeline.run(recipe, out=cache / "out", tracking=False, sinks=[events.append])
    tensors = {path.relative_to(result.out): load_file(path) for path in result.files if path.suffix == ".safetensors"}
    return {
        "plan": plan,
        "values": {
            str(path): {name: bits(value) for name, value in values_of_file.items()}
            for path, values_of_file in tensors.items()
        },
        "config": [path.read_bytes() for path in result.files if path.name == "config.json"],
        "figures": {path.name: path.read_bytes() for path in result.files if path.suffix in (".svg", ".csv")},
        "metrics": result.metrics,
        "facts": result.facts,
        "chosen": result.chosen,
        "tables": [event for event in events if isinstance(event, TableComputed)],
        "order": [type(event).__name__ for event in events],
    }


def test_renamed_copies_of_all_ops_give_the_same_bytes(
    folder: Path, copies: Mapping[str, AnyOp], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {node["op"] for node in NODES.values()} == set(copies), "every op has a node here"
    original = outcome(written(folder, NODES, tune=TUNE), folder / "one", monkeypatch)
    assert (
        len(original["values"]) == 16
        and len(original["figures"]) == 7
        and len(original["config"]) == 3
        and original["chosen"] == {"mixed.t": 1.0}
    )
    assert outcome(written(folder, renamed(NODES), tune=TUNE), folder / "two", monkeypatch) == original


@pytest.mark.parametrize(
    ("node", "fields", "words"),
    [
        ("delta", {"path": "delta/"}, "'path': a model folder holds weights, but 'all' gives delta"),
        ("saved", {"of_like": "base"}, "'of_like': 'like' is for model folders"),
        ("doubled", {"blocks": r"resblocks\.\d+"}, "expected a group for the block's index"),
        ("base", {"rename": [{"from": "(", "to": ""}]}, "'rename'"),
        ("base", {"exclude": ["x"]}, "'exclude' on 'load' is gone"),
        ("saved", {"path": "mask.safetensors"}, "both write 'mask.safetensors'"),
    ],
)
def test_mistakes_in_copies_are_told_as_those_in_the_originals(
    node: str, fields: dict[str, Any], words: str, folder: Path, copies: Mapping[str, AnyOp]
) -> None:
    nodes = renamed(NODES)
    with pytest.raises(RecipeError) as error:
        lines_pipeline.validate(written(folder, {**nodes, node: {**nodes[node], **fields}}))
    assert words in str(error.value) and f"node '{node}'" in str(error.value)

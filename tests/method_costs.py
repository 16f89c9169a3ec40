"""What each op costs, as the planner tells it: the lines ``**Cost.**`` of ``docs/methods.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from conftest import model_weights
from peft_adapters import write_adapter
from safetensors.torch import load_file, save_file
from toy_suite import above, write_model, write_suite

import lines_pipeline
from lines_pipeline import load_recipe
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops import registry
from lines_pipeline.ops.base import AnyOp, Granularity
from lines_pipeline.ops.schemas.schema import Schema
from lines_pipeline.planner.stages import ancestors
from lines_pipeline.recipe.building import build_graph

Node = Mapping[str, Any]
EXPERTS = [f"e{number}" for number in range(8)]
PAIR = ["experts[e0]", "experts[e1]"]
SUITE = {"suite": "suite.yaml"}
STATISTICS: Node = {"for_each": {"e": EXPERTS}, "op": "load", "type": "statistics"}

INPUTS: Mapping[str, Node] = {
    "base": {"op": "load", "path": "base.safetensors"},
    "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": EXPERTS}},
    "updates": {"op": "task-vector", "model": "experts", "base": "base"},
    "sum": {"op": "task-arithmetic", "deltas": "updates"},
    "masks": {"op": "tall-mask", "deltas": "updates", "merged": "sum"},
    "own": {**STATISTICS, "path": "{e}_own.safetensors"},
    "grams": {**STATISTICS, "path": "{e}_grams.safetensors"},
    "rows": {**STATISTICS, "path": "{e}_rows.safetensors"},
    "toys": {"op": "load", "path": "{m}.safetensors", "for_each": {"m": ["low", "high"]}},
    "moved": {"op": "task-vector", "model": "toys[high]", "base": "toys[low]"},
    "between": {"op": "interpolate", "models": "toys", "t": "{t}", "for_each": {"t": [0, 0.5, 1]}},
    "along": {"op": "evaluate", "model": "between", "split": "val", **SUITE},
}
OWN: Mapping[str, Node] = {
    "load": {"path": "e0.safetensors"},
    "adapter": {"path": "adapter", "base": "base"},
    "task-vector": {"model": "experts[e0]", "base": "base"},
    "graft": {"model": "base", "donor": "experts[e0]", "include": ["logit_scale"]},
    "apply": {"base": "base", "delta": "updates[e0]"},
    "trim": {"delta": "updates[e0]", "density": 0.2},
    "magnitude-mask": {"delta": "updates[e0]", "density": 0.2},
    "tall-mask": {"deltas": ["updates[e0]"], "merged": "sum"},
    "consensus": {"deltas": "updates", "merged": "sum"},
    "mask": {"delta": "sum", "mask": "masks[e0]"},
    "lines-scale": {"delta": "sum", "alpha": 0.3, "beta": 0.7},
    "scale": {"delta": "sum", "by": 0.3},
    "larv": {"delta": "sum", "base": "base"},
    "dare": {"delta": "updates[e0]", "density": 0.2},
    "della": {"delta": "updates[e0]", "density": 0.5},
    "breadcrumbs": {"delta": "updates[e0]", "density": 0.5},
    "partition": {"delta": "updates[e0]", "parts": 4, "part": 0},
    "svc": {"delta": "sum", "deltas": "updates"},
    "interpolate": {"models": PAIR, "t": 0.5},
    "soup": {"models": "experts"},
    "slerp": {"models": PAIR, "t": 0.5},
    "nuslerp": {"models": PAIR},
    "multislerp": {"models": "experts"},
    "karcher": {"models": "experts"},
    "model-stock": {"models": "experts", "base": "base"},
    "nearswap": {"models": ["experts[e0]"], "base": "base", "t": 0.001},
    "arcee-fusion": {"models": ["experts[e0]"], "base": "base"},
    "fisher": {"models": "experts", "statistics": "own"},
    "regmean": {"models": "experts", "statistics": "grams"},
    "esm": {"models": "experts", "base": "base", "statistics": "rows"},
    "fisher-information": {"model": "toys[low]", "task": "rise", **SUITE},
    "gram": {"model": "toys[low]", "task": "rise", **SUITE},
    "layer-inputs": {"model": "toys[low]", "task": "rise", **SUITE},
    "regmean-plus-plus": {"models": ["toys[low]"], "tasks": ["rise"], **SUITE},
    "recalibrate": {"model": "toys[low]", **SUITE},
    "adamerging": {"base": "toys[low]", "deltas": "moved", **SUITE},
    "atlas": {"base": "toys[low]", "deltas": "moved", **SUITE},
    "evaluate": {"model": "toys[low]", "split": "val", **SUITE},
    "drift": {"model": "toys[low]", "base": "toys[high]", **SUITE},
    "pareto": {"metrics": "along", "objectives": ["accuracy/rise", "mean_accuracy"]},
    "premise": {"shallow": "along", "deep": "along", "uniform": "along"},
    "barrier": {"metrics": "along", "metric": "mean_accuracy"},
    "wise-ft": {"id": "along", "ood": "along", "x": "t"},
    "plot": {"metrics": "along", "x": "t", "y": "mean_accuracy"},
    "save": {"model": "experts[e0]", "path": "saved.safetensors"},
}
"""Fields of a node of each op; of an op that is not here, all task vectors are its ``deltas``."""

LARGE = TensorSpec("mlp.c_fc.weight", "float32", (3072, 768))
"""A matrix of ViT-B/32, in which the memory of ops that take whole tensors is told."""


def write_inputs(folder: Path) -> None:
    """Write the files that ``INPUTS`` name."""
    for seed, name in enumerate(["base", *EXPERTS]):
        save_file(model_weights(seed), folder / f"{name}.safetensors")
    matrices = [name for name, value in model_weights(0).items() if value.dim() == 2]
    for name in EXPERTS:
        save_file(model_weights(0), folder / f"{name}_own.safetensors")
        widths = {matrix: model_weights(0)[matrix].shape[1] for matrix in matrices}
        grams = {matrix.removesuffix(".weight"): torch.eye(width) for matrix, width in widths.items()}
        save_file(grams, folder / f"{name}_grams.safetensors")
        rows = {matrix: torch.ones(32, width) for matrix, width in widths.items()}
        save_file(rows, folder / f"{name}_rows.safetensors")
    module = "visual.transformer.resblocks.0.mlp.c_fc"
    factors = {f"{module}.lora_A.weight": torch.ones(1, 8), f"{module}.lora_B.weight": torch.ones(32, 1)}
    write_adapter(folder / "adapter", factors)
    for name, total in {"low": -0.5, "high": 0.5}.items():
        write_model(folder / f"{name}.safetensors", total)
    write_suite(folder, {"rise": {"val": above(0.5)}})


def cost(name: str, folder: Path) -> str:
    """The cost of an op, in words."""
    op = registry()[name]
    node = {"op": name, **OWN.get(name, {"deltas": "updates"})}
    if op.gives is EdgeType.FIGURE or op.derivation_of(_params(op, node)) is not None:
        return "None of its own: it is made of metrics."
    held = _driver(op, node)
    if op.gives in (EdgeType.STATISTICS, EdgeType.COEFFICIENTS, EdgeType.METRICS) and held:
        return f"A driver holds {held}."
    path = folder / "recipe.yaml"
    inputs = {key: value for key, value in INPUTS.items() if key not in ("between", "along")}
    nodes = {**inputs, "own_node": node, **_used(op, node)}
    path.write_text(yaml.safe_dump({"name": "cost", "nodes": nodes}, sort_keys=False))
    plan = lines_pipeline.plan(path, out=folder / "out", workers=4)
    stages = len(plan.passes)
    read = plan.bytes_read / _input_bytes(path)
    message = f"{stages} stage{'s' * (stages > 1)}, inputs read {_times(read)}, {_memory(op, node)}."
    return f"A driver holds {held}; {message}" if held else message


def _used(op: AnyOp, node: Node) -> dict[str, Node]:
    """Nodes for which the op's value is computed: a model that is saved, where it gives a task vector."""
    gives = op.gives_for(node)
    if op.is_output:
        return {}
    node_used = "own_node[e0]" if any(port.each for port in op.inputs.values()) and len(EXPERTS) > 1 else "own_node"
    model = {"model": {"op": "apply", "base": "base", "delta": node_used}} if gives is EdgeType.DELTA else {}
    return {**model, "used": {"op": "save", "model": "model" if model else node_used, "path": "used.safetensors"}}


def _input_bytes(recipe: Path) -> int:
    """Bytes of the tensors of all inputs that are needed, each counted once."""
    graph = build_graph(load_recipe(recipe))
    outputs = [step.id for step in graph.steps.values() if step.op.is_output]
    sources = (graph.steps[step].op.source_of(graph.steps[step].params) for step in ancestors(graph, outputs))
    paths = {source.path for source in sources if source is not None}
    files = [recipe.parent / path for path in paths]
    files = [file / "adapter_model.safetensors" if file.is_dir() else file for file in files]
    return sum(value.nbytes for file in files for value in load_file(file).values())


def _times(ratio: float) -> str:
    rounded = f"{ratio:.1f}".removesuffix(".0")
    return {"1": "once", "2": "twice"}.get(rounded, f"{rounded} times")


def _params(op: AnyOp, node: Node) -> Any:
    """The parameters of a node, with one number for each input where they take many."""
    given = {key: value for key, value in node.items() if key not in {"op", *op.inputs, "include"}}
    return op.Params(**{key: (value,) if key in op.per_item else value for key, value in given.items()})


def _memory(op: AnyOp, node: Node) -> str:
    """What is held of a tensor."""
    counts = {port: len(EXPERTS) if what.many else 1 for port, what in op.inputs.items()}
    params = _params(op, node)
    if op.granularity is not Granularity.TENSOR or not op.breaks_pipeline(params):
        return "in blocks"
    beside = replace(LARGE, shape=(LARGE.shape[1] if op.name == "regmean" else 32, LARGE.shape[1]))
    own = op.working_bytes(params, LARGE, counts) + op.beside_bytes(params, LARGE, beside)
    return f"whole matrices in {own / LARGE.nbytes:.1f} times their size"


def _driver(op: AnyOp, node: Node) -> str:
    """The models that a driver holds."""
    shapes = {"in_proj": (2304, 768), "out_proj": (768, 768), "c_fc": (3072, 768), "c_proj": (768, 3072)}
    names = {f"blocks.{block}.{name}.weight": shape for block in range(12) for name, shape in shapes.items()}
    model = Schema({name: TensorSpec(name, "float32", shape) for name, shape in names.items()}, tuple(names))
    needed = {port: [model] for port, what in op.inputs.items() if what.type is EdgeType.WEIGHTS}
    taken = op.driver_bytes(_params(op, node), needed) if needed else 0
    return f"{taken / model.state_bytes:.1f} models in memory" if taken else ""

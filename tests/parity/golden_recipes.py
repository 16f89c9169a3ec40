"""Turns a golden case (``case.json``) into a recipe, runs it, and writes what the case expects.

``python tests/parity/golden_recipes.py CASE OUT`` is the program that ``check_golden.py --run`` wants.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lines_pipeline

METHODS = (
    "pcb",
    "mergekit_sce",
    "ties_original",
    "mergekit_ties",
    "mergekit_linear",
    "mergekit_breadcrumbs",
    "mergekit_breadcrumbs_ties",
    "mergekit_task_arithmetic",
    "lines_schedule",
    "dare",
    "della",
    "emr",
    "magmax",
    "mergekit_slerp",
    "mergekit_nuslerp",
    "mergekit_multislerp",
    "mergekit_karcher",
    "mergekit_model_stock",
    "mergekit_nearswap",
    "mergekit_arcee_fusion",
    "mergekit_ram",
    "task_arithmetic",
    "average",
    "single_task",
    "ties",
    "tall_mask",
    "tall_mask_apply",
    "consensus",
    "mag_masking",
    "mag_masking_apply",
    "task_negation",
    "task_addition",
    "task_interpolation",
    "task_analogy",
    "uniform_soup",
    "iso_c",
    "iso_cts",
    "tsv_m",
    "tsv_c",
    "cart",
    "wudi",
    "svc",
    "ace",
    "fisher",
    "fisher_estimate",
    "adamerging_task",
    "adamerging_layer",
    "atlas",
    "atlas_task",
    "regmean",
    "regmean_data",
    "esm",
)
"""Methods with a recipe."""

HALVES = {"F16", "BF16"}
"""Types that mergekit merges in float32 where they meet."""

_FROM_STATISTICS = {"fisher": "fishers", "regmean": "grams", "esm": "layer_inputs"}
"""The input of a case that holds statistics, by method."""

NETWORK = '''
import torch
from torch import nn


class Network(nn.Module):
    """Blocks W x + b with tanh between them."""

    def __init__(self, sizes):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(*pair) for pair in zip(sizes, sizes[1:]))

    def forward(self, values):
        for block in self.blocks[:-1]:
            values = torch.tanh(block(values))
        return self.blocks[-1](values)


def build(sizes):
    return Network(sizes)
'''
"""The model of cases with data of their own, as their notes describe it."""

Node = dict[str, Any]


def supported(case: dict[str, Any]) -> bool:
    """Whether the case's method is one that recipes offer."""
    return case["method"] in METHODS


def run_case(case_path: Path, out: Path, workspace: Path, **options: Any) -> dict[str, Any]:
    """Run the case's recipe in ``workspace`` and put its files at ``out``; returns the scalars it reports."""
    case = json.loads(case_path.read_text())
    workspace.mkdir(parents=True, exist_ok=True)
    if "data" in case["inputs"]:
        _write_suite(case, case_path.parent, workspace)
    nodes = nodes_of(case, case_path.parent)
    recipe = workspace / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "golden", "nodes": nodes}, sort_keys=False))
    uri = f"sqlite:///{workspace / 'mlflow.db'}"
    options = {"tracking_uri": uri, "trust": True, **options}
    result = lines_pipeline.run(recipe, out=workspace / "out", **options)
    if "expected" in case:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(result.files[0], out)
        target = out.parent
    else:
        out.mkdir(parents=True, exist_ok=True)
        names = case.get("expected_masks") or case["expected_thetas"]
        for index, name in enumerate(names):
            shutil.copy(workspace / "out" / f"{index}.safetensors", out / name)
        target = out
    scalars: dict[str, Any] = {}
    for node, facts in result.facts.items():
        for name, value in facts.items():
            joined = node.startswith(("trimmed", "mask", "tasks")) and isinstance(value, list)
            scalars[name] = scalars.get(name, []) + value if joined else value
    (target / "scalars.json").write_text(json.dumps(scalars))
    return scalars


def _write_suite(case: dict[str, Any], folder: Path, workspace: Path) -> None:
    """Write ``suite.yaml`` with one task an expert, named by its number, and all that it names, in ``workspace``."""
    inputs = case["inputs"]
    (workspace / "network.py").write_text(NETWORK)
    tasks = {}
    for number, (head, data) in enumerate(zip(inputs["heads"], inputs["data"], strict=True)):
        tensors = load_file(folder / data)
        save_file({"images": tensors["x"], "labels": tensors["y"]}, workspace / f"data_{number}.safetensors")
        tasks[str(number)] = {"head": str((folder / head).resolve()), "data": {"val": f"data_{number}.safetensors"}}
    layers = load_file(folder / inputs["base"])
    widths = [layers[f"blocks.{block}.weight"].shape for block in range(len(layers) // 2)]
    sizes = [widths[0][1], *(rows for rows, _ in widths)]
    suite = {
        "model": {"factory": "network.py:build", "arguments": {"sizes": sizes}},
        "normalize_features": False,
        "tasks": tasks,
    }
    (workspace / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))


def nodes_of(case: dict[str, Any], folder: Path) -> dict[str, Node]:
    """The nodes of the recipe that a case of this folder is run by."""
    paths = [str((folder / path).resolve()) for path in case["inputs"]["experts"]]
    items = [str(index) for index in range(len(paths))]
    nodes: dict[str, Node] = {f"expert{i}": {"op": "load", "path": path} for i, path in zip(items, paths, strict=True)}
    experts = list(nodes)
    if case["inputs"]["base"] is not None:
        nodes["base"] = {"op": "load", "path": str((folder / case["inputs"]["base"]).resolve())}
    if case["method"] in _OF_MODELS:
        return nodes | _OF_MODELS[case["method"]](case["params"], experts, "base" in nodes)
    if case["method"] == "fisher_estimate":
        for item, expert in zip(items, experts, strict=True):
            own = {"task": item, "rows": case["params"]["rows"]}
            nodes[f"measured{item}"] = {"op": "fisher-information", "model": expert, "suite": "suite.yaml", **own}
            nodes |= {f"save{item}": {"op": "save", "model": f"measured{item}", "path": f"{item}.safetensors"}}
        return nodes
    if case["method"] in _FROM_STATISTICS:
        for item, path in zip(items, case["inputs"][_FROM_STATISTICS[case["method"]]], strict=True):
            nodes[f"measured{item}"] = {"op": "load", "path": str((folder / path).resolve()), "type": "statistics"}
        return nodes | _from_statistics(case, experts, [f"measured{item}" for item in items])
    if case["method"] == "regmean_data":
        for item, expert in zip(items, experts, strict=True):
            own = {"task": item, "rows": case["params"]["rows"]}
            nodes[f"measured{item}"] = {"op": "gram", "model": expert, "suite": "suite.yaml", **own}
        return nodes | _from_statistics(case, experts, [f"measured{item}" for item in items])
    for item in items:
        nodes[f"delta{item}"] = {"op": "task-vector", "model": f"expert{item}", "base": "base"}
    deltas = [f"delta{item}" for item in items]
    params = case["params"]
    if {dtype for path in paths for dtype in _types(path)} >= HALVES:
        params = {**params, "promoted": "float32"}
    if "uniforms" in case["inputs"]:
        params = {**params, "uniforms": [str((folder / path).resolve()) for path in case["inputs"]["uniforms"]]}
    return nodes | _BUILDERS[case["method"]](params, deltas)


def _from_statistics(case: dict[str, Any], experts: list[str], statistics: list[str]) -> dict[str, Node]:
    """The op of a method that merges models by what was measured of each."""
    params = dict(case["params"])
    node: Node = {"op": case["method"].removesuffix("_data"), "models": experts, "statistics": statistics}
    if case["method"] == "esm":
        merged: Node = {"merged": node | {"base": "base", "power": params["power"]}}
        merged["merged"]["eigenvalue_power"] = params["eigenvalue_power"]
        return _finished(merged, "merged", [], params)
    if case["method"] == "fisher":
        return {"model": node | params} | _save()
    node["reduce_non_diagonal"] = 0.0 if params.get("diagonal_only") else params["reduce_non_diagonal"]
    return {"model": node | ({"weights": params["weights"]} if params.get("weights") else {})} | _save()


def _types(path: str) -> set[str]:
    """The types of the tensors in a file, as safetensors names them."""
    with safe_open(path, "numpy") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118


def _save(source: str = "model") -> dict[str, Node]:
    return {"saved": {"op": "save", "model": source, "path": "model.safetensors"}}


def _trimmed(deltas: list[str], k: float, nodes: dict[str, Node]) -> list[str]:
    density = k / 100 if k >= 1 else k
    if density == 1:
        return deltas
    for delta in deltas:
        nodes[f"trimmed_{delta}"] = {"op": "trim", "delta": delta, "density": density}
    return [f"trimmed_{delta}" for delta in deltas]


def _finished(nodes: dict[str, Node], merged: str, deltas: list[str], params: dict[str, Any]) -> dict[str, Node]:
    """LiNeS or a uniform coefficient on ``merged``, added to the base and saved."""
    lines = params.get("lines")
    if lines:
        nodes["scaled"] = {"op": "lines-scale", "delta": merged, "alpha": lines["alpha"], "beta": lines["beta"]}
        if lines["alpha"] == "auto":
            nodes["scaled"]["deltas"] = deltas
        nodes["model"] = {"op": "apply", "base": "base", "delta": "scaled"}
    else:
        nodes["model"] = {"op": "apply", "base": "base", "delta": merged, "scale": params.get("scaling_coef", 1.0)}
    return nodes | _save()


def _sum(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    vectors = _trimmed(deltas, params.get("k", 100), nodes)
    each = params.get("lines_each")
    if each:
        for vector in vectors:
            scaled = {"op": "lines-scale", "delta": vector, "alpha": each["alpha"], "beta": each["beta"]}
            nodes[f"scaled_{vector}"] = scaled
        vectors = [f"scaled_{vector}" for vector in vectors]
    nodes["merged"] = {"op": "task-arithmetic", "deltas": vectors}
    return _finished(nodes, "merged", vectors, params)


def _single(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    (delta,) = _trimmed([deltas[params["task_index"]]], params.get("k", 100), nodes)
    nodes["scaled"] = {"op": "lines-scale", "delta": delta, "gamma": params["gamma"]}
    nodes["model"] = {"op": "apply", "base": "base", "delta": "scaled"}
    return nodes | _save()


def _ties_node(deltas: list[str], k: float, aggregate: str) -> Node:
    return {"op": "ties", "deltas": deltas, "density": k / 100 if k >= 1 else k, "aggregate": aggregate}


def _ties(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    return _finished({"merged": _ties_node(deltas, params["k"], params["agg"])}, "merged", deltas, params)


def _ties_original(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    reset, sign, merge = params["merge_function"].split("_")
    nodes: dict[str, Node] = {}
    share = float(re.sub("[a-z]", "", reset) or 0)
    kinds = {"topk": ("density", share / 100 if share >= 1 else share), "nf": ("norm_fraction", share)}
    kinds |= {"std": ("deviations", share)}
    name, value = kinds.get(re.sub("[0-9.]", "", reset), ("", 0.0))
    vectors = deltas
    if name:
        nodes = {f"trimmed_{delta}": {"op": "trim", "delta": delta, name: value} for delta in deltas}
        vectors = list(nodes)
    if merge.startswith("dis-"):
        signs = {"mass": "mass", "normfrac": "norm-fraction", "normmass": "norm-mass"}
        own = {"density": 1.0, "aggregate": merge.removeprefix("dis-"), "sign": signs[sign]}
        nodes["merged"] = {"op": "ties", "deltas": vectors, **own}
    elif merge == "magnitude":
        nodes["merged"] = {"op": "magmax", "deltas": vectors}
    else:
        nodes["merged"] = {"op": "task-arithmetic", "deltas": vectors, "reduce": "mean"}
    return _finished(nodes, "merged", deltas, {"scaling_coef": params["lambda"]})


def _multi_task(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    if params.get("multi_task_vector") == "ties":
        return {"multi": _ties_node(deltas, params["ties_k"], params["ties_agg"])}
    return {"multi": {"op": "task-arithmetic", "deltas": deltas}}


def _tall_mask(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    vectors = _trimmed(deltas, params.get("k", 100), nodes) if params["multi_task_vector"] == "sum" else deltas
    nodes |= _multi_task(params, vectors)
    nodes["masks"] = {"op": "tall-mask", "deltas": deltas, "merged": "multi", "threshold": params["lambda"]}
    return nodes | {
        f"save{i}": {"op": "save", "model": f"masks[{delta}]", "path": f"{i}.safetensors"}
        for i, delta in enumerate(deltas)
    }


def _masked_models(nodes: dict[str, Node], deltas: list[str], merged: str) -> dict[str, Node]:
    for i, delta in enumerate(deltas):
        nodes[f"kept{i}"] = {"op": "mask", "delta": merged, "mask": f"masks[{delta}]"}
        nodes[f"model{i}"] = {"op": "apply", "base": "base", "delta": f"kept{i}"}
        nodes[f"save{i}"] = {"op": "save", "model": f"model{i}", "path": f"{i}.safetensors"}
    return nodes


def _tall_apply(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes = {name: node for name, node in _tall_mask(params, deltas).items() if not name.startswith("save")}
    return _masked_models(nodes, deltas, "multi")


def _consensus(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes = _multi_task(params, deltas)
    masks = {"op": "tall-mask", "deltas": deltas, "merged": "multi"}
    masks["threshold"] = dict(zip(deltas, params["tall_mask_lambda"], strict=True))
    nodes["masks"] = masks
    merged, vectors = "multi", deltas
    if params.get("multi_task_vector") == "sum" and params.get("k", 100) != 100:
        vectors = _trimmed(deltas, params["k"], nodes)
        nodes["trimmed_sum"] = {"op": "task-arithmetic", "deltas": vectors}
        merged = "trimmed_sum"
    nodes["kept"] = {"op": "consensus", "merged": merged, "masks": "masks", "min_tasks": params["threshold"]}
    return _finished(nodes, "kept", vectors, params)


def _magnitude_masks(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    density = params["k"] / 100 if params["k"] >= 1 else params["k"]
    return {f"mask{i}": {"op": "magnitude-mask", "delta": d, "density": density} for i, d in enumerate(deltas)}


def _magmask(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes = _magnitude_masks(params, deltas)
    for i in range(len(deltas)):
        nodes[f"save{i}"] = {"op": "save", "model": f"mask{i}", "path": f"{i}.safetensors"}
    return nodes


def _magmask_apply(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes = _magnitude_masks(params, deltas)
    nodes["multi"] = {"op": "task-arithmetic", "deltas": deltas}
    for i in range(len(deltas)):
        nodes[f"kept{i}"] = {"op": "mask", "delta": "multi", "mask": f"mask{i}"}
        nodes[f"model{i}"] = {"op": "apply", "base": "base", "delta": f"kept{i}"}
        nodes[f"save{i}"] = {"op": "save", "model": f"model{i}", "path": f"{i}.safetensors"}
    return nodes


def _weighted(weights: list[float]) -> Any:
    def build(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
        own = weights or [1.0] * len(deltas)
        nodes = {"merged": {"op": "task-arithmetic", "deltas": deltas, "weights": own}}
        return _finished(nodes, "merged", deltas, params)

    return build


def _mergekit_save(params: dict[str, Any]) -> dict[str, Node]:
    """``out_dtype``, else ``dtype``, else the type that all inputs have."""
    kind = params["config"].get("out_dtype") or params["config"].get("dtype") or params.get("promoted")
    saved = _save()
    return {"saved": {**saved["saved"], "dtype": kind}} if kind else saved


def _parameter(params: dict[str, Any], name: str, default: Any = None) -> Any:
    return params["config"].get("parameters", {}).get(name, default)


def _by_model(params: dict[str, Any], name: str, default: Any = None) -> list[Any]:
    """A parameter of every model of a mergekit configuration, in order."""
    return [(model.get("parameters") or {}).get(name, default) for model in params["config"]["models"]]


def _soup(params: dict[str, Any], experts: list[str], has_base: bool) -> dict[str, Node]:
    return {"model": {"op": "soup", "models": experts}} | _save()


def _linear(params: dict[str, Any], experts: list[str], has_base: bool) -> dict[str, Node]:
    node = {"op": "interpolate", "models": experts, "normalize": _parameter(params, "normalize", True)}
    weights = _by_model(params, "weight")
    filters = next((entry for entry in weights if isinstance(entry, list)), [{"value": None}])
    nodes: dict[str, Node] = {}
    whole = ""
    for part in reversed(filters):  # the last one is for all tensors, those before it for what they name
        own = [part["value"] if isinstance(weight, list) else weight for weight in weights]
        name = f"merged_{part.get('filter', 'all')}"
        nodes[name] = {**node, "weights": own}
        if whole:
            nodes[f"grafted_{name}"] = {
                "op": "graft",
                "model": whole,
                "donor": name,
                "include": [f"*{part['filter']}*"],
            }
            name = f"grafted_{name}"
        whole = name
    return nodes | _save(whole) | {"saved": {**_mergekit_save(params)["saved"], "model": whole}}


def _slerp(params: dict[str, Any], experts: list[str], has_base: bool) -> dict[str, Node]:
    node = {"op": "slerp", "models": ["base", *experts], "t": _parameter(params, "t")}
    return {"model": node} | _mergekit_save(params)


def _nuslerp(params: dict[str, Any], experts: list[str], has_base: bool) -> dict[str, Node]:
    node = {"op": "nuslerp", "models": experts, "weights": _by_model(params, "weight")}
    node |= {"base": "base"} if has_base else {}
    for name in ("flatten", "row_wise"):
        given = _parameter(params, f"nuslerp_{name}")
        node |= {} if given is None else {name: given}
    return {"model": node} | _mergekit_save(params)


def _multislerp(params: dict[str, Any], experts: list[str], has_base: bool) -> dict[str, Node]:
    node = {"op": "multislerp", "models": experts, "weights": _by_model(params, "weight")}
    node |= {"base": "base"} if has_base else {}
    return {"model": node} | _mergekit_save(params)


def _karcher(params: dict[str, Any], experts: list[str], has_base: bool) -> dict[str, Node]:
    return {"model": {"op": "karcher", "models": experts}} | _mergekit_save(params)


def _model_stock(params: dict[str, Any], experts: list[str], has_base: bool) -> dict[str, Node]:
    node = {"op": "model-stock", "base": "base", "models": experts}
    return {"model": {**node, "filter_wise": _parameter(params, "filter_wise", False)}} | _mergekit_save(params)


def _nearswap(params: dict[str, Any], experts: list[str], has_base: bool) -> dict[str, Node]:
    node = {"op": "nearswap", "base": "base", "models": experts, "t": _parameter(params, "t")}
    return {"model": node} | _mergekit_save(params)


def _arcee_fusion(params: dict[str, Any], experts: list[str], has_base: bool) -> dict[str, Node]:
    return {"model": {"op": "arcee-fusion", "base": "base", "models": experts}} | _mergekit_save(params)


_OF_MODELS: dict[str, Callable[[dict[str, Any], list[str], bool], dict[str, Node]]] = {
    "uniform_soup": _soup,
    "mergekit_linear": _linear,
    "mergekit_slerp": _slerp,
    "mergekit_nuslerp": _nuslerp,
    "mergekit_multislerp": _multislerp,
    "mergekit_karcher": _karcher,
    "mergekit_model_stock": _model_stock,
    "mergekit_nearswap": _nearswap,
    "mergekit_arcee_fusion": _arcee_fusion,
}
"""Methods that merge weights, not task vectors."""


def _mergekit(merged: dict[str, Node], params: dict[str, Any]) -> dict[str, Node]:
    """The update ``merged`` times lambda, added to the base and saved in the type that mergekit writes."""
    scale = _parameter(params, "lambda", 1.0)
    return (
        merged | {"model": {"op": "apply", "base": "base", "delta": "merged", "scale": scale}} | _mergekit_save(params)
    )


def _drawn(op: str) -> Callable[[dict[str, Any], list[str]], dict[str, Node]]:
    """``dare`` and ``della``: each task vector with the random numbers that the case gives, then their sum."""

    def build(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
        own = {"density": params["density"], "rescale": params["rescale"] or "none"}
        own |= {"epsilon": params["epsilon"]} if "epsilon" in params else {}
        nodes: dict[str, Node] = {
            f"dropped_{delta}": {"op": op, "delta": delta, "uniforms": path, **own}
            for delta, path in zip(deltas, params["uniforms"], strict=True)
        }
        merged: Node = {"op": "task-arithmetic", "deltas": list(nodes), "weights": params["weights"]}
        merged |= {"sign": params["sign"]} if params["sign"] else {}
        merged |= {"normalize": True} if params["normalize"] else {}
        nodes["merged"] = merged
        return _finished(nodes, "merged", deltas, {"scaling_coef": params["lambda"]})

    return build


def _emr(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes: dict[str, Node] = {"tasks": {"op": "emr", "deltas": deltas}}
    for i, delta in enumerate(deltas):
        nodes[f"model{i}"] = {"op": "apply", "base": "base", "delta": f"tasks[{delta}]"}
        nodes[f"save{i}"] = {"op": "save", "model": f"model{i}", "path": f"{i}.safetensors"}
    return nodes


def _lines_schedule(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    scaled: Node = {"op": "lines-scale", "delta": "merged", "schedule": params["schedule"], "alpha": params["alpha"]}
    scaled |= {"table": params["table"]} if "table" in params else {"beta": params["beta"]}
    nodes = {"merged": {"op": "task-arithmetic", "deltas": deltas, "reduce": params["merge"]}, "scaled": scaled}
    return _finished(nodes, "scaled", deltas, {})


def _mergekit_sum(sign: str) -> Callable[[dict[str, Any], list[str]], dict[str, Node]]:
    """mergekit's generalised task arithmetic, of task vectors of which its ``breadcrumbs`` may keep less."""

    def build(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        if "breadcrumbs" in params["config"]["merge_method"]:
            for i, (density, gamma) in enumerate(
                zip(_by_model(params, "density"), _by_model(params, "gamma"), strict=True)
            ):
                nodes[f"kept{i}"] = {"op": "breadcrumbs", "delta": deltas[i], "density": density, "gamma": gamma}
        merged = {"op": "task-arithmetic", "deltas": list(nodes) or deltas, "weights": _by_model(params, "weight")}
        merged |= {"sign": sign, "normalize": _parameter(params, "normalize", False)}
        return _mergekit({**nodes, "merged": merged}, params)

    return build


def _mergekit_ties(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    own = {"scope": "tensor", "exact": True, "zero_sign": "positive", "aggregate": "sum"}
    own |= {"density": _by_model(params, "density"), "weights": _by_model(params, "weight")}
    own["normalize"] = _parameter(params, "normalize", True)
    return _mergekit({"merged": {"op": "ties", "deltas": deltas, **own}}, params)


def _sce(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    density = _parameter(params, "select_topk", 1.0)
    return _mergekit({"merged": {"op": "sce", "deltas": deltas, "density": density}}, params)


def _pcb(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes: dict[str, Node] = {"merged": {"op": "pcb", "deltas": deltas, "density": params["density"]}}
    return _finished(nodes, "merged", deltas, {"scaling_coef": params["lambda"]})


def _ram(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    return _mergekit({"merged": {"op": "ram", "deltas": deltas, "epsilon": _parameter(params, "epsilon")}}, params)


def _by_op(op: str, **names: str) -> Callable[[dict[str, Any], list[str]], dict[str, Node]]:
    """The op with the case's parameters ``names``, each under the name that the op gives it."""

    def nodes(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
        own = {field: params[name] for name, field in names.items()}
        return _finished({"merged": {"op": op, "deltas": deltas, **own}}, "merged", deltas, params)

    return nodes


def _tsv_c(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    nodes: dict[str, Node] = {"compressed": {"op": "tsv-c", "deltas": deltas}}
    for i, delta in enumerate(deltas):
        scaled = {"delta": f"compressed[{delta}]", "scale": params["scaling_coef"]}
        nodes[f"model{i}"] = {"op": "apply", "base": "base", **scaled}
        nodes[f"save{i}"] = {"op": "save", "model": f"model{i}", "path": f"{i}.safetensors"}
    return nodes


def _cart(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    merged = {"op": "cart", "deltas": deltas, "matrices": ["*attn*", "*mlp*"], "rank_ratio": params["rank_ratio"]}
    return _finished({"merged": {**merged, "scale": params["scaling_coef"]}}, "merged", deltas, {})


def _wudi(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    named = params["tensors"]
    merged = {
        "op": "wudi",
        "deltas": deltas,
        "matrices": ["*"] if named == "all matrices" else [f"*{n}" for n in named],
    }
    merged |= {name: params[name] for name in ("iterations", "lr", "others")}
    return _finished({"merged": merged}, "merged", deltas, params)


def _svc(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
    return _finished(
        {
            "sum": {"op": "task-arithmetic", "deltas": deltas, "weights": params["scaling_coef"]},
            "merged": {"op": "svc", "delta": "sum", "deltas": deltas, "alpha": params["alpha"]},
        },
        "merged",
        deltas,
        {},
    )


def _learned(op: str, per: str) -> Callable[[dict[str, Any], list[str]], dict[str, Node]]:
    """Coefficients that are learned from the case's data in its order, and the sum of the task vectors by them."""

    def build(params: dict[str, Any], deltas: list[str]) -> dict[str, Node]:
        own = {name: value for name, value in params.items() if name not in ("optimizer", "betas")}
        learned = {"op": op, "base": "base", "deltas": deltas, "suite": "suite.yaml", "per": per, "shuffle": False}
        merged = {"op": "task-arithmetic", "deltas": deltas, "coefficients": "learned"}
        return _finished({"learned": {**learned, **own}, "merged": merged}, "merged", deltas, {})

    return build


_BUILDERS = {
    "adamerging_task": _learned("adamerging", "task"),
    "adamerging_layer": _learned("adamerging", "tensor"),
    "atlas": _learned("atlas", "tensor"),
    "atlas_task": _learned("atlas", "task"),
    "iso_c": _by_op("iso-c"),
    "iso_cts": _by_op("iso-cts", common_space_fraction="common_fraction"),
    "tsv_m": _by_op("tsv-m"),
    "tsv_c": _tsv_c,
    "cart": _cart,
    "wudi": _wudi,
    "svc": _svc,
    "ace": _by_op("ace", eps="eps", k_frac="k_fraction"),
    "mergekit_sce": _sce,
    "pcb": _pcb,
    "mergekit_ties": _mergekit_ties,
    "mergekit_breadcrumbs": _mergekit_sum("none"),
    "mergekit_breadcrumbs_ties": _mergekit_sum("sum"),
    "mergekit_task_arithmetic": _mergekit_sum("none"),
    "lines_schedule": _lines_schedule,
    "dare": _drawn("dare"),
    "della": _drawn("della"),
    "emr": _emr,
    "magmax": _by_op("magmax"),
    "mergekit_ram": _ram,
    "task_arithmetic": _sum,
    "average": _sum,
    "single_task": _single,
    "ties": _ties,
    "ties_original": _ties_original,
    "tall_mask": _tall_mask,
    "tall_mask_apply": _tall_apply,
    "consensus": _consensus,
    "mag_masking": _magmask,
    "mag_masking_apply": _magmask_apply,
    "task_negation": _weighted([-1.0]),
    "task_addition": _weighted([]),
    "task_interpolation": _weighted([]),
    "task_analogy": _weighted([1.0, -1.0, 1.0]),
}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")
        run_case(Path(sys.argv[1]), Path(sys.argv[2]), Path(scratch))

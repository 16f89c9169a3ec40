"""The laws of ``test_laws``, of whole models that a recipe merges: all ops in one run, over awkward tensors.

The models are drawn anew in every run; a failure tells the seed, and ``LINES_LAW_SEED`` draws the same ones again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hostile_updates import VARIANTS, Variant
from ops_opting_out import NO_PERMUTATION, NO_SCALING, NO_ZEROS
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops import registry

pytestmark = pytest.mark.slow

State = Mapping[str, torch.Tensor]
SEED = int(os.environ.get("LINES_LAW_SEED", secrets.randbelow(2**31)))
EXPERTS = ["a", "b", "c", "d", "e"]
SHAPES: Mapping[str, tuple[int, ...]] = {
    "blocks.0.weight": (8, 6),
    "blocks.0.thin": (3, 9),
    "blocks.1.weight": (8, 6),
    "blocks.1.row": (1, 7),
    "blocks.1.column": (7, 1),
    "blocks.2.kernel": (4, 3, 2, 2),
    "blocks.2.weight": (8, 6),
    "blocks.2.deficient": (6, 6),
    "blocks.2.still": (5, 5),
    "head.bias": (9,),
    "head.one": (1,),
    "logit_scale": (),
    "text_projection": (4, 5),
}
"""Of five experts, more than some of the matrices have directions; no expert changes what is ``still``."""
BATCHES = torch.arange(3)
"""An integer buffer."""


def drawn() -> tuple[State, dict[str, State]]:
    """A base and experts, one of which equals it."""
    generator = torch.Generator().manual_seed(SEED)
    base = {name: torch.randn(shape, generator=generator) + 3.0 for name, shape in SHAPES.items()}
    experts: dict[str, State] = {}
    for number, name in enumerate(EXPERTS):
        moved = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in SHAPES.items()}
        moved["blocks.2.deficient"] = moved["blocks.2.deficient"][:, :1] @ moved["blocks.2.deficient"][:1]
        still = {"blocks.2.still"} if number != 3 else set(SHAPES)
        experts[name] = {key: value + moved[key] * (key not in still) for key, value in base.items()}
    return base, experts


def write_models(folder: Path, base: State, experts: Mapping[str, State]) -> None:
    """Write models, and statistics of experts that depend on the seed alone."""
    folder.mkdir()
    save_file({**base, "batches": BATCHES}, folder / "base.safetensors")
    generator = torch.Generator().manual_seed(SEED)
    for name in EXPERTS:
        save_file({**experts[name], "batches": BATCHES}, folder / f"{name}.safetensors")
        fisher = {key: torch.rand(shape, generator=generator) + 0.1 for key, shape in SHAPES.items()}
        save_file(fisher, folder / f"{name}_fisher.safetensors")
        layers = [key for key in SHAPES if key.endswith("weight")]
        inputs = {key: torch.randn(4, SHAPES[key][1], generator=generator) for key in layers}
        grams = {key.removesuffix(".weight"): rows.T @ rows / 4 for key, rows in inputs.items()}
        save_file(inputs, folder / f"{name}_inputs.safetensors")
        save_file(grams, folder / f"{name}_grams.safetensors")


def nodes_of(order: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A node for every variant, and one that saves its value."""
    each = {"for_each": {"e": list(order)}}
    statistics = {"op": "load", "type": "statistics", **each}
    nodes: dict[str, dict[str, Any]] = {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{e}.safetensors", **each},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "sum": {"op": "task-arithmetic", "deltas": "updates"},
        "masks": {"op": "tall-mask", "deltas": "updates", "merged": "sum"},
        "fisher": {**statistics, "path": "{e}_fisher.safetensors"},
        "regmean": {**statistics, "path": "{e}_grams.safetensors"},
        "esm": {**statistics, "path": "{e}_inputs.safetensors"},
    }
    for number, variant in enumerate(VARIANTS):
        node = {"op": variant.op, **variant.params, **_inputs(variant)}
        several = any(port.each for port in registry()[variant.op].inputs.values())
        nodes[f"n{number}"] = node
        nodes[f"s{number}"] = {
            "op": "save",
            "model": f"n{number}[a]" if several else f"n{number}",
            "path": f"{number}.safetensors",
        }
    return nodes


def _inputs(variant: Variant) -> dict[str, Any]:
    """The ports of a node."""
    op = registry()[variant.op]
    one = {"delta": "updates[a]", "model": "experts[a]", "mask": "masks[a]", "statistics": op.name}
    many = {"deltas": "updates", "merged": "sum", "sign_from": "sum", "like": "sum", "masks": "masks", "base": "base"}
    known = {**one, **many, "models": "experts"}
    if op.name in ("interpolate", "slerp", "nuslerp"):
        known["models"] = ["experts[a]", "experts[b]"]  # type: ignore[assignment]
    if op.name in ("nearswap", "arcee-fusion"):
        known["models"] = ["experts[a]"]  # type: ignore[assignment]
    return {name: known[name] for name, port in op.inputs.items() if not port.optional or name in variant.ports}


def merged(folder: Path, base: State, experts: Mapping[str, State], order: Sequence[str] = EXPERTS) -> list[State]:
    """The values of all variants."""
    write_models(folder, base, experts)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "laws", "nodes": nodes_of(order)}, sort_keys=False))
    lines_pipeline.run(path, out=folder / "out", tracking=False, scheduler="serial")
    return [load_file(folder / "out" / f"{number}.safetensors") for number in range(len(VARIANTS))]


def scaled(state: State, factor: float) -> State:
    return {name: value * factor for name, value in state.items()}


def differing(found: State, expected: State) -> list[str]:
    """Tensors that are further apart than rounding and decompositions explain."""
    assert found.keys() == expected.keys()
    pairs = {name: (found[name].double(), value.double()) for name, value in expected.items()}
    bound = {name: 1e-6 + 1e-3 * float(two.abs().max()) for name, (_, two) in pairs.items()}
    return [name for name, (one, two) in pairs.items() if not bool(((one - two).abs() <= bound[name]).all())]


def broken(found: Sequence[State], expected: Sequence[State], reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Tensors that differ, by the variant that does not opt out."""
    judged = zip(VARIANTS, found, expected, strict=True)
    kept = ((v, differing(one, two)) for v, one, two in judged if v.op not in reasons and str(v) not in reasons)
    return {str(variant): names for variant, names in kept if names}


def test_laws_hold_for_merges_of_whole_models(tmp_path: Path) -> None:
    base, experts = drawn()
    plain = merged(tmp_path / "plain", base, experts)
    infinite = {
        str(v): name for v, one in zip(VARIANTS, plain, strict=True) for name in one if not one[name].isfinite().all()
    }
    assert infinite == {}, f"seed {SEED}"
    factor = 4.0
    larger = merged(
        tmp_path / "scaled", scaled(base, factor), {name: scaled(one, factor) for name, one in experts.items()}
    )
    shrunk = [{n: x / factor if x.is_floating_point() else x for n, x in one.items()} for one in larger]
    assert broken(shrunk, plain, NO_SCALING) == {}, f"scaling, seed {SEED}"
    turned = merged(tmp_path / "turned", base, experts, EXPERTS[::-1])
    assert broken(turned, plain, NO_PERMUTATION) == {}, f"permutation, seed {SEED}"


def test_no_updates_give_none_in_merges_of_whole_models(tmp_path: Path) -> None:
    base, _ = drawn()
    found = merged(tmp_path / "none", base, dict.fromkeys(EXPERTS, base))
    whole = {**base, "batches": BATCHES}
    none = [
        whole if registry()[v.op].gives is EdgeType.WEIGHTS else {name: torch.zeros_like(one[name]) for name in one}
        for v, one in zip(VARIANTS, found, strict=True)
    ]
    assert broken(found, none, NO_ZEROS) == {}, f"seed {SEED}"

"""A small network with frozen heads, experts of it, data, and a reference that learns coefficients with autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch.nn import functional

State = dict[str, torch.Tensor]
Node = dict[str, Any]

ROWS, WIDTH, CLASSES = 10, 4, 3
TASKS = ("a", "b")
NETWORK = f"""
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear({WIDTH}, {WIDTH}) for _ in range(3))
        self.norm = nn.BatchNorm1d({WIDTH})

    def forward(self, values):
        for block in self.blocks:
            values = block(values).tanh()
        return self.norm(values)
"""


def state(seed: int, base: State | None = None) -> State:
    """The pretrained network, or an expert of it."""
    generator = torch.Generator().manual_seed(seed)
    vectors = (*(f"blocks.{block}.bias" for block in range(3)), "norm.weight", "norm.bias")
    shapes: dict[str, tuple[int, ...]] = {f"blocks.{block}.weight": (WIDTH, WIDTH) for block in range(3)}
    shapes |= dict.fromkeys(vectors, (WIDTH,))
    buffers = {"norm.running_mean": torch.zeros(WIDTH), "norm.running_var": torch.ones(WIDTH)}
    by_name = {name: 0.7 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if base is not None:
        by_name = {name: base[name] + 0.5 * value for name, value in by_name.items()}
        buffers["norm.running_var"] = torch.full((WIDTH,), 1.0 + seed)
    return {**by_name, **buffers, "norm.num_batches_tracked": torch.tensor(3)}


def head(number: int) -> torch.Tensor:
    return torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(50 + number))


def data(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(90 + number)
    return torch.randn(ROWS, WIDTH, generator=generator), torch.randint(CLASSES, (ROWS,), generator=generator)


def write(folder: Path) -> None:
    """``suite.yaml`` with two tasks, ``base.safetensors`` and the experts ``0`` and ``1``."""
    (folder / "network.py").write_text(NETWORK)
    base = state(0)
    save_file(base, folder / "base.safetensors")
    for number in range(2):
        save_file(state(number + 1, base), folder / f"{number}.safetensors")
    tasks = {}
    for number, task in enumerate(TASKS):
        images, labels = data(number)
        save_file({"images": images, "labels": labels}, folder / f"{task}.safetensors")
        save_file({"weight": head(number)}, folder / f"head_{task}.safetensors")
        files = dict.fromkeys(("val", "test"), f"{task}.safetensors")
        tasks[task] = {"head": f"head_{task}.safetensors", "data": files}
    suite = {"model": {"factory": "network.py:Network"}, "normalize_features": False, "tasks": tasks}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))


def nodes(op: str, **params: Any) -> dict[str, Node]:
    """Nodes that learn coefficients, save them, and save and judge the model that they give."""
    return {
        "base": {"op": "load", "path": "base.safetensors"},
        "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["0", "1"]}},
        "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        "learned": {"op": op, "base": "base", "deltas": "updates", "suite": "suite.yaml", **params},
        "merged": {"op": "task-arithmetic", "deltas": "updates", "coefficients": "learned"},
        "model": {"op": "apply", "base": "base", "delta": "merged"},
        "table": {"op": "save", "model": "learned", "path": "table.safetensors"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
    }


def written(folder: Path, nodes: Mapping[str, Node], **top: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "learned", "nodes": dict(nodes), **top}, sort_keys=False))
    return path


def forward(weights: Mapping[str, torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    for block in range(3):
        values = (values @ weights[f"blocks.{block}.weight"].T + weights[f"blocks.{block}.bias"]).tanh()
    scale = weights["norm.weight"] / (weights["norm.running_var"].detach() + 1e-5).sqrt()
    return (values - weights["norm.running_mean"].detach()) * scale + weights["norm.bias"]


def entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
cross_entropy: Loss = functional.cross_entropy


def reference(
    units: Sequence[Sequence[str]],
    start: torch.Tensor,
    loss: Loss,
    optimiser: Callable[[list[torch.Tensor]], torch.optim.Optimizer],
    batches: Sequence[Sequence[Sequence[int]]],
    clamp: tuple[float, float] | None = None,
    clip_norm: float | None = None,
) -> torch.Tensor:
    """Coefficients [units, experts] in float64, with all models in memory: rows of ``batches`` by step."""
    base = state(0)
    taus = [{n: (v - base[n]).double() for n, v in state(number + 1, base).items()} for number in range(start.shape[1])]
    raw = start.double().requires_grad_()
    steps = optimiser([raw])
    for rows_of_step in batches:
        held = raw if clamp is None else raw.clamp(*clamp)
        row_of = {name: held[number] for number, unit in enumerate(units) for name in unit}
        updates = {n: sum(c * tau[n] for c, tau in zip(row, taus, strict=True)) for n, row in row_of.items()}
        merged = {name: base[name].double() + update for name, update in updates.items()}
        total = torch.zeros((), dtype=torch.float64)
        for number in range(len(TASKS)):
            images, labels = data(number)
            for rows in rows_of_step:
                logits = forward(merged, images[list(rows)].double()) @ head(number).double().T
                total = total + loss(logits, labels[list(rows)])
        (raw.grad,) = torch.autograd.grad(total, [raw])
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([raw], clip_norm)
        steps.step()
    return (raw if clamp is None else raw.clamp(*clamp)).detach()

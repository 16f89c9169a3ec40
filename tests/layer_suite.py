"""A suite whose models have the layers that data-driven ops observe: linear ones, and such as compute like them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline

State = dict[str, torch.Tensor]
Node = dict[str, Any]

FACTORY = '''
import torch
from torch import nn
from torch.nn import functional


class Conv1D(nn.Module):
    """Multiplies by a weight [in, out], as GPT-2 does."""

    def __init__(self, width, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(width, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, values):
        found = torch.addmm(self.bias, values.reshape(-1, values.shape[-1]), self.weight)
        return found.view(*values.shape[:-1], -1)


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.square, self.wide, self.tight = Conv1D(4, 4), Conv1D(4, 6), nn.Linear(6, 4)
        self.own, self.norm = nn.Parameter(torch.zeros(4, 4)), nn.LayerNorm(4)

    def forward(self, values):
        values = values + self.attention(values, values, values, need_weights=False)[0]
        values = self.tight(torch.tanh(self.wide(torch.tanh(self.square(values)))))
        return self.norm(functional.linear(values, self.own)).mean(1)


class Crossed(nn.Module):
    """Attends from one half of the tokens to the other, of which it sees three numbers."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True)

    def forward(self, values):
        return self.attention(values[:, :1], values[:, 1:, :3], values[:, 1:, :3])[0].mean(1)


class Texts(nn.Module):
    """Attends among the tokens of texts, where a token of zeros is padding; and makes something of a text's mean."""

    def __init__(self):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(5, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.wide, self.tight, self.head = Conv1D(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def token_mask(self, inputs):
        return inputs.abs().sum(-1).ne(0).long()

    def forward(self, values):
        mask = self.token_mask(values)
        values = values + self.positional_embedding[: values.shape[1]]
        values = values + self.attention(values, values, values, key_padding_mask=mask == 0, need_weights=False)[0]
        values = self.tight(torch.tanh(self.wide(values))) * mask.unsqueeze(-1)
        return self.head(values.sum(1) / mask.sum(1, keepdim=True))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = self.two = nn.Linear(2, 2, bias=False)

    def forward(self, values):
        return self.two(2 * self.one(values))


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2))

    def forward(self, values):
        return self.blocks[1](self.blocks[0](values))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, values):
        return values * self.scale


def line(width=2):
    return nn.Linear(width, width, bias=False)
'''


def write_layer_suite(folder: Path, factory: str, *inputs: torch.Tensor) -> None:
    """``suite.yaml`` with a task for each tensor of inputs, named by its number, and heads that nothing looks at."""
    (folder / "factory.py").write_text(FACTORY)
    save_file({"weight": torch.ones(2, 2)}, folder / "head.safetensors")
    tasks = {}
    for number, images in enumerate(inputs):
        labels = torch.zeros(len(images), dtype=torch.int64)
        save_file({"images": images.contiguous(), "labels": labels}, folder / f"data_{number}.safetensors")
        tasks[str(number)] = {"head": "head.safetensors", "data": {"val": f"data_{number}.safetensors"}}
    suite = {"model": {"factory": f"factory.py:{factory}"}, "tasks": tasks}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))


def write_recipe(folder: Path, nodes: dict[str, Node], **top: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "layers", **top, "nodes": nodes}, sort_keys=False))
    return path


def run_recipe(folder: Path, nodes: dict[str, Node], **top: Any) -> lines_pipeline.RunResult:
    """Run nodes of which one saves ``found.safetensors``."""
    return lines_pipeline.run(write_recipe(folder, nodes, **top), out=folder / "out", tracking=False, trust=True)


def saved(folder: Path, nodes: dict[str, Node], value: str, **top: Any) -> State:
    """The value of a node."""
    kept = {"found": {"op": "save", "model": value, "path": "found.safetensors"}}
    result = run_recipe(folder, {**nodes, **kept}, **top)
    tensors: State = load_file(result.files[0])
    return tensors


def given(folder: Path, models: list[State], statistics: list[State]) -> dict[str, Node]:
    """Nodes that load models and statistics of them, after their files are written."""
    for number, (model, measured) in enumerate(zip(models, statistics, strict=True)):
        save_file(model, folder / f"m{number}.safetensors")
        save_file(measured, folder / f"s{number}.safetensors")
    numbers = {"n": list(range(len(models)))}
    return {
        "models": {"op": "load", "path": "m{n}.safetensors", "for_each": numbers},
        "measured": {"op": "load", "path": "s{n}.safetensors", "for_each": numbers, "type": "statistics"},
    }

"""``recalibrate``: BatchNorm statistics of a small ResNet, measured on the inputs of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from layer_suite import Node, State, run_recipe, saved
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import update_bn

from lines_pipeline.core.errors import LinesError
from lines_pipeline.ops import recalibrate

FACTORY = """
from torch import nn


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.inner_norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        values = self.norm(self.first(images)).relu()
        values = values + self.dropout(self.inner_norm(self.inner(values))).relu()
        return values.mean((2, 3))


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm1d(2))

    def forward(self, values):
        return self.inner(values)

    def load_state_dict(self, state, strict=True, assign=False):
        return self.inner.load_state_dict(state, strict, assign)


def norm():
    return nn.BatchNorm1d(2)


def plain():
    return nn.Linear(2, 2, bias=False)
"""


def write_suite(folder: Path, factory: str, *inputs: torch.Tensor) -> None:
    (folder / "factory.py").write_text(FACTORY)
    save_file({"weight": torch.eye(4)}, folder / "head.safetensors")
    tasks = {}
    for number, images in enumerate(inputs):
        labels = torch.arange(len(images)) % 2
        save_file({"images": images, "labels": labels}, folder / f"data_{number}.safetensors")
        tasks[str(number)] = {"head": "head.safetensors", "data": {"val": f"data_{number}.safetensors"}}
    suite = {"model": {"factory": f"factory.py:{factory}"}, "tasks": tasks}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))


def nodes_of(folder: Path, model: State, **params: Any) -> dict[str, Node]:
    save_file(model, folder / "model.safetensors")
    return {
        "model": {"op": "load", "path": "model.safetensors"},
        "anew": {"op": "recalibrate", "model": "model", "suite": "suite.yaml", **params},
    }


def norm_state(prefix: str = "") -> State:
    names = {"weight": torch.ones(2), "bias": torch.zeros(2), "running_mean": torch.ones(2) * 7}
    names |= {"running_var": torch.ones(2) * 9, "num_batches_tracked": torch.tensor(5)}
    return {prefix + name: value for name, value in names.items()}


@pytest.mark.parametrize(("factory", "prefix"), [("norm", ""), ("Wrapped", "0.")])
@pytest.mark.parametrize("batch", [128, 2])
def test_a_layer_by_hand_whatever_the_batches(
    factory: str, prefix: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalibrate, "BATCH_ROWS", batch)
    write_suite(tmp_path, factory, torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 4.0], [6.0, 4.0], [90.0, 90.0]]))
    tensors = saved(tmp_path, nodes_of(tmp_path, norm_state(prefix), rows=4), "anew")
    assert tensors[prefix + "running_mean"].tolist() == [3.0, 2.0]
    torch.testing.assert_close(tensors[prefix + "running_var"], torch.tensor([14 / 3, 16 / 3]))
    assert tensors[prefix + "num_batches_tracked"].item() == 5 and tensors[prefix + "weight"].tolist() == [1.0, 1.0]


def resnet(folder: Path) -> tuple[nn.Module, State]:
    scope: dict[str, Any] = {}
    exec(FACTORY, scope)  # the model of the suite
    torch.manual_seed(0)
    module: nn.Module = scope["ResNet"]()
    return module, {name: value.clone() for name, value in module.state_dict().items()}


def test_a_small_resnet_agrees_with_torch_on_one_batch_of_all_tasks(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(9, 1, 5, 5, generator=generator) + shift for shift in (0.0, 2.0)]
    write_suite(tmp_path, "ResNet", *images)
    module, state = resnet(tmp_path)
    tensors = saved(tmp_path, nodes_of(tmp_path, state), "anew")
    module.dropout = nn.Identity()
    update_bn([torch.cat(images)], module)
    for name, value in module.state_dict().items():
        if "num_batches" in name:
            assert tensors[name].item() == 0
        else:
            torch.testing.assert_close(tensors[name], value, rtol=1e-5, atol=1e-6)
    alone = saved(tmp_path, nodes_of(tmp_path, state, tasks=["1"]), "anew")
    update_bn([images[1]], module)
    torch.testing.assert_close(alone["inner_norm.running_var"], module.state_dict()["inner_norm.running_var"])


def test_a_merged_model_is_recalibrated_and_evaluated(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    write_suite(tmp_path, "ResNet", torch.randn(8, 1, 5, 5, generator=generator))
    _, state = resnet(tmp_path)
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}
    nodes = nodes_of(tmp_path, half)
    nodes["merged"] = {"op": "interpolate", "models": ["model", "model"], "weights": [0.5, 0.5]}
    nodes["anew"]["model"] = "merged"
    nodes["judged"] = {"op": "evaluate", "model": "anew", "suite": "suite.yaml", "split": "val"}
    nodes["found"] = {"op": "save", "model": "anew", "path": "found.safetensors"}
    result = run_recipe(tmp_path, nodes)
    tensors = load_file(result.files[0])
    assert tensors["first.weight"].dtype is torch.bfloat16 and tensors["norm.num_batches_tracked"].dtype is torch.int64
    assert "judged" in result.metrics
    again = run_recipe(tmp_path, {**nodes, "more": {"op": "save", "model": "anew", "path": "more.safetensors"}})
    assert all(torch.equal(load_file(again.files[1])[name], value) for name, value in tensors.items())


@pytest.mark.parametrize(
    ("factory", "params", "words"),
    [
        ("plain", {}, "node 'anew'.*no BatchNorm layer"),
        ("norm", {"tasks": ["9"]}, "no task '9'"),
        ("norm", {"split": "test"}, "'split': expected 'train' or 'val'"),
        ("norm", {"rows": 0}, "'rows'"),
    ],
)
def test_mistakes(factory: str, params: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_suite(tmp_path, factory, torch.ones(3, 2))
    model = {"weight": torch.eye(2)} if factory == "plain" else norm_state()
    with pytest.raises(LinesError, match=words):
        saved(tmp_path, nodes_of(tmp_path, model, **params), "anew")

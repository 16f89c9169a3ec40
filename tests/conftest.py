"""Every test works in a folder of its own, with caches of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from toy_suite import ENCODER

from lines_pipeline.core.trust import trust

BLOCKS, WIDTH = 4, 8

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as shells start what runs in the background; children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


WITHOUT_COMPILERS = Path(__file__).parent / "without_compilers"
"""A folder that hides Numba and llvmlite from the processes that import from it first."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-compilers", action="store_true", help="run as where Numba and llvmlite are missing")
    parser.addoption(
        "--rewrite-plans", action="store_true", help="write tests/planner/*.plan.txt and costs in docs/methods.md anew"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-compilers"):
        sys.path.insert(0, str(WITHOUT_COMPILERS))
        searched = [str(WITHOUT_COMPILERS), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(searched)


@pytest.fixture(autouse=True)
def _isolated(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches, trusted folders and the working directory lie in ``tmp_path``; ``zoo`` tests share the user's experts."""
    if request.node.get_closest_marker("zoo") is None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def model_weights(seed: int, *, scale: float = 0.02) -> dict[str, torch.Tensor]:
    """A small model with open_clip's names: four blocks, a scalar, an integer buffer."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"visual.proj": (WIDTH, WIDTH), "logit_scale": ()}
    for block in range(BLOCKS):
        prefix = f"visual.transformer.resblocks.{block}"
        shapes |= {f"{prefix}.mlp.c_fc.weight": (4 * WIDTH, WIDTH), f"{prefix}.ln_1.bias": (WIDTH,)}
    state = {name: torch.randn(shape, generator=generator) * scale for name, shape in shapes.items()}
    return state | {"position_ids": torch.arange(5)}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with ``base`` and experts ``a``, ``b``, ``c`` as safetensors."""
    folder = tmp_path / "models"
    folder.mkdir()
    base = model_weights(0)
    save_file(base, folder / "base.safetensors")
    for seed, name in enumerate("abc", start=1):
        update = model_weights(seed, scale=0.004)
        moved = {key: value + update[key] if value.is_floating_point() else value for key, value in base.items()}
        save_file(moved, folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def write_recipe(models: Path) -> Callable[..., Path]:
    """Writes a recipe beside the models: base, experts and updates, and whatever nodes are given."""

    def write(nodes: Mapping[str, Any], **top: Any) -> Path:
        shared = {
            "base": {"op": "load", "path": "base.safetensors"},
            "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["a", "b", "c"]}},
            "updates": {"op": "task-vector", "model": "experts", "base": "base"},
        }
        path = models / "recipe.yaml"
        path.write_text(yaml.safe_dump({"name": "tested", "nodes": {**shared, **nodes}, **top}))
        return path

    return write


@pytest.fixture(scope="session")
def _store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def shared_store(_store: str, _isolated: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs of many tests are recorded in one database, because making one takes seconds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _store)
    return _store


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trusted folder for toy models and suites; their model factory can be imported."""
    folder = tmp_path / "toy"
    (folder / "python").mkdir(parents=True)
    (folder / "python" / "toy_encoder.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(str(folder / "python"))
    monkeypatch.delitem(sys.modules, "toy_encoder", raising=False)
    trust(folder)
    return folder


COMMANDS = [
    "run",
    "validate",
    "plan",
    "graph",
    "schema",
    "ops",
    "recipes",
    "trust",
    "inspect",
    "zoo",
    "cache",
    "sync",
    "compare",
]
"""Every command of the command line."""

TIES_LINES: Mapping[str, Any] = {
    "merged": {"op": "ties", "deltas": "updates", "density": 0.2},
    "scaled": {"op": "lines-scale", "delta": "merged", "alpha": "auto", "deltas": "updates", "beta": 0.5},
    "model": {"op": "apply", "base": "base", "delta": "scaled"},
    "saved": {"op": "save", "model": "model", "path": "model.safetensors"},
}


@pytest.fixture
def good() -> str:
    """A recipe that uses most of the language."""
    return (Path(__file__).parent / "recipe" / "good.yaml").read_text(encoding="utf-8")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe to a file."""

    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write

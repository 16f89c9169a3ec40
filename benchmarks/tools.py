"""The tools compared: what each is installed from, which methods it has, and how it is asked to merge."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoints import Checkpoints
from environments import Environment, pinned, this_project
from watching import Command

DENSITY = 0.2
COEFFICIENT = 0.3
BETA = 0.5
METHODS = ("ties", "ties-per-tensor", "task-arithmetic", "ties-lines", "task-arithmetic-lines")
"""TIES keeps 20 % of each model (or of each tensor) and takes the mean; all are added at 0.3. With LiNeS, alpha comes
from the norms, and beta is 0.5."""

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class Job:
    """A merge to carry out in a folder of its own; the result is to be ``folder/out/model.safetensors``."""

    method: str
    checkpoints: Checkpoints
    folder: Path
    options: tuple[str, ...] = ()
    """Further arguments, of this project's command alone."""

    @property
    def output(self) -> Path:
        """The merged model."""
        return self.folder / "out" / "model.safetensors"

    @property
    def cache(self) -> Path:
        """Where tools keep what they learn of their inputs."""
        return self.folder / "cache"


@dataclass(frozen=True)
class Tool:
    """A way to merge. ``arguments`` writes what the tool wants to read into the job's folder, and gives its command."""

    name: str
    title: str
    environment: Environment
    methods: Sequence[str]
    arguments: Callable[[Job, Path], Sequence[str]]

    def command(self, job: Job) -> Command:
        """How to start it; nothing it does may reach for a network."""
        job.output.parent.mkdir(parents=True, exist_ok=True)
        settings = {
            "XDG_CACHE_HOME": str(job.cache),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        arguments = [str(part) for part in self.arguments(job, self.environment.programs)]
        return Command(arguments, job.folder, job.folder / "log.txt", os.environ | settings)


def _lines_pipeline(job: Job, programs: Path) -> Sequence[str]:
    recipe = job.folder / "recipe.yaml"
    recipe.write_text(json.dumps(lines_pipeline_recipe(job)))
    command = [str(programs / "lines-pipeline"), "run", str(recipe), "--no-cache", "--out", str(job.output.parent)]
    return [*command, *job.options]


def lines_pipeline_recipe(job: Job) -> dict[str, object]:
    """The recipe of a job, as this project reads it (JSON is YAML)."""
    folder, experts = job.checkpoints.base.parent, [path.stem for path in job.checkpoints.experts]
    plain_sum = job.method.startswith("task-arithmetic")
    scope = "tensor" if job.method == "ties-per-tensor" else "global"
    merge = {"op": "task-arithmetic"} if plain_sum else {"op": "ties", "density": DENSITY, "scope": scope}
    nodes: dict[str, object] = {
        "pretrained": {"op": "load", "path": str(job.checkpoints.base)},
        "experts": {"op": "load", "path": f"{folder}/{{expert}}.safetensors", "for_each": {"expert": experts}},
        "updates": {"op": "task-vector", "base": "pretrained", "model": "experts"},
        "merged": merge | {"deltas": "updates"},
        "model": {"op": "apply", "base": "pretrained", "delta": "merged", "scale": COEFFICIENT},
        "saved": {"op": "save", "model": "model", "path": job.output.name},
    }
    if job.method.endswith("-lines"):
        nodes["scaled"] = {"op": "lines-scale", "delta": "merged", "alpha": "auto", "deltas": "updates", "beta": BETA}
        nodes["model"] = {"op": "apply", "base": "pretrained", "delta": "scaled"}
    return {"name": job.method, "nodes": nodes}


def _mergekit(job: Job, programs: Path) -> Sequence[str]:
    plain_sum = job.method == "task-arithmetic"
    trim = {} if plain_sum else {"density": DENSITY}
    config = {
        "merge_method": "task_arithmetic" if plain_sum else "ties",
        "base_model": str(job.checkpoints.base),
        "models": [{"model": str(path), "parameters": {"weight": 1.0} | trim} for path in job.checkpoints.experts],
        "parameters": {"lambda": COEFFICIENT},
    }
    path = job.folder / "config.yaml"
    path.write_text(json.dumps(config))
    return [str(programs / "mergekit-pytorch"), str(path), str(job.output.parent)]


def _script(name: str) -> Callable[[Job, Path], Sequence[str]]:
    def arguments(job: Job, programs: Path) -> Sequence[str]:
        settings = {
            "method": job.method,
            "base": str(job.checkpoints.base),
            "experts": [str(path) for path in job.checkpoints.experts],
            "density": DENSITY,
            "coefficient": COEFFICIENT,
            "beta": BETA,
            "output": str(job.output),
        }
        path = job.folder / "settings.json"
        path.write_text(json.dumps(settings))
        return [str(programs / "python"), str(SCRIPTS / name), str(path)]

    return arguments


GLOBAL = tuple(method for method in METHODS if method != "ties-per-tensor")
WITHOUT_LINES = tuple(method for method in METHODS if not method.endswith("-lines"))

TOOLS = (
    Tool("lines-pipeline", "this project", this_project(), METHODS, _lines_pipeline),
    Tool("mergekit", "mergekit-pytorch (mergekit 0.1.5)", pinned("mergekit"), WITHOUT_LINES, _mergekit),
    Tool(
        "fusion-bench",
        "FusionBench 0.2.33",
        pinned("fusion_bench"),
        ("ties", "task-arithmetic"),
        _script("fusion_bench_merge.py"),
    ),
    Tool("plain", "plain script: load, stack, merge", pinned("plain"), GLOBAL, _script("plain_merge.py")),
)
"""This project first: the others are compared with it."""

"""Describes a run's recipe for its record: name, parameters and tags. The environment is there by name only."""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticUndefined, to_jsonable_python

from lines_pipeline.core.plugins import PackageOrigin
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.scalars import scalar_text
from lines_pipeline.core.secrets import without_credentials
from lines_pipeline.core.versions import package_versions
from lines_pipeline.graph.graph import Graph
from lines_pipeline.ops.base import AnyOp
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.tracking.repository import commit_tags

MAX_RUN_NAME_LENGTH = 200
RECIPE_TAG = "recipe"
"""The tag that holds a recipe's name: runs of one recipe are named by what ``--set`` changed, too."""
_PACKAGES = ("lines-pipeline", "torch", "safetensors", "dask", "mlflow", "numpy")
_NOT_IN_NAMES = ("name", "description", "tracking")


def run_name(recipe: Recipe) -> str:
    """Return the recipe's name, and what ``--set`` changed: ``vit20-ties-lines scaled.beta=0.4``."""
    changed = [
        f"{path.removeprefix('nodes.')}={_value(value)}"
        for path, value in recipe.sets.items()
        if path.partition(".")[0] not in _NOT_IN_NAMES
    ]
    return shortened(without_credentials(" ".join([recorded_name(recipe), *changed])), MAX_RUN_NAME_LENGTH)


def recorded_name(recipe: Recipe) -> str:
    """Return the recipe's name, the environment in it by name."""
    return str(recipe.recorded.get("name", recipe.name))


def run_params(recipe: Recipe, graph: Graph) -> dict[str, str]:
    """Return op, inputs, items and parameters of every node, and the seed, without parameters at their default."""
    params = {"seed": str(recipe.seed)}
    for node, members in graph.members.items():
        op = graph.steps[members[0]].op
        fields = {**recipe.recorded["nodes"][node], "op": op.name}
        defaults = _defaults(op)
        for field, value in fields.items():
            if field not in defaults or not _same(value, defaults[field]):
                params[f"{node}.{field}"] = _value(value)
    return params


def _defaults(op: AnyOp) -> dict[str, Any]:
    """Return defaults as a recipe would write them; a tuple of one stands for a number that all inputs get."""
    defaults = {}
    for name, field in op.Params.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if default is not PydanticUndefined:
            spread = name in op.per_item and isinstance(default, tuple) and len(default) == 1
            defaults[field.alias or name] = to_jsonable_python(default[0] if spread else default)
    return defaults


def _same(value: Any, default: Any) -> bool:
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == default)


def _value(value: Any) -> str:
    """Return a value in one line: scalars as a recipe writes them, lists and maps as JSON."""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return scalar_text(value)


def run_tags(recipe: Recipe) -> dict[str, str]:
    """Return the tags: description, user, recipe, commit, package versions, and the recipe's own tags."""
    versions = {"python": platform.python_version(), **package_versions(_PACKAGES)}
    tags = {f"version.{name}": version for name, version in versions.items()} | commit_tags(recipe.files)
    tags |= {
        "recipe_hash": recipe.hash,
        RECIPE_TAG: recorded_name(recipe),
        "mlflow.source.name": recipe.secrets.hide(str(recipe.path.absolute())),
        "mlflow.source.type": "LOCAL",
    }
    description = str(recipe.recorded.get("description") or "")
    tags |= {"mlflow.note.content": description} if description else {}
    tags |= {"mlflow.user": user} if (user := _user()) else {}
    own = (recipe.recorded.get("tracking") or {}).get("tags") or {}
    return tags | {str(name): scalar_text(value) for name, value in own.items()}


def plugin_tags(recipe: Recipe, graph: Graph) -> dict[str, str]:
    """Return the digests of the recipe's own files, and the versions of the packages that its ops come from."""
    files = {f"plugin.{name}": digest for name, digest in recipe.plugins.digests.items()}
    packages = [origin.distribution for origin in graph.plugins if isinstance(origin, PackageOrigin)]
    return files | {
        f"version.{name}": version for name, _, version in (package.rpartition(" ") for package in packages)
    }


def transductive_tags(graph: Graph) -> dict[str, str]:
    """Return a tag with the nodes that learn from inputs of the test split; none where there are none."""
    nodes = graph.transductive(graph.sinks)
    return {"transductive": ", ".join(nodes)} if nodes else {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name, as in some containers
        return ""

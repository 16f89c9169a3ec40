"""A recipe that loads one model and saves it."""

from __future__ import annotations

from pathlib import Path

import yaml


def loading_recipe(folder: Path, uri: str) -> Path:
    """Write a recipe that loads the model at a URI or path, and saves it."""
    nodes = {
        "a": {"op": "load", "path": uri},
        "same": {"op": "soup", "models": ["a"]},
        "saved": {"op": "save", "model": "same", "path": "model.safetensors"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "loaded", "nodes": nodes}))
    return path

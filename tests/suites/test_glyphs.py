"""The embedded suite normalizes by experts that it builds itself: those of its tasks, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import lines_pipeline
from lines_pipeline.core.events import Event, ZooProgress
from lines_pipeline.zoo.catalogue import experts_folder


@pytest.mark.slow
@pytest.mark.usefixtures("shared_store")
def test_an_evaluation_builds_the_experts_of_its_tasks_alone(tmp_path: Path) -> None:
    recipe, seen = tmp_path / "recipe.yaml", list[Event]()
    nodes = {
        "model": {"op": "load", "path": "zoo://glyphs/pretrained"},
        "val": {"op": "evaluate", "model": "model", "suite": "zoo://glyphs", "tasks": ["digits"], "split": "val"},
    }
    recipe.write_text(yaml.safe_dump({"name": "judged", "nodes": nodes}))
    first = lines_pipeline.run(recipe, out="out", sinks=[seen.append]).metrics["val"]
    built = {event.expert for event in seen if isinstance(event, ZooProgress)}
    assert {uri.rpartition("/")[2] for uri in built} == {"digits"}
    assert [path.name for path in experts_folder(0).glob("*.safetensors")] == ["digits.safetensors"]
    assert 0 < first["normalized_accuracy/digits"] < 1

    remembered = experts_folder(0) / "accuracies.json"
    content = remembered.read_text()
    digit = next(index for index, letter in enumerate(content) if letter == "." and content[index - 1] == "0") + 1
    remembered.write_text(content[:digit] + ("1" if content[digit] != "1" else "2") + content[digit + 1 :])
    assert lines_pipeline.run(recipe, out="out").metrics["val"] == first

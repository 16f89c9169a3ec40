"""Recipes on the embedded zoo: planned without building anything, and shown to mend forgetting."""

from __future__ import annotations

from pathlib import Path

import pytest

import lines_pipeline
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import locate

RECIPES = Path(__file__).parents[2] / "recipes"


def test_validating_and_planning_build_nothing() -> None:
    validation = lines_pipeline.validate(RECIPES / "vit20_ties_lines.yaml")
    report = lines_pipeline.plan(RECIPES / "vit20_ties_lines.yaml")
    assert len(validation.notes) == 20
    assert len(report.passes) == 3 and report.trials == 15
    assert not locate("zoo://glyphs/quarter-cyrillic").path.parent.exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_a_gamma_sweep_keeps_more_of_the_other_tasks(tmp_path: Path) -> None:
    recipe = tmp_path / "sweep.yaml"
    text = (RECIPES / "single_task_gamma.yaml").read_text()
    text = text.replace('tasks: "${tasks}"', "tasks: [quarter-cyrillic, manner-latin, script]")
    recipe.write_text(text.replace("step: 0.1", "step: 0.5"))
    build(["zoo://glyphs/quarter-cyrillic", "zoo://glyphs/manner-latin", "zoo://glyphs/script"])
    result = lines_pipeline.run(recipe, out="out")
    found = result.metrics
    assert found["test"]["control_normalized_accuracy"] > found["before"]["control_normalized_accuracy"]
    assert result.chosen["scaled.gamma"] in (0.0, 0.5, 1.0)

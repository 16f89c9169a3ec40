"""Errors about globs, numbers by name and layer patterns, which need the headers: each with its place in the recipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lines_pipeline
from lines_pipeline.core.errors import PlanError

RECIPE = """\
name: places
nodes:
  base: {op: load, path: base.safetensors}
  experts: {op: load, path: "{e}.safetensors", for_each: {e: [a, b]}}
  updates:
    op: task-vector
    model: experts
    base: base
    exclude:
      - visual.proj
      - logit_scale
  merged: {op: task-arithmetic, deltas: updates}
  scaled:
    op: lines-scale
    delta: merged
    gamma: 0.5
    blocks: resblocks\\.(\\d+)\\.
  model: {op: apply, base: base, delta: scaled}
  saved: {op: save, model: model, path: model.safetensors}
"""

MISTAKES = {
    "a glob in a list": ("- logit_scale", "- logit_scales", "11:9: node 'updates': the glob 'logit_scales' matches no"),
    "a dropped glob": (
        "path: base.safetensors}",
        "path: base.safetensors, drop: [nowhere]}",
        "3:51: node 'base': the glob 'nowhere' matches no tensor",
    ),
    "a glob of matrices": (
        "op: task-arithmetic,",
        "op: iso-c, matrices: [visual.pro],",
        "12:34: node 'merged': the glob 'visual.pro' matches no tensor",
    ),
    "a number by name": (
        "delta: scaled}",
        "delta: scaled, scale: {by_name: {nowhere: 1, '*': 2}}}",
        "18:67: node 'model': 'scale': the glob 'nowhere' matches no tensor",
    ),
    "no number for a name": (
        "deltas: updates}",
        "deltas: updates, weights: [1, {by_name: {'*.bias': 1}}]}",
        "12:63: node 'merged': 'weights[1]' has no number for tensor",
    ),
    "more numbers than blocks": (
        "delta: scaled}",
        "delta: scaled, scale: {by_block: [1, 2, 3, 4, 5]}}",
        "18:56: node 'model': 'scale' has 5 numbers by block, 'visual' has 4 blocks",
    ),
    "a pattern that is found nowhere": (
        "blocks: resblocks",
        "blocks: layers",
        "17:13: node 'scaled': blocks: no tensor name matches pattern",
    ),
    "the second of two patterns": (
        "blocks: resblocks\\.(\\d+)\\.",
        "blocks:\n      - resblocks\\.(\\d+)\\.\n      - text\\.(\\d+)",
        "19:9: node 'scaled': blocks: no tensor name matches pattern",
    ),
    "a table for other blocks": (
        "gamma: 0.5",
        "schedule: table\n    table: [1, 2]\n    alpha: 1",
        "14:5: node 'scaled': 'table' has 2 numbers",
    ),
}


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES.values(), ids=MISTAKES)
def test_the_place_is_told(right: str, wrong: str, message: str, models: Path) -> None:
    assert right in RECIPE
    path = models / "recipe.yaml"
    path.write_text(RECIPE.replace(right, wrong, 1))
    for command in (lines_pipeline.validate, lines_pipeline.plan):
        with pytest.raises(PlanError, match=f"^{re.escape(f'{path}:{message}')}"):
            command(path)


def test_all_globs_are_told_in_the_order_of_the_file(models: Path) -> None:
    path = models / "recipe.yaml"
    path.write_text(
        RECIPE.replace("- visual.proj", "- nowhere").replace("base.safetensors}", "base.safetensors, drop: [x]}", 1)
    )
    with pytest.raises(PlanError, match=r"recipe\.yaml:3:51: .*\n.*recipe\.yaml:10:9: "):
        lines_pipeline.run(path, out="out", tracking=False)


def test_what_a_variable_or_set_holds_is_told_where_it_is_used(models: Path) -> None:
    path = models / "recipe.yaml"
    path.write_text(RECIPE)
    with pytest.raises(PlanError, match=r"^--set nodes\.updates\.exclude: node 'updates': the glob 'nowhere'"):
        lines_pipeline.validate(path, sets={"nodes.updates.exclude": ["nowhere"]})

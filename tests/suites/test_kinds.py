"""Kinds of suites that an installed package adds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from toy_suite import write_model

import lines_pipeline
from lines_pipeline.core.errors import EvalError
from lines_pipeline.suites.kinds import suite_kinds

pytestmark = pytest.mark.usefixtures("shared_store")

PACKAGE = '''
"""A kind that takes the sum of all weights for a figure."""

from pydantic import Field

from lines_pipeline.suites.base import Metric, Scores
from lines_pipeline.suites.models import state_of
from lines_pipeline.suites.suite_files import Section


class File(Section):
    tasks: list[str] = Field(min_length=1)
    factor: float = 1.0


class Sums:
    metrics = (Metric("total", "kg", "lower"),)

    def __init__(self, content):
        self.content, self.tasks = content, tuple(content.tasks)

    @classmethod
    def read(cls, document):
        return cls(document.read_as(File))

    def evaluate(self, model, tasks, split, *, device="cpu"):
        total = sum(float(value.sum()) for value in state_of(model).values())
        return Scores({task: {"total": self.content.factor * total} for task in tasks})

    def baselines(self, role, tasks, split):
        return {}

    def digest(self, split):
        return f"sums {self.content.factor}"

    def code(self):
        return ()

    def foreign_code(self):
        return None

    def check(self, tasks, split):
        return ()
'''


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose suite is of the kind ``sums``, which a package on the Python path adds."""
    site = tmp_path / "site"
    (site / "summing-1.0.dist-info").mkdir(parents=True)
    (site / "summing-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: summing\nVersion: 1.0\n")
    points = (
        "[lines_pipeline.suites]\nsums = summing_kind:Sums\npython = summing_kind:Sums\nbroken = summing_kind:Nil\n"
    )
    (site / "summing-1.0.dist-info" / "entry_points.txt").write_text(points)
    (site / "summing_kind.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(site))
    write_model(tmp_path / "a.safetensors", 0.5)
    (tmp_path / "suite.yaml").write_text("kind: sums\ntasks: [one, two]\nfactor: 3.0\n")
    nodes = {
        "model": {"op": "load", "path": "a.safetensors"},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "sums", "nodes": nodes}))
    return tmp_path / "recipe.yaml"


def test_a_package_adds_a_kind_and_replaces_none(recipe: Path) -> None:
    kinds = suite_kinds()
    assert list(kinds) == sorted(kinds) and {"classification", "python", "sums"} <= kinds.keys()
    assert kinds["python"].value.startswith("lines_pipeline.")
    result = lines_pipeline.run(recipe, out="out")
    assert result.metrics["val"] == {"total/one": 1.5, "total/two": 1.5, "mean_total": 1.5, "worst_total": 1.5}
    assert result.units["val"]["mean_total"] == "kg"
    assert lines_pipeline.run(recipe, out="out").cached == ("val",)


def test_its_mistakes_are_told_with_their_places(recipe: Path) -> None:
    (recipe.parent / "suite.yaml").write_text("kind: sums\ntasks: []\nfaktor: 1\n")
    with pytest.raises(EvalError, match=r"suite\.yaml:2:8: 'tasks': .*\n.*suite\.yaml:3:1: unknown key 'faktor'"):
        lines_pipeline.validate(recipe)


def test_a_package_that_is_broken_is_named(recipe: Path) -> None:
    (recipe.parent / "suite.yaml").write_text("kind: broken\ntasks: [one]\n")
    with pytest.raises(EvalError, match="suite kind 'broken': entry point 'broken = summing_kind:Nil' of summing"):
        lines_pipeline.validate(recipe)

"""Runs that judged the same samples are compared sample by sample."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from toy_suite import above, write_images, write_model, write_suite

import lines_pipeline
from lines_pipeline.tracking.comparison import Comparison, compare


def run(toy: Path, store: str, total: float, name: str) -> str:
    """The id of a run that judges a model with a sum."""
    write_model(toy / "a.safetensors", total)
    nodes = {
        "model": {"op": "load", "path": "a.safetensors"},
        "val": {"op": "evaluate", "model": "model", "suite": "suite.yaml", "split": "val"},
    }
    (toy / "recipe.yaml").write_text(yaml.safe_dump({"name": name, "nodes": nodes}))
    return lines_pipeline.run(toy / "recipe.yaml", out="out", tracking_uri=store).run_id


def paired(comparison: Comparison) -> dict[str, tuple[object, ...]]:
    return {row.name: row.values for row in comparison.rows if row.kind == "paired"}


def figures(text: object) -> list[float]:
    """Difference, and both ends of its interval."""
    return [float(part) for part in re.findall(r"[-+][.\d]+", str(text))]


def test_the_difference_is_that_of_pairs(toy: Path, shared_store: str) -> None:
    images = [step / 100 for step in range(100)]
    write_suite(toy, {task: {"val": above(*images)} for task in ("rise", "again")})
    runs = [run(toy, shared_store, total, name) for total, name in ((0.505, "low"), (0.605, "high"), (0.505, "same"))]
    rows = paired(compare(runs, shared_store))
    first, better, same = rows["val/accuracy/rise - first"]
    assert first is None and same == "+0.0000 (+0.0000 to +0.0000)"
    difference, low, high = figures(better)
    assert difference == 0.1 and 0.03 < low < 0.06 and 0.14 < high < 0.18
    mean, mean_low, mean_high = figures(rows["val/mean_accuracy - first"][1])
    assert mean == 0.1 and low < mean_low < mean_high < high
    assert next(iter(rows)) == "val/mean_accuracy - first"


def test_other_samples_are_no_pairs(toy: Path, shared_store: str) -> None:
    write_suite(toy, {"rise": {"val": above(0.25, 0.75)}})
    first = run(toy, shared_store, 0.5, "first")
    write_images(toy / "rise_val.safetensors", above(0.25, 1.75))
    assert paired(compare([first, run(toy, shared_store, 0.5, "other")], shared_store)) == {}


def test_a_record_holds_every_sample(toy: Path, shared_store: str, tmp_path: Path) -> None:
    write_suite(toy, {"rise": {"val": above(0.25, 0.75)}})
    client = MlflowClient(shared_store)
    for _ in range(2):  # also where the scores come from the cache
        path = client.download_artifacts(run(toy, shared_store, 0.5, "held"), "samples/val.json", str(tmp_path))
        content = json.loads(Path(path).read_text())
        assert content["step"] == "val" and set(content["samples"]["rise"]["values"]) == {"accuracy", "loss"}


@pytest.mark.parametrize("nothing", [[], [{}, {}]])
def test_runs_of_earlier_versions_have_no_pairs(nothing: list[dict[str, object]]) -> None:
    from lines_pipeline.tracking.pairs import paired_rows

    assert paired_rows(nothing) == []  # type: ignore[arg-type]

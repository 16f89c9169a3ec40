"""Figures in a run's record: the picture and its data are artifacts, what is made of metrics is a metric."""

from __future__ import annotations

from pathlib import Path

import yaml
from mlflow import MlflowClient
from toy_suite import above, below, write_model, write_suite

import lines_pipeline


def test_a_record_keeps_figures_and_what_is_made_of_metrics(toy: Path, shared_store: str) -> None:
    write_model(toy / "low.safetensors", 0.25)
    write_model(toy / "high.safetensors", 0.75)
    write_suite(toy, {"rise": {"val": above(0.125, 0.5)}, "fall": {"val": below(0.5, 0.875)}})
    nodes = {
        "ends": {"op": "load", "path": "{m}.safetensors", "for_each": {"m": ["low", "high"]}},
        "line": {"op": "interpolate", "models": "ends", "t": "{t}", "for_each": {"t": [0, 0.5, 1]}},
        "val": {"op": "evaluate", "model": "line", "suite": "suite.yaml", "split": "val"},
        "barrier": {"op": "barrier", "metrics": "val", "metric": "mean_accuracy"},
        "curve": {"op": "plot", "metrics": "val", "x": "t", "y": "mean_accuracy", "path": "figures/line.png"},
    }
    path = toy / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "nodes": nodes}))
    result = lines_pipeline.run(path, out="out")
    client = MlflowClient(shared_store)
    metrics = client.get_run(result.run_id).data.metrics
    assert metrics["barrier/barrier"] == result.metrics["barrier"]["barrier"]
    listed = client.list_artifacts(result.run_id, "figures/figures")
    assert [artifact.path for artifact in listed] == ["figures/figures/line.csv", "figures/figures/line.svg"]
    data_file = Path(client.download_artifacts(result.run_id, "figures/figures/line.csv"))
    assert data_file.read_text() == Path("out/figures/line.csv").read_text()

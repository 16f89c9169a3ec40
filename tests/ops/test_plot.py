"""Figures of a recipe: which rows and columns their data has, where they go, and what is told before anything runs."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_suite import above, below, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import EvalError, PlanError, RecipeError
from lines_pipeline.core.events import Event, FigureDrawn, FileWritten, MetricsComputed

IMAGES = tuple(number / 8 for number in range(1, 8))
JUDGE = {"op": "evaluate", "suite": "suite.yaml", "split": "val"}
CURVE = {"op": "plot", "metrics": "val", "x": "gamma", "y": ["target_accuracy", "control_accuracy"]}

Write = Callable[..., Path]


@pytest.fixture
def write(toy: Path) -> Write:
    """Writes a recipe of two experts, whose updates are scaled by two factors, with nodes beside them."""
    for name, total in {"base": 0.5, "rise": 1.0, "fall": 0.0}.items():
        write_model(toy / f"{name}.safetensors", total)
    write_suite(toy, {"rise": {"val": above(*IMAGES)}, "fall": {"val": below(*IMAGES)}})

    def written(nodes: Mapping[str, Any], **top: Any) -> Path:
        every = {
            "base": {"op": "load", "path": "base.safetensors"},
            "experts": {"op": "load", "path": "{e}.safetensors", "for_each": {"e": ["rise", "fall"]}},
            "updates": {"op": "task-vector", "model": "experts", "base": "base"},
            "scaled": {"op": "scale", "delta": "updates", "by": "{gamma}", "for_each": {"gamma": ["0.50", 1]}},
            "model": {"op": "apply", "base": "base", "delta": "scaled"},
            "val": {**JUDGE, "model": "model", "target": "{e}"},
            "before": {**JUDGE, "model": "base"},
        }
        path = toy / "recipe.yaml"
        text = yaml.safe_dump({"name": "toy", "nodes": {**every, **nodes}, **top}, sort_keys=False)
        path.write_text(text.replace("'0.50'", "0.50"))
        return path

    return written


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(path: Path, out: str = "out", **options: Any) -> Any:
    return lines_pipeline.run(path, out=out, tracking=False, **options)


def test_the_data_has_a_row_a_member_and_a_column_a_name_and_metric(write: Write) -> None:
    result = run(write({"curve": CURVE}))
    read_rows = rows(Path("out/curve.csv"))
    assert [file.name for file in result.files] == ["curve.svg", "curve.csv"]
    assert list(read_rows[0])[:3] == ["node", "e", "gamma"]
    assert [tuple(row[name] for name in ("node", "e", "gamma")) for row in read_rows] == [
        ("val", "rise", "0.50"),
        ("val", "rise", "1"),
        ("val", "fall", "0.50"),
        ("val", "fall", "1"),
    ]
    for row, metrics in zip(read_rows, (result.metrics[f"val[{key}]"] for key in KEYS), strict=True):
        assert {name: float(row[name]) for name in metrics} == metrics
        assert set(row) == {"node", "e", "gamma", *metrics}


KEYS = ("rise/0.50", "rise/1", "fall/0.50", "fall/1")


def test_by_task_there_is_a_row_a_member_and_task(write: Write) -> None:
    plot = {"op": "plot", "kind": "bar", "metrics": ["val", "before"], "x": "task", "y": "accuracy", "group": "e"}
    result = run(write({"bars": plot}))
    read_rows = rows(Path("out/bars.csv"))
    assert [(row["node"], row["e"], row["task"]) for row in read_rows][-3:] == [
        ("val", "fall", "fall"),
        ("before", "", "rise"),
        ("before", "", "fall"),
    ]
    assert float(read_rows[1]["accuracy"]) == result.metrics["val[rise/0.50]"]["accuracy/fall"]
    assert float(read_rows[1]["mean_accuracy"]) == result.metrics["val[rise/0.50]"]["mean_accuracy"]


def test_equal_runs_give_equal_bytes_and_leave_files_that_are_right(write: Write) -> None:
    path = write({"curve": CURVE, "png": {**CURVE, "path": "figures/curve.png"}})
    run(path)
    first = {file: file.read_bytes() for file in sorted(Path("out").rglob("*.*"))}
    assert [str(file) for file in first] == [
        "out/curve.csv",
        "out/curve.svg",
        "out/figures/curve.csv",
        "out/figures/curve.png",
    ]
    assert first[Path("out/figures/curve.png")].startswith(b"\x89PNG")
    assert b"target_accuracy" in first[Path("out/curve.svg")]
    times = {file: file.stat().st_mtime_ns for file in first}
    events: list[Event] = []
    run(path, sinks=[events.append])
    run(path, out="again", cache=False)
    assert {file: file.stat().st_mtime_ns for file in first} == times
    assert all(event.reused for event in events if isinstance(event, FileWritten))
    assert {file: Path("again", *file.parts[1:]).read_bytes() for file in first} == first


def test_a_figure_is_told_with_picture_and_data(write: Write) -> None:
    events: list[Event] = []
    run(write({"png": {**CURVE, "path": "curve.png"}}), sinks=[events.append])
    (drawn,) = [event for event in events if isinstance(event, FigureDrawn)]
    assert list(drawn.texts) == ["curve.svg", "curve.csv"]
    assert drawn.texts["curve.csv"] == Path("out/curve.csv").read_text() and "</svg>" in drawn.texts["curve.svg"]


def test_figures_may_be_of_metrics_that_are_made_of_metrics(write: Write) -> None:
    nodes = {
        "line": {
            "op": "interpolate",
            "models": ["experts[rise]", "experts[fall]"],
            "t": "{t}",
            "for_each": {"t": {"low": 0, "high": 1, "step": 0.25}},
        },
        "along": {**JUDGE, "model": "line"},
        "barrier": {"op": "barrier", "metrics": "along", "metric": "mean_loss"},
        "front": {"op": "pareto", "metrics": "along", "objectives": ["accuracy/rise", "accuracy/fall"]},
        "bars": {"op": "plot", "kind": "bar", "metrics": "barrier", "x": "node", "y": "barrier"},
    }
    events: list[Event] = []
    result = run(write(nodes), sinks=[events.append])
    assert rows(Path("out/bars.csv")) == [
        {"node": "barrier", **{name: str(value) for name, value in result.metrics["barrier"].items()}}
    ]
    assert result.units["barrier"] == {"barrier": "nats"}
    along = [result.metrics[f"along[{t}]"] for t in ("0.00", "0.25", "0.50", "0.75", "1.00")]
    volumes = [(0.0, 0.0), *sorted((metrics["accuracy/rise"], metrics["accuracy/fall"]) for metrics in along)]
    area = sum((b[0] - a[0]) * b[1] for a, b in pairwise(volumes))
    assert result.metrics["front"]["hypervolume"] == pytest.approx(area)
    by_name = {event.step: event.metrics for event in events if isinstance(event, MetricsComputed)}
    assert by_name["front"] == result.metrics["front"] and by_name["barrier"] == result.metrics["barrier"]


def test_a_member_may_have_a_figure_of_its_own(write: Write) -> None:
    plot = {**CURVE, "metrics": ["val[{e}/0.50]", "val[{e}/1]"], "for_each": {"e": ["rise", "fall"]}}
    run(write({"curves": plot}))
    assert [row["e"] for row in rows(Path("out/curves/rise.csv"))] == ["rise", "rise"]
    assert Path("out/curves/fall.svg").is_file()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": "gama"}, r"recipe\.yaml:\d+:\d+: node 'curve': 'x': no column 'gama' \(did you mean 'gamma'\?\)"),
        ({"y": ["mean_accuracy", "mean_acuracy"]}, r"'y': no column 'mean_acuracy' \(did you mean 'mean_accuracy'\?\)"),
        ({"group": "tasks"}, r"'group': no column 'tasks' \(did you mean 'task'\?\)"),
        ({"kind": "pie"}, r"'kind'"),
        ({"kind": "heatmap"}, "a heatmap needs 'group'"),
        ({"front": True}, "'arrows' and 'front' are for 'kind: scatter'"),
        ({"path": "curve.jpg"}, r"expected a file that ends in \.svg or \.png"),
        ({"path": "../curve.svg"}, "expected a file inside the run's output folder"),
        ({"metrics": "model"}, "'metrics' takes metrics, but 'model' gives weights"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(fields: dict[str, Any], message: str, write: Write) -> None:
    with pytest.raises(RecipeError, match=message):
        run(write({"curve": {**CURVE, **fields}}))
    assert not Path("out").exists()


def test_two_figures_do_not_share_a_file(write: Write) -> None:
    with pytest.raises(RecipeError, match=r"'curve' and 'other' both write 'curve\.csv'"):
        lines_pipeline.validate(write({"curve": CURVE, "other": {**CURVE, "path": "curve.png"}}))


def test_a_folder_in_the_place_of_a_picture_is_told(write: Write) -> None:
    Path("out/curve.svg").mkdir(parents=True)
    with pytest.raises(PlanError, match=r"node 'curve': .*curve\.svg is a folder, not a file"):
        run(write({"curve": CURVE}))


def test_an_objective_names_a_model_that_is_judged(write: Write) -> None:
    front = {"op": "pareto", "metrics": "val", "objectives": ["accuracy/rise", "accuracy/fall"]}
    tune = {"parameters": {"updates.on_missing": {"values": ["base"]}}, "objective": "front.hypervolume"}
    with pytest.raises(RecipeError, match="the objective names 'front', a node of 'pareto', expected an 'evaluate'"):
        lines_pipeline.validate(write({"front": front}, tune=tune))


def test_what_no_row_has_is_told_by_the_node(write: Write) -> None:
    """Seven images of two classes have no top five, which the suite declares all the same."""
    with pytest.raises(EvalError, match=r"node 'curve': plot: no column 'mean_top5_accuracy'"):
        run(write({"curve": {**CURVE, "y": "mean_top5_accuracy"}}))


def test_what_comes_from_the_environment_is_shown_by_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_LABEL", "confidential-label")
    nodes = {
        "own": {"op": "scale", "delta": "updates[rise]", "by": 1, "for_each": {"who": ["${env:SECRET_LABEL}"]}},
        "made": {"op": "apply", "base": "base", "delta": "own"},
        "seen": {**JUDGE, "model": "made"},
        "bars": {"op": "plot", "kind": "bar", "metrics": "seen", "x": "who", "y": "mean_accuracy"},
    }
    run(write(nodes))
    written = [file.read_text() for file in Path("out").iterdir()]
    assert all("confidential" not in text and "SECRET_LABEL" in text for text in written) and len(written) == 2
    assert os.environ["SECRET_LABEL"] == "confidential-label"

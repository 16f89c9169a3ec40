"""Plans as text, in ``tests/planner/*.plan.txt``: made without reading a tensor (rewrite: ``--rewrite-plans``)."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from plan_recipes import ARITHMETIC, ISO, RECIPES, SUM, TIES_AUTO, TSV, Nodes, saved, write_models, write_recipe
from toy_suite import above, write_suite

import lines_pipeline
from lines_pipeline import load_recipe
from lines_pipeline.core.errors import PlanError
from lines_pipeline.core.events import Event, RunStarted, StageFinished
from lines_pipeline.executor.schedulers import local
from lines_pipeline.executor.task_results import TaskResult
from lines_pipeline.executor.task_runner import run_task
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import BlockReader
from lines_pipeline.planner.explain import explain_plan
from lines_pipeline.planner.memory import EngineSettings
from lines_pipeline.planner.plan import Catalogue, Wanted
from lines_pipeline.planner.planning import plan
from lines_pipeline.recipe.building import build_graph

FOLDER = Path(__file__).parent
WORKERS = 4
SAVED = {"op": "save", "model": "merged", "path": "model.safetensors"}


def explode(*arguments: Any, **options: Any) -> Any:
    pytest.fail(f"a plan has touched {arguments[1:] or arguments}")


@pytest.fixture
def folder(toy: Path) -> Path:
    """Models of a fixed size, and a suite."""
    write_models(toy)
    write_suite(toy, {"rise": {"val": above(0.5)}})
    return toy


@pytest.mark.parametrize("name", RECIPES)
def test_plans_are_as_kept(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    planned = RECIPES[name]
    for nodes in planned.before:
        lines_pipeline.run(write_recipe(folder, nodes), out="out", tracking=False, scheduler="serial")
    path = write_recipe(folder, planned.nodes, **planned.top)
    with monkeypatch.context() as patch:
        for method in ("block", "fill", "descriptor"):
            patch.setattr(BlockReader, method, explode)
        plan_text = lines_pipeline.plan(path, out="out", **{"workers": WORKERS, **planned.options}).render()
    plan_text = plan_text.replace(str(folder), "FOLDER")
    kept = FOLDER / f"{name}.plan.txt"
    if request.config.getoption("--rewrite-plans"):
        kept.write_text(plan_text, encoding="utf-8")
    assert plan_text == kept.read_text(encoding="utf-8")


def test_every_kept_plan_has_its_recipe() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.plan.txt")) == sorted(f"{name}.plan.txt" for name in RECIPES)


@pytest.mark.parametrize("nodes", [ARITHMETIC, TIES_AUTO, ISO])
def test_planning_touches_nothing(nodes: Nodes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build_graph(load_recipe(write_recipe(folder, nodes)))
    loads = {"base": "base", **{f"experts[{name}]": name for name in "abc"}}
    assert loads.keys() == {step.id for step in graph.steps.values() if step.op.is_source}
    headers = {step: open_checkpoint(folder / f"{name}.safetensors") for step, name in loads.items()}
    expected = Wanted({"model": "keep"}, ("model",))
    with monkeypatch.context() as patch:
        for name in ("open", "stat", "pread"):
            patch.setattr(os, name, explode)
        patch.setattr(builtins, "open", explode)
        first, second = (plan(graph, expected, Catalogue(headers), EngineSettings(workers=WORKERS)) for _ in range(2))
        text = explain_plan("planned", first).render()
    assert explain_plan("planned", second).render() == text
    assert text == lines_pipeline.plan(folder / "recipe.yaml", workers=WORKERS).render()


def sweeps(events: Sequence[Event]) -> list[StageFinished]:
    """The sweeps of stages, without those that only look at a sample."""
    return [event for event in events if isinstance(event, StageFinished) and "sample" not in event.name]


def merged_by(op: str, **parameters: Any) -> Nodes:
    return {"merged": {"op": op, "deltas": "updates", **parameters}, **saved("merged")}


@pytest.mark.parametrize(
    "nodes",
    [
        ARITHMETIC,
        TIES_AUTO,
        ISO,
        TSV,
        RECIPES["tsv-m-update"].nodes,
        merged_by("iso-cts"),
        merged_by("iso-cts", common_fraction=1.0),
        merged_by("cart"),
        merged_by("wudi-closed"),
        {"sum": SUM, **merged_by("svc", delta="sum")},
        {"merged": {"op": "arcee-fusion", "base": "base", "models": ["experts[a]"]}, "saved": SAVED},
    ],
)
@pytest.mark.parametrize("compiled", ["auto", "never"])
def test_a_run_does_what_its_plan_says(nodes: Nodes, compiled: str, folder: Path) -> None:
    path, events = write_recipe(folder, nodes, engine={"compile": compiled}), list[Event]()
    planned = lines_pipeline.plan(path, out="out")
    lines_pipeline.run(path, out="out", tracking=False, sinks=[events.append])
    finished = sweeps(events)
    small = 10**4  # integer tensors
    written = [planned_pass["bytes_written"] + planned_pass["bytes_drafted"] for planned_pass in planned.passes]
    assert [sweep.bytes_written for sweep in finished] == pytest.approx(written, abs=small)
    assert [sweep.bytes_read for sweep in finished] == pytest.approx(
        [sweep["bytes_read"] for sweep in planned.passes], abs=small
    )
    assert sum(sweep.bytes_read for sweep in finished) == pytest.approx(planned.bytes_read, abs=small)


class Watched:
    """Counts the tasks of a sweep that are done side by side, at most."""

    def __init__(self, run_task: Callable[..., TaskResult]) -> None:
        self._run_task, self._lock, self._running = run_task, Lock(), 0
        self._most = 0
        self.by_sweep: list[int] = []

    def __call__(self, *task: Any) -> TaskResult:
        with self._lock:
            self._running += 1
            self._most = max(self._most, self._running)
        try:
            return self._run_task(*task)
        finally:
            with self._lock:
                self._running -= 1

    def emit(self, event: Event) -> None:
        """Note the count where a sweep ends."""
        if isinstance(event, StageFinished):
            if sweeps([event]):
                self.by_sweep.append(self._most)
            self._most = 0


@pytest.mark.parametrize("nodes", [TIES_AUTO, ISO])
def test_memory_makes_workers_wait_before_it_refuses(
    nodes: Nodes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recipe(folder, nodes)
    most = lines_pipeline.plan(path, workers=WORKERS).peak_bytes
    with pytest.raises(PlanError, match=r"allow at least \d+MB, which is what one task at a time takes") as refused:
        lines_pipeline.plan(path, workers=WORKERS, memory="421MB")
    least = str(refused.value).split("at least ")[1].split(",")[0]
    tight = lines_pipeline.plan(path, workers=WORKERS, memory=least)
    at_once = [planned_pass["at_once"] for planned_pass in tight.passes]
    assert tight.peak_bytes < most and min(at_once) == 1
    options: dict[str, Any] = {"tracking": False, "cache": False, "workers": WORKERS}
    free = lines_pipeline.run(path, out="free", **options).files[0].read_bytes()
    watched = Watched(run_task)
    monkeypatch.setattr(local, "run_task", watched)
    result = lines_pipeline.run(path, out="tight", memory=least, sinks=[watched.emit], **options)
    assert result.files[0].read_bytes() == free
    assert len(watched.by_sweep) == len(at_once)
    assert all(most_seen <= allowed for most_seen, allowed in zip(watched.by_sweep, at_once, strict=True))


def test_workers_of_a_cluster_are_not_told_to_wait(folder: Path) -> None:
    path = write_recipe(folder, ISO)
    cluster: dict[str, Any] = {"scheduler": "tcp://127.0.0.1:1", "workers": WORKERS}
    most = lines_pipeline.plan(path, **cluster).peak_bytes
    assert lines_pipeline.plan(path, memory=most, **cluster).peak_bytes == most
    with pytest.raises(PlanError, match=r"allow at least \d+MB, or use fewer --workers"):
        lines_pipeline.plan(path, memory=most - 10**6, **cluster)


def test_the_record_of_a_run_keeps_the_plan(folder: Path, shared_store: str) -> None:
    path, events = write_recipe(folder, TIES_AUTO), list[Event]()
    planned = lines_pipeline.plan(path, out="out")
    lines_pipeline.run(path, out="out", sinks=[events.append])
    assert [event.texts["plan.txt"] for event in events if isinstance(event, RunStarted)] == [planned.render()]

"""Explains what a recipe's outputs need, and makes the texts that a record keeps of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lines_pipeline.executor import outputs
from lines_pipeline.executor.explain import explain
from lines_pipeline.executor.inputs import OpenedRecipe
from lines_pipeline.graph.picture import mermaid, svg
from lines_pipeline.planner.explain import Explanation, describe_layers


def explain_outputs(
    context: OpenedRecipe,
    destination: outputs.OutputFolder,
    trials: int = 0,
    *,
    by: Callable[..., Explanation] = explain,
) -> Explanation:
    """Explain the files that ``save`` nodes name and the models that metrics are given of."""
    graph = context.graph
    requests = outputs.requests(context.recipe, graph, destination, context.session.checkpoints)
    report = by(context.recipe, graph, context.session, list(requests.values()), graph.measured_models, trials)
    return replace(report, notes=(*report.notes, *outputs.notes(requests)))


def artifact_texts(context: OpenedRecipe, report: Explanation) -> dict[str, str]:
    """Return the text artifacts that tell what will run, by file name."""
    recipe, graph = context.recipe, context.graph
    return {
        "recipe.yaml": recipe.source,
        "resolved.yaml": recipe.resolved(),
        "plan.txt": report.render(),
        "graph.svg": svg(graph),
        "graph.mmd": mermaid(graph),
        "layers.json": describe_layers(report),
        **{f"plugins/{name}": text for name, text in recipe.plugins.texts().items()},
    }

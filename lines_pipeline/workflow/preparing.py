"""Makes a recipe ready for a use case: read once, trusted, its graph built, its settings and output place known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lines_pipeline.core.events import broadcast
from lines_pipeline.core.logs import hiding
from lines_pipeline.executor import outputs
from lines_pipeline.executor.inputs import OpenedRecipe, open_recipe
from lines_pipeline.executor.settings import engine_settings
from lines_pipeline.graph.graph import Graph
from lines_pipeline.planner.memory import EngineSettings
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.stock import find_recipe
from lines_pipeline.recipe.trusting import trusted_graph
from lines_pipeline.suites.declaring import declared_metrics
from lines_pipeline.workflow.options import RunOptions


@dataclass(frozen=True)
class ReadyRecipe:
    """A recipe that may be carried out, and how."""

    recipe: Recipe
    graph: Graph
    settings: EngineSettings
    place: str | Path
    """Where the results go: a folder, or the URL of an object store."""
    options: RunOptions

    @contextmanager
    def unopened_output(self) -> Iterator[tuple[OpenedRecipe, outputs.OutputFolder]]:
        """Open the inputs that are on this machine; yield them with the output folder, which is not made.

        Nothing is built, downloaded or written.
        """
        destination = outputs.planned_destination(self.place)
        outputs.check_outputs(self.graph, destination.folder)
        with open_recipe(
            self.recipe,
            self.graph,
            self.settings,
            self.options.cache,
            broadcast(),
            build=False,
            trust=self.options.trust,
        ) as context:
            yield context, destination


def read_recipe(recipe: str | Path | Recipe, sets: Mapping[str, Any] | None = None, *, trust: bool = False) -> Recipe:
    """Return the recipe that a path, a stock recipe's name or a recipe that is read already stands for.

    TypeError for ``sets`` that a recipe was not read with: its references are filled already.
    """
    if not isinstance(recipe, Recipe):
        return load_recipe(find_recipe(recipe), sets or {}, trust=trust)
    if sets and dict(sets) != dict(recipe.sets):
        raise TypeError("sets: this recipe is read already; give them to load_recipe")
    return recipe


@contextmanager
def ready_recipe(recipe: str | Path | Recipe, options: RunOptions) -> Iterator[ReadyRecipe]:
    """Read and check a recipe, and yield it; meanwhile errors and logs show its secrets by name only."""
    loaded = read_recipe(recipe, options.sets, trust=options.trust)
    with hiding(loaded.secrets):
        graph = trusted_graph(loaded, trust=options.trust, declared=declared_metrics)
        settings = engine_settings(loaded, options.scheduler, options.workers, options.memory, options.device)
        yield ReadyRecipe(loaded, graph, settings, outputs.place(loaded, options.out), options)

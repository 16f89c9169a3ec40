"""Opens the record of a run: chooses the store, checks it, and makes the first event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lines_pipeline.core.errors import TrackingError
from lines_pipeline.core.events import Event, Note, RunStarted, Sink
from lines_pipeline.core.secrets import Secrets
from lines_pipeline.graph.graph import Graph
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.tracking.describing import plugin_tags, run_name, run_params, run_tags, transductive_tags
from lines_pipeline.tracking.experiments import Target, resolve_target
from lines_pipeline.tracking.recorder import Recording, recorder
from lines_pipeline.tracking.records import records_folder
from lines_pipeline.tracking.stores import check_reachable, resolve_uri


@dataclass(frozen=True)
class OpenRecord:
    """Holds a run's record in the store at ``uri``."""

    uri: str
    target: Target
    recording: Recording
    secrets: Secrets

    @property
    def run_id(self) -> str:
        """Return the run's id in the store; empty while it has none."""
        return self.recording.run_id

    def beside(self, sink: Sink) -> Sink:
        """Return a sink for both; trouble with the record is a warning to ``sink``."""
        self.recording.on_trouble = lambda text: sink(Note(self.secrets.hide(text), warning=True))

        def emit(event: Event) -> None:
            sink(event)
            self.recording(event)

        return emit

    def started(self, recipe: Recipe, graph: Graph, texts: Mapping[str, str]) -> RunStarted:
        """Return the first event of the record; ``texts`` become artifacts, with secrets by name."""
        shown = {name: recipe.secrets.hide(text) for name, text in texts.items()}
        name, params, tags = run_name(recipe), run_params(recipe, graph), run_tags(recipe)
        tags |= plugin_tags(recipe, graph) | transductive_tags(graph)
        target = self.target
        return RunStarted(name, target.experiment, params, tags, shown, target.experiment_id, target.run_id)


def open_record(recipe: Recipe, out: str | Path, tracking_uri: str | None) -> OpenRecord:
    """Open the record of a run that writes to ``out``. Raises ``TrackingError`` where the store cannot be used."""
    uri = resolve_uri(tracking_uri or recipe.tracking.uri)
    target = resolve_target(recipe.recorded.get("tracking") or {})
    folder = records_folder() if "://" in str(out) else Path(out)
    shown = recipe.secrets.hide(recipe.secrets.by_name(uri))
    try:
        is_told = check_reachable(uri, target)
        recording = recorder().open(uri, folder, shown=shown, target=None if is_told else target)
    except TrackingError as error:
        raise TrackingError(f"{error}. To run all the same, without a record: --no-tracking") from error
    return OpenRecord(uri, target, recording, recipe.secrets)

"""Writes figures and their data into the output folder, whole or absent, and tells of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lines_pipeline.core.events import FigureDrawn, FileWritten
from lines_pipeline.core.secrets import Secrets
from lines_pipeline.executor.inputs import OpenedRecipe
from lines_pipeline.executor.outputs import OutputFolder
from lines_pipeline.io.entries import write_atomically
from lines_pipeline.io.folders import require_output
from lines_pipeline.io.locations import resolve_output
from lines_pipeline.ops.figures import Figure
from lines_pipeline.ops.metrics_table import Table
from lines_pipeline.reports.figures import draw
from lines_pipeline.reports.tables import csv_text


@dataclass
class FigureFiles:
    """Writes pictures and data of one run; what is there with the same bytes stays."""

    context: OpenedRecipe
    destination: OutputFolder
    locations: list[Path | str] = field(default_factory=list)
    """The files that were written, or were there."""

    def write(self, step: str, figures: Iterable[Figure]) -> None:
        """Write figures of one step; those that have a data path in common show the same table."""
        contents, texts = dict[str, bytes](), dict[str, str]()
        for figure in figures:
            shown = _labelled(figure, self.context.recipe.secrets)
            kind = figure.path.rpartition(".")[2]
            picture, data = draw(shown, kind), texts.get(figure.data_path) or csv_text(shown.table)
            svg = picture if kind == "svg" else draw(shown, "svg")
            contents |= {figure.path: picture, figure.data_path: data.encode()}
            texts |= {figure.path.removesuffix(f".{kind}") + ".svg": svg.decode(), figure.data_path: data}
        for path, content in contents.items():
            self._write_file(step, path, content)
        self.context.session.emit(FigureDrawn(step, texts))

    def _write_file(self, step: str, path: str, content: bytes) -> None:
        target = resolve_output(self.destination.folder, path)
        reused = target.is_file() and target.read_bytes() == content
        if not reused:
            require_output(self.destination.folder)
            write_atomically(target, content)
        self.destination.renew([target])
        location = self.destination.location(target)
        self.locations.append(location)
        self.context.session.emit(FileWritten(step, location, len(content), reused))


def _labelled(figure: Figure, secrets: Secrets) -> Figure:
    """Return a figure that shows by name what the recipe takes from the environment."""

    def label(columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(secrets.label(column) for column in columns)

    table = Table(label(figure.table.columns), tuple(secrets.hidden(row) for row in figure.table.rows))
    x, group, arrows = label((figure.x, figure.group, figure.arrows))
    title = secrets.hide(figure.title)
    labelled = [secrets.labelled(by_column) for by_column in (figure.directions, figure.units)]
    return replace(
        figure,
        table=table,
        x=x,
        y=label(figure.y),
        group=group,
        arrows=arrows,
        title=title,
        directions=labelled[0],
        units=labelled[1],
    )

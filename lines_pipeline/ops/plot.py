"""``plot``: a picture of metrics, with its data beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field

from lines_pipeline.core.diagnostics import Diagnostic, FieldPath
from lines_pipeline.core.errors import did_you_mean
from lines_pipeline.core.types import EdgeType
from lines_pipeline.ops.base import Granularity, Op, OpParams, Port
from lines_pipeline.ops.coefficients.by_block import COEFFICIENT, COLUMNS, coefficient_table
from lines_pipeline.ops.depth import LayerPatterns
from lines_pipeline.ops.derivations import Derivation, Members
from lines_pipeline.ops.figures import Figure, FigureKind
from lines_pipeline.ops.metrics_table import BLOCK, TASK, table_of
from lines_pipeline.ops.roles import StepContext

PICTURES = (".svg", ".png")
"""The endings of the files that a picture may be written to."""


class PlotParams(OpParams):
    kind: FigureKind = Field("line", description="How rows are drawn.")
    x: str = Field("", description="The column along the horizontal axis, around a radar, or of a heatmap.")
    y: str | Annotated[tuple[str, ...], Field(strict=False)] = Field("", description="What is measured: columns.")
    group: str = Field("", description="The column that tells series apart; of a heatmap: the rows.")
    beta: float | None = Field(
        0.5, description="coefficients: LiNeS' line beside them, 1/N in the first block and this more in the last."
    )
    blocks: LayerPatterns = Field(
        "auto", description="coefficients: layer map, auto, or a regex with a group for the block's index, or a list."
    )
    arrows: str = Field("", description="scatter: rows equal in this column are joined by arrows, in their order.")
    front: bool = Field(False, description="scatter: join the points of each series that no other is better than.")
    title: str = Field("", description="What stands above.")
    path: str = Field("", description="A file (.svg, .png) in the output folder; default: the node's name, .svg.")

    @property
    def measured(self) -> tuple[str, ...]:
        """Return the columns of ``y``."""
        return (self.y,) if isinstance(self.y, str) else self.y

    def of_coefficients(self) -> PlotParams:
        """Return the parameters with the columns that coefficients have where none are named."""
        given = {"x": self.x or BLOCK, "y": self.y or COEFFICIENT, "group": self.group or TASK}
        return self.model_copy(update=given)


class Plot(Op[PlotParams]):
    """Draws a row a member, or a member and task where a column is by task; equal places are drawn by their mean.

    Columns are ``node``, every name of ``for_each``, every metric; by task, ``task`` and metrics without ``/<task>``.
    Of coefficients there is a row a member, block and task, with the mean over a block's tensors: ``block``, ``task``
    and ``coefficient`` (and ``tower``), which are ``x``, ``group`` and ``y`` where none are named.
    """

    name = "plot"
    formula = "mean of y, with a band or bars of one standard deviation, over rows of equal x and group"
    source = "Matplotlib; Hunter, Computing in Science & Engineering 9 (2007)"
    gives = EdgeType.FIGURE
    is_output = True
    inputs = {
        "metrics": Port(EdgeType.METRICS, many=True, optional=True),
        "coefficients": Port(EdgeType.COEFFICIENTS, many=True, optional=True),
    }
    granularity = Granularity.MODEL
    Params = PlotParams

    def check(self, params: PlotParams, counts: Mapping[str, int]) -> str | None:
        if bool(counts["metrics"]) == bool(counts["coefficients"]):
            return f"expected 'metrics' or 'coefficients', found {'both' if counts['metrics'] else 'neither'}"
        if counts["coefficients"]:
            params = params.of_coefficients()
        elif own := params.model_fields_set & {"beta", "blocks"}:
            return f"'{min(own)}' is for 'coefficients'"
        if not params.x or not params.measured or not all(params.measured):
            return f"'{'y' if params.x else 'x'}' names no column"
        if params.kind == "heatmap" and (not params.group or len(params.measured) > 1):
            return "a heatmap needs 'group', whose values are its rows, and one column as 'y', which is its colour"
        if params.kind != "scatter" and (params.arrows or params.front):
            return "'arrows' and 'front' are for 'kind: scatter'"
        if params.path and PurePosixPath(params.path).suffix not in PICTURES:
            return f"'path' is '{params.path}', expected a file that ends in {' or '.join(PICTURES)}"
        return None

    def completed(self, params: PlotParams, context: StepContext) -> PlotParams:
        own = context.node if context.item is None else f"{context.node}/{context.item}"
        return params if params.path else params.model_copy(update={"path": f"{own}.svg"})

    def derivation_of(self, params: PlotParams) -> Derivation:
        data_path = str(PurePosixPath(params.path).with_suffix(".csv"))

        def draw(members: Members) -> Figure:
            return _figure(params, members, data_path)

        def check(members: Members) -> Iterable[Diagnostic]:
            return _diagnostics(params, members)

        return Derivation(draw, tuple(_named(params)), (params.path, data_path), check)


def _diagnostics(params: PlotParams, members: Members) -> Iterable[Diagnostic]:
    """Tell of columns that coefficients do not have; those of metrics are checked against what suites declare."""
    if "coefficients" in members:
        known = [
            *dict.fromkeys(column for member in members["coefficients"] for column in member.known_columns),
            *COLUMNS,
        ]
        for path, column in _named(params.of_coefficients()):
            if column not in known:
                near = did_you_mean(column, known)
                yield Diagnostic(path, f"no column '{column}'{near}; there are: {', '.join(known)}")


def _named(params: PlotParams) -> Iterable[tuple[FieldPath, str]]:
    yield ("x",), params.x
    several = not isinstance(params.y, str)
    yield from ((("y", number) if several else ("y",), column) for number, column in enumerate(params.measured))
    for field in ("group", "arrows"):
        if column := getattr(params, field):
            yield (field,), column


def _figure(params: PlotParams, members: Members, data_path: str) -> Figure:
    learned, shown = members.get("coefficients", ()), members.get("metrics", ())
    params = params.of_coefficients() if learned else params
    columns = [column for _, column in _named(params)]
    table = coefficient_table(learned, params.blocks, params.beta) if learned else table_of(shown, columns)
    table.require(columns, "plot")
    told = {name: direction for member in shown for name, direction in member.directions.items()}
    units = {name: unit for member in shown for name, unit in member.units.items()}
    return Figure(
        kind=params.kind,
        table=table,
        x=params.x,
        y=params.measured,
        group=params.group,
        arrows=params.arrows,
        front=params.front,
        title=params.title,
        directions={column: _of_column(column, told, "higher") for column in columns},
        units={column: _of_column(column, units, "") for column in columns},
        path=params.path,
        data_path=data_path,
    )


def _of_column(column: str, by_metric: Mapping[str, str], default: str) -> str:
    """Return what is said of a column: of the metric, or of a metric by task that the column has."""
    by_task = (told for name, told in by_metric.items() if name.startswith(f"{column}/"))
    return by_metric.get(column) or next(by_task, default)

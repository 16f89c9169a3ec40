"""Draws figures with Matplotlib: the same table gives the same bytes."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lines_pipeline.ops.figures import Figure
from lines_pipeline.ops.fronts import front
from lines_pipeline.ops.metrics_table import Row, cell_text
from lines_pipeline.reports.series import Series, categories, grouped, pairs, series_of, texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""The palette of Okabe and Ito, which the colour-blind can tell apart."""
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE: Mapping[str, Any] = {
    "svg.hashsalt": "lines-pipeline",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_INCHES, _WIDE_INCHES, _DPI = (6.4, 4.4), (8.4, 4.8), 150
_BESIDE: Mapping[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "fontsize": 7, "title_fontsize": 7}
"""A legend of many series: small, to the right of the axes."""
_ABOVE: Mapping[str, Any] = {"loc": "outside upper center"}
"""A legend of bars: they leave no room for it inside the axes."""
_METRIC = "metric"
"""What the names of several columns are."""
_LABEL_LENGTH = 60
"""The characters that there is room for beside the vertical axis."""
_ROW_LENGTH, _KEY_LENGTH = 80, 8
"""The characters that a legend above the axes has room for, and those that a key takes beside its name."""
_MANY = 8
"""More series, or categories, than fit beside each other."""


def draw(figure: Figure, kind: str) -> bytes:
    """Return the picture as ``svg`` or ``png``; ``EvalError`` where there is nothing to show."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with _own_style():
        names = texts(figure.table.rows, figure.group) if figure.group else []
        wide = len(names) > _MANY or len(texts(figure.table.rows, figure.x)) > _MANY
        canvas = Canvas(figsize=_WIDE_INCHES if wide else _INCHES, dpi=_DPI, layout="constrained")
        axes = canvas.add_subplot(projection="polar" if figure.kind == "radar" else None)
        _KINDS[figure.kind](axes, figure)
        if figure.title:
            axes.set_title(_plain(figure.title))
        target = io.BytesIO()
        if kind == "svg":
            FigureCanvasSVG(canvas).print_svg(target, metadata={"Date": None, "Creator": None})
        else:
            FigureCanvasAgg(canvas).print_png(target, metadata={"Software": None})
    return target.getvalue()


@contextmanager
def _own_style() -> Iterator[None]:
    """Draw as Matplotlib does by default, whatever the user has set; letters that no font has become boxes."""
    from matplotlib import style

    with style.context(["default", dict(_STYLE)]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        warnings.filterwarnings("ignore", message="Creating legend with loc", category=UserWarning)  # on a busy machine
        yield


def _draw_line(axes: Axes, figure: Figure) -> None:
    for index, series in enumerate(series_of(figure)):
        xs, means = [point.x for point in series.points], [point.mean for point in series.points]
        colour, dashes = _line_style(index)
        marker = _MARKERS[index % len(_MARKERS)]
        axes.plot(xs, means, label=_named(series), color=colour, linestyle=dashes, marker=marker, markersize=3.5)
        if any(point.count > 1 for point in series.points):
            low, high = ([point.mean + sign * point.deviation for point in series.points] for sign in (-1, 1))
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    _label(axes, figure)


def _draw_scatter(axes: Axes, figure: Figure) -> None:
    groups, numeric = grouped(figure), categories(figure, figure.x) is None
    for number_of_y, column in enumerate(figure.y):
        for index, (group, rows) in enumerate(groups.items()):
            points = pairs(figure, rows, column, numeric=numeric)
            style = index + number_of_y * len(groups)
            colour = _COLOURS[style % len(_COLOURS)]
            label = " ".join(part for part in (column if len(figure.y) > 1 else "", group) if part) or column
            axes.scatter(
                [x for x, _ in points],
                [y for _, y in points],
                s=22,
                label=_plain(label),
                color=colour,
                marker=_MARKERS[style % len(_MARKERS)],
                zorder=3,
            )
            if figure.front:
                _join_front(axes, figure, points, column, colour)
        if figure.arrows:
            _draw_arrows(axes, figure, column, numeric=numeric)
    _label(axes, figure)


def _join_front(axes: Axes, figure: Figure, points: Sequence[tuple[Any, float]], column: str, colour: str) -> None:
    signs = [-1.0 if figure.directions.get(name) == "lower" else 1.0 for name in (figure.x, column)]
    kept = front([(signs[0] * x, signs[1] * y) for x, y in points if not isinstance(x, str)])
    line = sorted(point for point, on_front in zip(points, kept, strict=False) if on_front)
    axes.plot([x for x, _ in line], [y for _, y in line], color=colour, linewidth=1)


def _draw_arrows(axes: Axes, figure: Figure, column: str, *, numeric: bool) -> None:
    chains: dict[str, list[Row]] = {}
    for row in figure.table.rows:
        if figure.arrows in row:
            chains.setdefault(cell_text(row[figure.arrows]), []).append(row)
    for rows in chains.values():
        points = pairs(figure, rows, column, numeric=numeric)
        for start, end in pairwise(points):
            axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "0.55", "shrinkA": 3, "shrinkB": 3})


def _draw_bar(axes: Axes, figure: Figure) -> None:
    names, all_series = texts(figure.table.rows, figure.x), series_of(figure)
    width = 0.8 / len(all_series)
    for index, series in enumerate(all_series):
        by_name = {_category(point.x): point for point in series.points}
        places = [place for place, name in enumerate(names) if _category(name) in by_name]
        points = [by_name[_category(names[place])] for place in places]
        shift = (index - (len(all_series) - 1) / 2) * width
        axes.bar(
            [place + shift for place in places],
            [point.mean for point in points],
            width,
            yerr=[point.deviation for point in points] if any(point.count > 1 for point in points) else None,
            label=_named(series),
            color=_COLOURS[index % len(_COLOURS)],
            zorder=2,
        )
    axes.set_xticks(range(len(names)), [_plain(name) for name in names])
    _label(axes, figure)


def _draw_radar(axes: Axes, figure: Figure) -> None:
    names, all_series = texts(figure.table.rows, figure.x), series_of(figure)
    angles = [2 * math.pi * place / len(names) for place in range(len(names))]
    for index, series in enumerate(all_series):
        by_name = {_category(point.x): point.mean for point in series.points}
        values = [by_name.get(_category(name), math.nan) for name in names]
        colour, dashes = _line_style(index)
        axes.plot([*angles, angles[0]], [*values, values[0]], label=_named(series), color=colour, linestyle=dashes)
    axes.set_xticks(angles, [_plain(name) for name in names])
    if len(all_series) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.1, 1.05), title=_legend_title(figure))


def _draw_heatmap(axes: Axes, figure: Figure) -> None:
    columns, rows = texts(figure.table.rows, figure.x), texts(figure.table.rows, figure.group)
    by_row = {series.label: {_category(point.x): point.mean for point in series.points} for series in series_of(figure)}
    cells = [[by_row.get(row, {}).get(_category(column), math.nan) for column in columns] for row in rows]
    image = axes.imshow(cells, aspect="auto", cmap="cividis")
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), [_plain(name) for name in columns])
    axes.set_yticks(range(len(rows)), [_plain(name) for name in rows])
    axes.set(xlabel=_plain(figure.x), ylabel=_plain(figure.group))
    _turn_labels(axes, columns)
    axes.figure.colorbar(image, ax=axes, label=_plain(figure.y[0]))


def _line_style(index: int) -> tuple[str, str]:
    """Return a colour and the dashes of a line, of which the first 32 are all different."""
    return _COLOURS[index % len(_COLOURS)], _LINES[index // len(_COLOURS) % len(_LINES)]


def _category(x: Any) -> Any:
    """Return one key for the spellings of a number: ``1`` and ``1.0`` are the same place."""
    if isinstance(x, str):
        try:
            return float(x)
        except ValueError:
            return x
    return x


def _label(axes: Axes, figure: Figure) -> None:
    names = categories(figure, figure.x)
    axes.set(xlabel=_plain(figure.x), ylabel=_plain(_shared_name(figure.y)))
    _turn_labels(axes, texts(figure.table.rows, figure.x) if figure.kind == "bar" else names or [])
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _MANY:
        axes.legend(handles, labels, title=_legend_title(figure), **_BESIDE)
    elif len(labels) > 1 or labels != list(figure.y[:1]):
        if figure.kind == "bar":
            columns = max(1, _ROW_LENGTH // (max(map(len, labels)) + _KEY_LENGTH))
            axes.figure.legend(handles, labels, title=_legend_title(figure), ncols=columns, **_ABOVE)
        else:
            axes.legend(handles, labels, title=_legend_title(figure))


def _shared_name(columns: Sequence[str]) -> str:
    """Return the words in which all columns end (``accuracy`` of mean and worst accuracy), or else their names."""
    words = [column.split("_") for column in columns]
    shared: list[str] = []
    for ends in zip(*(reversed(own) for own in words), strict=False):
        if len(set(ends)) > 1:
            break
        shared.insert(0, ends[0])
    names = ", ".join(columns)
    return "_".join(shared) or (names if len(names) <= _LABEL_LENGTH else _METRIC)


def _legend_title(figure: Figure) -> str:
    """Return what tells series apart: the column ``group``, and the metrics where there are several."""
    return _plain(", ".join(filter(None, (_METRIC if len(figure.y) > 1 else "", figure.group))))


def _turn_labels(axes: Axes, names: Sequence[str]) -> None:
    if len(names) > _MANY or any(len(name) > 12 for name in names):
        axes.tick_params(axis="x", labelrotation=60)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")


def _named(series: Series) -> str:
    count = max(point.count for point in series.points)
    return _plain(series.label) + (f" (mean ± s.d. of {count})" if count > 1 else "")


def _plain(text: str) -> str:
    """Return a text that Matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


_KINDS: Mapping[str, Callable[[Axes, Figure], None]] = {
    "line": _draw_line,
    "scatter": _draw_scatter,
    "bar": _draw_bar,
    "radar": _draw_radar,
    "heatmap": _draw_heatmap,
}

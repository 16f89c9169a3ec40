"""Pictures of tables: their bytes depend on the table alone, and show what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lines_pipeline.core.errors import EvalError
from lines_pipeline.ops.figures import Figure, FigureKind
from lines_pipeline.ops.metrics_table import Member, table_of
from lines_pipeline.reports.figures import draw
from lines_pipeline.reports.series import Point, series_of
from lines_pipeline.reports.tables import csv_text

KINDS: tuple[FigureKind, ...] = ("line", "scatter", "bar", "radar", "heatmap")


def figure(rows: Sequence[tuple[dict[str, Any], dict[str, float]]], **fields: Any) -> Figure:
    members = [Member(f"val[{key}]", "val", str(key), names, metrics) for key, (names, metrics) in enumerate(rows)]
    columns = {"kind": "line", "x": "gamma", "y": ("up",), **fields}
    return Figure(table=table_of(members, [columns["x"], *columns["y"]]), **columns)


ROWS: list[tuple[dict[str, Any], dict[str, float]]] = [
    ({"e": "a", "gamma": 0}, {"up": 0, "down": 1}),
    ({"e": "a", "gamma": 1}, {"up": 1, "down": 0}),
    ({"e": "b", "gamma": 0}, {"up": 0, "down": 1}),
    ({"e": "b", "gamma": 1}, {"up": 2, "down": 0}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["svg", "png"])
def test_a_picture_is_the_same_every_time_whatever_the_users_style(kind: FigureKind, form: str) -> None:
    expected = figure(ROWS, kind=kind, group="e", title="costs $5 and $6")
    first = draw(expected, form)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.hashsalt": None}):
        assert draw(expected, form) == first
    assert draw(replace(expected, title="other"), form) != first
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_rows_of_equal_place_are_drawn_by_mean_and_deviation() -> None:
    up, down = series_of(figure(ROWS, y=("up", "down")))
    assert up.points == (Point(0.0, 0.0, 0.0, 2), Point(1.0, 1.5, 0.5**0.5, 2))
    assert [(point.x, point.mean) for point in down.points] == [(0.0, 1.0), (1.0, 0.0)]
    assert (up.label, down.label) == ("up", "down")


def test_groups_are_series_of_their_own_in_the_order_of_the_recipe() -> None:
    series = series_of(figure([*ROWS[2:], *ROWS[:2]], group="e"))
    assert [(line.label, [point.mean for point in line.points]) for line in series] == [("b", [0, 2]), ("a", [0, 1])]


def test_the_picture_says_how_many_rows_a_mean_is_of() -> None:
    assert "(mean ± s.d. of 2)" in draw(figure(ROWS), "svg").decode()
    assert "mean" not in draw(figure(ROWS, group="e"), "svg").decode().partition("<defs>")[2]


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        (("up",), "up"),
        (("up", "down"), "up, down"),
        (("mean_accuracy", "worst_accuracy"), "accuracy"),
        (("target_normalized_loss", "control_normalized_loss", "mean_normalized_loss"), "normalized_loss"),
        (("accuracy", "mean_accuracy"), "accuracy"),
        (tuple(f"a_name_of_many_letters_{number}" for number in range(3)), "metric"),
    ],
)
@pytest.mark.parametrize("kind", ["line", "scatter", "bar"])
def test_the_vertical_axis_says_what_is_measured(columns: tuple[str, ...], label: str, kind: FigureKind) -> None:
    rows = [({"gamma": gamma}, dict.fromkeys(columns, 0.5)) for gamma in (0, 1)]
    assert f"<!-- {label} -->" in drawn(figure(rows, y=columns, kind=kind))


@pytest.mark.parametrize("kind", ["line", "scatter", "bar", "radar"])
def test_a_legend_says_what_tells_its_entries_apart(kind: FigureKind) -> None:
    assert "<!-- e -->" in drawn(figure(ROWS, group="e", kind=kind))
    assert "<!-- metric -->" in drawn(figure(ROWS, y=("up", "down"), kind=kind))
    assert "<!-- metric, e -->" in drawn(figure(ROWS, y=("up", "down"), group="e", kind=kind))


def drawn(shown: Figure) -> str:
    return draw(shown, "svg").decode()


def test_places_that_are_no_numbers_keep_their_order() -> None:
    (series,) = series_of(figure([({"s": s}, {"up": 1.0}) for s in ("sqrt", "linear", "2")], x="s", kind="bar"))
    assert [point.x for point in series.points] == ["sqrt", "linear", "2"]


def test_figures_that_are_no_numbers_are_left_out_of_pictures_and_stay_in_the_data() -> None:
    rows = [({"gamma": 0}, {"up": float("nan")}), ({"gamma": 1}, {"up": 0.1})]
    assert series_of(figure(rows))[0].points == (Point(1.0, 0.1, 0.0, 1),)
    assert csv_text(figure(rows).table) == "node,gamma,up\nval,0,nan\nval,1,0.1\n"
    with pytest.raises(EvalError, match="no row has a finite figure in up"):
        draw(figure(rows[:1]), "svg")


@pytest.mark.parametrize("front", [True, False])
def test_a_front_joins_what_no_other_point_is_better_than(front: bool) -> None:
    rows = [({"e": str(x)}, {"up": x, "down": y}) for x, y in ((1.0, 3.0), (2.0, 2.0), (3.0, 1.0), (1.0, 1.0))]
    plain = figure(rows, kind="scatter", x="up", y=("down",))
    assert (draw(replace(plain, front=front), "svg") != draw(plain, "svg")) == front


def test_arrows_join_rows_that_are_equal_in_a_column() -> None:
    plain = figure(ROWS, kind="scatter", x="up", y=("down",))
    assert draw(replace(plain, arrows="e"), "svg") != draw(plain, "svg")


def test_letters_that_no_font_has_are_no_error() -> None:
    assert draw(figure([({"e": "数字"}, {"up": 1.0})], x="e", kind="bar"), "svg")


def test_names_that_are_like_commas_and_quotes_come_back_from_the_data() -> None:
    text = csv_text(figure([({"e": 'a,"b"\nc'}, {"up": 1.0})], x="e").table)
    assert text == 'node,e,up\nval,"a,""b""\nc",1.0\n'


@pytest.mark.parametrize("length", [3, 30, 70])
def test_a_legend_of_bars_is_inside_the_picture_and_hides_no_bar(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    canvases: list[FigureCanvasAgg] = []
    print_png = FigureCanvasAgg.print_png

    def kept(canvas: FigureCanvasAgg, *args: Any, **more: Any) -> None:
        canvases.append(canvas)
        print_png(canvas, *args, **more)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", kept)
    rows = [({"e": name * length, "gamma": gamma}, {"up": 1.0}) for name in "abc" for gamma in range(4)]
    draw(figure(rows, kind="bar", group="e", title="all"), "png")
    (canvas,) = canvases
    (legend,), (axes,) = canvas.figure.legends, canvas.figure.axes
    box, whole = legend.get_window_extent(), canvas.figure.bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and box.y1 <= whole.y1
    assert not box.overlaps(axes.get_window_extent())
    assert not box.overlaps(axes.title.get_window_extent())

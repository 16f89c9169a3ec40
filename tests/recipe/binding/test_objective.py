from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lines_pipeline.recipe.binding.objective import parse_objective

METRICS = {"val": {"a": 0.5, "b": 0.25, "accuracy/digits": 0.75, "accuracy/box-drawing": 0.125}, "v-2[x]": {"a": 1.0}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("val.a", 0.5),
        ("2 * val.a + val.b", 1.25),
        ("val.a - val.b", 0.25),
        ("-val.a + 1", 0.5),
        ("(val.a + val.b) / 2", 0.375),
        ("val.a*2*3", 3.0),
        ("0.5 * (val.a - 2 * (val.b - 1))", 1.0),
        ("val.accuracy/digits + val.accuracy/box-drawing", 0.875),
        ("val.accuracy/digits / 3", 0.25),
        ("v-2[x].a - val.a", 0.5),
        ("val.a + val.a", 1.0),
    ],
)
def test_values_by_hand(text: str, value: float) -> None:
    assert parse_objective(text).value(METRICS) == value


def test_terms_are_listed_once_in_order() -> None:
    assert parse_objective("2 * val.b + val.a - val.b + 3").terms == ((1.0, "val", "b"), (1.0, "val", "a"))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1, 1), st.floats(-1, 1))
def test_it_is_linear(p: float, q: float, a: float, b: float) -> None:
    objective = parse_objective(f"{p!r} * val.a + {q!r} * val.b")
    assert objective.value({"val": {"a": a, "b": b}}) == p * a + q * b


@pytest.mark.parametrize(
    "text",
    ["", "3", "val", "val.a *", "val.a * val.b", "1 / val.a", "val.a ** 2", "f(val.a)", "val.a if 1 else 2",
     "val.a / 0", "[val.a]", "val.a.b", "lambda: val.a", "val.a; val.b", "1e308 * 1e308 * val.a", "True * val.a",
     "1j * val.a", "(" * 500 + "val.a" + ")" * 500, "-" * 1_500 + "val.a", "val.a + " * 1_000 + "val.a", "'val.a'",
     "val.a < 2"],
)  # fmt: skip
def test_what_is_not_linear_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_objective(text)


@given(st.text(alphabet="val.ab/ +-*()[]0123_e'", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        objective = parse_objective(text)
    except ValueError:
        return
    assert objective.terms


def test_a_missing_metric_is_named() -> None:
    with pytest.raises(KeyError, match=r"val\.nothing"):
        parse_objective("val.nothing").value(METRICS)

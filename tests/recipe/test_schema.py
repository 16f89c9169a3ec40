from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lines_pipeline.core.sizes import parse_bytes
from lines_pipeline.recipe.binding.json_schema import json_schema
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.schema import Space
from lines_pipeline.recipe.syntax.yaml_source import parse_yaml

Write = Callable[..., Path]


def test_steps_are_exact_in_decimal() -> None:
    choices = Space(low=0.1, high=1.5, step=0.1).choices()
    assert choices == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)


@given(st.integers(-50, 50), st.integers(1, 30), st.integers(0, 60), st.integers(0, 6))
def test_every_value_is_the_float_nearest_to_its_decimal(low: int, step: int, count: int, digits: int) -> None:
    def number(scaled: int) -> float:
        return float(Fraction(scaled, 10**digits))

    space = Space(low=number(low), high=number(low + step * count), step=number(step))
    assert space.choices() == tuple(number(low + step * index) for index in range(count + 1))


def test_whole_numbers_stay_whole() -> None:
    choices = Space(low=1, high=3, step=1).choices()
    assert [(value, type(value)) for value in choices or ()] == [(1, int), (2, int), (3, int)]


def test_ranges_without_steps_have_no_list_and_lists_are_kept() -> None:
    assert Space(low=0.1, high=1.0).choices() is None
    assert Space(values=("global", "tensor")).choices() == ("global", "tensor")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4 * 10**9),
        ("4GiB", 4 * 2**30),
        ("1.5 mb", 1_500_000),
        ("512KiB", 524_288),
        ("100", 100),
        (7, 7),
        ("1TB", 10**12),
    ],
)
def test_sizes(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "4 G B", "4XB", "1e9", "0GB", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_bytes(text)


def errors(recipe: str) -> list[str]:
    """What a validator of JSON Schema says of a recipe."""
    jsonschema = pytest.importorskip("jsonschema")
    data: Any = parse_yaml(recipe, "x")[0]
    return [error.message for error in jsonschema.Draft202012Validator(json_schema()).iter_errors(data)]


def test_the_schema_is_one() -> None:
    pytest.importorskip("jsonschema").Draft202012Validator.check_schema(json_schema())


def test_the_schema_has_a_variant_for_each_op_and_resolves_its_references() -> None:
    from lines_pipeline.ops import registry

    schema = json_schema()
    variants = [variant["$ref"] for variant in schema["$defs"]["node"]["then"]["oneOf"]]
    assert variants == [f"#/$defs/op-{name}" for name in registry()]
    text = json.dumps(schema)
    used = {part.split('"')[0] for part in text.split('"$ref": "#/$defs/')[1:]}
    assert used <= set(schema["$defs"])


def test_the_schema_accepts_what_loads(written: Write, good: str) -> None:
    recipes = [
        good,
        good.replace("density: 0.2", 'density: "${d}"').replace("tasks: [", "d: 0.5\n  tasks: ["),
        good.replace("density: 0.2", "weights: {letters: 1, digits: 2, greek: 3}"),
        good + "engine: {memory: 4GB, workers: 2}\ntracking: {tags: {n: 1}}\nseed: 3\n",
    ]
    for recipe in recipes:
        load_recipe(written(recipe))
        assert errors(recipe) == []
    assert errors("extends: x.yaml\nnodes: {scaled: {beta: 0.5}}\n") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("density: 0.2", "densty: 0.2"),
        ("density: 0.2", "density: 20"),
        ("op: TIES", "op: teis"),
        ("name: good\n", ""),
        ("deltas: updates, density", "density"),
        ("tune:", "tuna:"),
        ("low: 0.1", "lo: 0.1"),
        ("split: val", "split: vla"),
    ],
)
def test_the_schema_refuses_what_does_not(good: str, old: str, new: str) -> None:
    assert errors(good.replace(old, new))

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lines_pipeline.core.diagnostics import Diagnostic
from lines_pipeline.core.errors import RecipeError
from lines_pipeline.core.scalars import unspelled
from lines_pipeline.graph.picture import mermaid, svg
from lines_pipeline.recipe.building import build_graph
from lines_pipeline.recipe.load import load_recipe
from lines_pipeline.recipe.recipe import Recipe
from lines_pipeline.recipe.syntax.source_map import replaced
from lines_pipeline.recipe.syntax.yaml_source import MAX_BYTES, parse_yaml

Write = Callable[..., Path]
GOOD = Path(__file__).parents[1] / "good.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2.", -2.0),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("007", "007"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("9" * 60, 1e60),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    filled_in = parse_yaml(f"a: {text}", "x")[0]["a"]
    plain = unspelled(filled_in)
    assert (plain, type(plain)) == (value, type(value))


def test_keys_and_values_know_their_places() -> None:
    _, source_map = parse_yaml("a:\n  - x\n  - {b: 1}\n", "f.yaml")
    assert (source_map.value(("a", 1, "b")).line, source_map.value(("a", 1, "b")).column) == (3, 9)
    assert (source_map.key(("a", 1, "b")).column, source_map.key(("a",)).line) == (6, 1)


def test_an_alias_repeats_its_anchor() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\n", "f")[0] == {"a": [1, 2], "b": [1, 2]}


def test_keys_are_text() -> None:
    assert parse_yaml("{1: a, true: b}", "f")[0] == {"1": "a", "true": "b"}


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels)]
    return "name: bomb\nvars:\n  " + "\n  ".join(lines) + "\nnodes: {a: {op: load, path: x}}\n"


def reference_bomb(levels: int, opening: str, closing: str) -> str:
    lines = [f"a0: {opening}x{closing}"]
    for level in range(1, levels):
        message = f"${{a{level - 1}}}"
        again = ", ".join([f'"{message}"'] * 10) if opening == "[" else message * 10
        lines.append(f"a{level}: {opening}{again}{closing}")
    return "name: bomb\nvars:\n  " + "\n  ".join(lines) + "\nnodes: {a: {op: load, path: x}}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(12), "aliases repeat"),
        (reference_bomb(12, "[", "]"), "bring in too much"),
        (reference_bomb(12, '"', '"'), "bring in too much"),
        ("a: " + "{a: " * 100_000, "nested deeper"),
        ("[" * 500_000, "nested deeper"),
        ("- " * 100_000, "nested deeper"),
        ("a: [" + "x," * 300_000 + "]", "more than 100,000 values"),
        ("name: x\nvars: {" + ", ".join(f"v{n}: '${{v{n + 1}}}'" for n in range(2_000)) + "}", "more than 50 deep"),
        ("name: x\nvars: {" + ", ".join(f"v{n}: ['${{v{n + 1}}}', '${{v{n + 1}}}']" for n in range(45)) + "}", "v45"),
    ],
    ids=["aliases", "lists", "texts", "maps", "brackets", "dashes", "wide", "chain", "failing-tree"],
)
def test_attacks_are_refused_quickly(written: Write, text: str, words: str) -> None:
    path = written(text)
    began = time.monotonic()
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)
    assert time.monotonic() - began < 20


def test_ten_megabytes_are_refused_before_they_are_parsed(written: Write) -> None:
    path = written("a: 1\n" * 2_000_000)
    began = time.monotonic()
    with pytest.raises(RecipeError, match="10,000,000 bytes, expected a recipe of at most 1,000,000"):
        load_recipe(path)
    assert time.monotonic() - began < 1
    assert MAX_BYTES == 1_000_000


def test_text_that_is_not_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: x\ndescription: caf\xe9\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2:17: found the byte 0xe9"):
        load_recipe(path)


def test_a_byte_order_mark_is_no_mistake(written: Write, good: str) -> None:
    assert load_recipe(written("\ufeff" + good)).name == "good"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("absent.yaml", "does not exist"), ("", "is a folder"), ("pipe", "not a regular file")):
        with pytest.raises(RecipeError, match=words):
            load_recipe(tmp_path / name)


def refused(read: Callable[[], object]) -> tuple[Diagnostic, ...]:
    """The problems that reading ends with, if any; other errors pass."""
    try:
        read()
    except RecipeError as error:
        return error.diagnostics
    return ()


@given(st.text(alphabet=st.sampled_from(list("abn: \n-[]{},&*!|>'\"#%@?~<.01${}")), max_size=80) | st.text(max_size=80))
@example("? ")
@example("%YAML 1.1\n---\na")
@example("a: !!binary x")
@example("\ud800".encode("utf-8", "replace").decode())
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_value_or_a_recipe_error(text: str) -> None:
    spots = [diagnostic.location for diagnostic in refused(lambda: parse_yaml(text, "f"))]
    assert all(spot.line > 0 and spot.column > 0 for spot in spots)


PIECES = [
    "nodes",
    "ties",
    "op",
    "load",
    "{",
    "}",
    "[",
    "]",
    ":",
    "null",
    "0.5",
    "-1",
    "updates",
    "${zoo}",
    "${",
    "{task}",
    "'",
    " ",
    "\n",
]


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_damaged_recipe_is_read_or_refused(edits: list[tuple[int, int, str]]) -> None:
    text = GOOD.read_text(encoding="utf-8")
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        assert all(diagnostic.message for diagnostic in refused(lambda: build_graph(load_recipe(path))))


PLAIN = st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.sampled_from(
    ["updates", "base", "op", "task", "digits", "experts[digits]", "{task}", "${zoo}", "auto", "..", ""]
)
ANY = st.recursive(PLAIN | NAMES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))


@given(st.integers(0, 10**6), ANY)
@settings(max_examples=600, deadline=None)
def test_any_value_anywhere_is_read_or_refused(where: int, value: object) -> None:
    data, source_map = parse_yaml(GOOD.read_text(encoding="utf-8"), "f")
    paths = sorted(source_map.values, key=repr)[1:]
    damaged = replaced(data, paths[where % len(paths)], value)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(damaged), encoding="utf-8")
        assert all(diagnostic.message for diagnostic in refused(lambda: said(load_recipe(path))))


def said(recipe: Recipe) -> None:
    """Asks for every text that a recipe has; an empty one is a mistake of ours."""
    graph = build_graph(recipe)
    for text in (svg(graph), mermaid(graph), recipe.canonical(), recipe.resolved()):
        if not text:
            raise ValueError("an empty text")

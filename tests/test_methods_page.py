"""``docs/methods.md`` has an entry for each op: its source, its parameters, and the cost that the planner tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from method_costs import cost, write_inputs

from lines_pipeline.ops import registry

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
NAMES = list(registry())


def entries() -> Mapping[str, str]:
    """The text of each entry, by op."""
    parts = re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {match[1]: part for part in parts if (match := re.match(r"`([a-z-]+)`\n", part))}


def told(entry: str, field: str) -> str:
    """What an entry says under ``field``, on one line."""
    match = re.search(rf"^- \*\*{field}\.\*\* (.*?)\n(?=- |\n|\Z)", entry, flags=re.MULTILINE | re.DOTALL)
    assert match, f"the entry has no '{field}'"
    return " ".join(match[1].split())


def test_every_op_has_an_entry() -> None:
    assert set(NAMES) - entries().keys() == set()


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_says_what_it_computes_when_to_take_it_and_what_to_mind(name: str) -> None:
    entry = entries()[name]
    _, computes, *_ = entry.split("\n\n")
    assert computes.strip() and not computes.startswith("-")
    assert told(entry, "When") and told(entry, "Mind")
    missing = [field for field in registry()[name].Params.model_fields if f"`{field}" not in entry]
    assert missing == [], "parameters that the entry does not name"


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_names_the_papers_and_files_of_the_source(name: str) -> None:
    source = registry()[name].source
    expected = re.findall(r"\d{4}\.\d{5}|[\w-]+\.py\b", source)
    assert [name_expected for name_expected in expected if name_expected not in told(entries()[name], "Source")] == []


def test_costs_are_those_that_the_planner_tells(toy: Path, request: pytest.FixtureRequest) -> None:
    write_inputs(toy)
    text = PAGE.read_text(encoding="utf-8")
    costs = {name: cost(name, toy) for name in NAMES}
    if request.config.getoption("--rewrite-plans"):
        for name, entry in entries().items():
            new = re.sub(r"^(- \*\*Cost\.\*\*) .*$", rf"\1 {costs.get(name, '?')}", entry, flags=re.MULTILINE)
            text = text.replace(entry, new)
        PAGE.write_text(text, encoding="utf-8")
    assert {name: told(entries()[name], "Cost") for name in NAMES} == costs

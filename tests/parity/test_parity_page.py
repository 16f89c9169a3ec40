"""The page on parity tells of every golden case what it is compared with, and of every op where it differs."""

from __future__ import annotations

import inspect

from parity.parity_page import MARK, PAGE, cases, differences_of, tables

from lines_pipeline.ops import registry

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_cases() -> None:
    _, _, written = TEXT.partition(MARK)
    assert written == tables(differences_of(written)), "PYTHONPATH=tests python tests/parity/parity_page.py writes them"


def test_every_case_has_a_difference_that_was_found_or_awaits_its_op() -> None:
    differences = differences_of(TEXT)
    by_name = {case.id: float(differences[case.id] or "nan") >= 0 for case in cases()}
    assert by_name == {case.id: bool(case.ops) for case in cases()}


def test_the_number_of_cases_is_told() -> None:
    awaiting = [case for case in cases() if not case.ops]
    assert f"There are {len(cases())} cases, and all pass." in TEXT and awaiting == []


def test_every_op_that_says_it_differs_is_on_the_page() -> None:
    page, _, _ = TEXT.partition(MARK)
    differing = [name for name, op in registry().items() if "Differs from the source" in (inspect.getdoc(op) or "")]
    assert differing and [name for name in differing if f"`{name}`" not in page] == []

"""How often a command reads the recipe's file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TIES_LINES

COUNTING = """
import sys
recipe, *words = sys.argv[1:]
opened = []

def note(event, args):
    if event == "open" and str(args[0]) == recipe and args[1] is not None:  # without a mode: the opener's own call
        opened.append(args)

sys.addaudithook(note)
sys.argv = ["lines-pipeline", *words]
from lines_pipeline.cli.app import main
try:
    main()
finally:
    print(f"opened {len(opened)} times", file=sys.stderr)
"""
"""Runs a command as its own process does, and counts how often it opens the recipe."""


@pytest.mark.parametrize("words", [["run"], ["run", "--no-tracking"], ["plan"], ["validate"], ["graph"]])
def test_a_command_reads_the_recipe_once(
    words: list[str], shared_store: str, write_recipe: Callable[..., Path]
) -> None:
    recipe = str(write_recipe(TIES_LINES))
    line = [sys.executable, "-c", COUNTING, recipe, words[0], recipe, *words[1:]]
    completed = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    assert completed.stderr.splitlines()[-1] == "opened 1 times"

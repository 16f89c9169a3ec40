"""Odd recipes, suites and ``--set`` values: whatever they hold, only the package's own errors come out.

Inputs are drawn from a seed; ``LINES_FUZZ_SCALE`` multiplies how many. A failure names its number: set
``LINES_FUZZ_ONLY`` to it to try that input alone.
"""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_suite import above, write_model, write_suite

import lines_pipeline
from lines_pipeline.core.errors import LinesError
from lines_pipeline.core.trust import trust
from lines_pipeline.recipe.syntax.overrides import parse_set

SCALE = int(os.environ.get("LINES_FUZZ_SCALE", "1"))
ONLY = os.environ.get("LINES_FUZZ_ONLY")
BATCH = 100
MAX_SECONDS = 20
"""For one input."""

RECIPE = """\
name: fuzzed
description: words
seed: 3
vars: {zoo: zoo://glyphs, names: [a, b], density: 0.2, root: "${env:LINES_FUZZ}"}
nodes:
  base: {op: load, path: a.safetensors, prefix: {strip: "", add: ""}, rename: [{from: "x(\\\\d+)", to: "y\\\\1"}]}
  experts: {op: load, path: "{task}.safetensors", for_each: {task: "${names}"}}
  updates: {op: task-vector, base: base, model: experts}
  merged: {op: ties, deltas: updates, density: "${density}", weights: {a: 1.0, b: 0.5}}
  scaled: {op: lines-scale, delta: merged, alpha: auto, deltas: updates, beta: 0.5, blocks: auto}
  swept: {op: scale, delta: updates, by: "{gamma}", for_each: {gamma: {low: 0, high: 1, step: 0.5}}}
  model: {op: apply, base: base, delta: scaled, scale: 1.0}
  mixed: {op: interpolate, models: [base, "experts[a]"], t: 0.5}
  val: {op: evaluate, model: model, suite: suite.yaml, split: val, tasks: [rise], target: rise}
  saved: {op: save, model: model, path: "out/model.safetensors", dtype: keep, max_shard_size: 5GB}
tune:
  parameters: {scaled.beta: {low: 0.1, high: 0.5, step: 0.1}, merged.density: {values: [0.1, 0.2]}}
  objective: 2 * val.mean_accuracy + val.accuracy/rise
  sampler: grid
engine: {scheduler: threads, workers: 2, memory: 4GB, device: cpu}
tracking: {experiment: fuzz, tags: {team: vision}}
"""
GOOD = yaml.safe_load(RECIPE)

TEXTS = [
    "", " ", "~", "null", "true", "no", "0", "-1", "1e400", ".nan", "-.inf", "9" * 41, "9" * 5_000, "0x" + "f" * 60,
    "1e-400", "1_000", "007", "1.10", "12:30", "2024-01-01", "a" * 3_000, "é" * 300, "\x1b[2J", "a\x00b", "a\tb",
    "\u202eabc", "\ud800", "\U0001f600", "\ufeff", "\u2028", "%s%n{}", "{", "}", "{task}", "{{task}}", "{0}", "${",
    "${}", "${x}", "${names}", "${vars}", "${names.0}", "${names.99}", "${env:LINES_FUZZ}", "${env:}", "${env:PATH}",
    "$${", "${${zoo}}", "base", "experts[a]", "experts[", "experts[zz]", "a[b[c]]", "(", "(a+)+$", "[", "\\", "*",
    "**", "[!", "../x", "/", "/dev/zero", "/dev/stdin", ".", "..", "~nobody/x", "zoo://", "zoo://x", "hf://",
    "hf://a/b/c", "https://", "s3://b", "ftp://x", "file:///etc/passwd", "tcp://h:1", "os:system", "a:b",
    "open_clip:x", "transformers:x", "x.py:y", "toy_encoder:build", "ties", "TIES", "load", "slerp", "auto", "keep",
    "val", "threads", "4GB", "1e9", "-5 MB", "cuda:99999", "val.mean_accuracy", "val.", "9**9**9", "(" * 3_000,
    "-" * 3_000 + "1", "lambda: 0",
]  # fmt: skip

SNIPPETS = [
    "&a [*a]", "*x", "!!python/name:os.system", "!x", "<<: *a", "? [a]\n: b", "{a: b, a: c}", "- ", "---\n", "...\n",
    "%YAML 9.9\n", "\t", "[[[[[[", "}" * 9, "|\n  x", ">-\n", "'", '"', '"\\ud800"', '"\\x00"', '"\\u202e"', "#",
    ": :", "@", "`", "\r", "\x85", "\x00", "&a [x,x,x,x,x,x,x,x,x]", "&b [*a,*a,*a,*a,*a,*a,*a,*a,*a]",
    "&c [*b,*b,*b,*b,*b,*b,*b,*b,*b]", "[" * 60 + "]" * 60,
]  # fmt: skip


def odd_value(chance: random.Random, depth: int = 0) -> Any:
    """A value of any kind."""
    kind = chance.randrange(12 if depth < 3 else 8)
    if kind < 5:
        return chance.choice(TEXTS)
    if kind < 8:
        return chance.choice([None, True, False, 0, -1, 3, 0.5, 1e308, 2**63, 10**30, 5e-324, -0.0])
    if kind < 10:
        return [odd_value(chance, depth + 1) for _ in range(chance.choice([0, 1, 2, 3, 40]))]
    return {chance.choice(TEXTS)[:2_000]: odd_value(chance, depth + 1) for _ in range(chance.randrange(4))}


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside."""
    values = [path] if path else []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return values + [inner_path for key, part in inside for inner_path in paths_of(part, (*path, key))]


def changed(document: Any, chance: random.Random) -> Any:
    """The document with some values, keys or entries replaced, moved, doubled or taken out."""
    for _ in range(chance.choice([1, 1, 2, 4])):
        paths = paths_of(document)
        if not paths:
            return odd_value(chance)
        *way, last = chance.choice(paths)
        holder = document
        for part in way:
            holder = holder[part]
        act = chance.randrange(6)
        if act < 3:
            holder[last] = odd_value(chance)
        elif act == 3:
            del holder[last]
        elif isinstance(holder, dict):
            holder[chance.choice(TEXTS)[:2_000]] = holder[last] if act == 4 else odd_value(chance)
        else:
            holder.append(odd_value(chance))
    return document


def as_yaml(document: Any, chance: random.Random) -> bytes:
    """The document as a file's bytes, sometimes cut, spliced or with bytes that are no text."""
    text = json.dumps(document, ensure_ascii=False)  # which is YAML too, and made in no time
    if chance.random() < 0.1:
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=10**6)
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(SNIPPETS) + text[at + chance.choice([0, 0, 1, 30]) :]
    raw = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        at = chance.randrange(len(raw) + 1)
        raw = raw[:at] + bytes(chance.randrange(256) for _ in range(3)) + raw[at:]
    return raw


def odd_sets(chance: random.Random) -> list[str]:
    """Values for ``--set``."""
    paths = [".".join(map(str, path)) for path in paths_of(GOOD)]
    values = []
    for _ in range(chance.choice([0, 0, 1, 3])):
        path = chance.choice(
            [*paths, "", "a", "nodes", "vars.x", "nodes.new.op", "extends", "tune.parameters.merged.density"]
        )
        value = chance.choice([*TEXTS, *SNIPPETS, "[a, b]", "{a: 1}"])
        values.append(f"{path}{chance.choice(['=', '=', '=', '', '.x=', '.0='])}{value}")
    return values


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Models, a suite and its encoder, which the inputs change."""
    folder = tmp_path / "fuzz"
    folder.mkdir()
    for name, weight in (("a", 0.5), ("b", 0.25)):
        write_model(folder / f"{name}.safetensors", weight, weight)
    write_suite(folder, {"rise": {"val": above(0.25, 0.75)}}, blocks=2)
    (folder / "toy_encoder.py").write_text("def build(blocks=1): raise SystemError('imported')\n")
    return folder


@pytest.mark.parametrize("batch", range(10 * SCALE))
def test_only_the_packages_own_errors_come_out(batch: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES_FUZZ", "folder")
    monkeypatch.chdir(place)
    suite = yaml.safe_load((place / "suite.yaml").read_text())
    for number in range(batch * BATCH, (batch + 1) * BATCH) if ONLY is None else [int(ONLY)]:
        chance = random.Random(number)
        broken = chance.randrange(4)
        recipe = copy.deepcopy(GOOD)
        content = changed(recipe, chance) if broken != 1 else recipe
        (place / "fuzzed.yaml").write_bytes(as_yaml(content, chance) if broken != 1 else RECIPE.encode())
        odd_suite = as_yaml(changed(copy.deepcopy(suite), chance), chance)
        (place / "suite.yaml").write_bytes(odd_suite if broken == 1 else json.dumps(suite).encode())
        tried(number, place / "fuzzed.yaml", odd_sets(chance) if broken == 2 else [])


def tried(number: int, recipe: Path, sets: list[str]) -> None:
    """Validate and plan the recipe; anything but the package's own errors is a failure that names the input."""
    before = time.perf_counter()
    check: Callable[..., object]
    for check in (lines_pipeline.validate, lines_pipeline.plan):
        try:
            check(recipe, sets=dict(map(parse_set, sets)))
        except LinesError as error:
            assert error.exit_code == 2, f"input {number}: {error!r}"
            assert all(character.isprintable() or character == "\n" for character in str(error)), (
                f"input {number}: {str(error)!r}"
            )
            if number % 4:  # the plan would say the same
                break
        except Exception as error:
            raise AssertionError(f"input {number}: {type(error).__name__}: {error}\n{sets}") from error
    assert time.perf_counter() - before < MAX_SECONDS, f"input {number} took too long"


def test_the_input_that_is_changed_is_right(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES_FUZZ", "folder")
    trust(place)
    (place / "fuzzed.yaml").write_text(RECIPE)
    assert lines_pipeline.validate(place / "fuzzed.yaml").name == "fuzzed"

"""Experts are built whole or not at all, alike wherever they are built, and know their task."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

import lines_pipeline
from lines_pipeline import api
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.events import Event, Note, ZooProgress
from lines_pipeline.io.write_once import written_once
from lines_pipeline.suites.glyphs import GlyphSuite
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import locate
from lines_pipeline.zoo.glyphs.bases import base_file
from lines_pipeline.zoo.glyphs.families import FAMILIES

LETTERS = "zoo://glyphs/quarter-latin"
PRETRAINED, STEPS = base_file(0), FAMILIES["glyphs"].steps
BUILD_LETTERS = f"from lines_pipeline.zoo.build import build; build([{LETTERS!r}], lambda p: print(p.done, flush=True))"


def builder() -> subprocess.Popen[str]:
    """Another process that builds the same expert; prints its progress."""
    return subprocess.Popen([sys.executable, "-c", BUILD_LETTERS], stdout=subprocess.PIPE, text=True)


def flip(path: Path) -> None:
    """Change one bit of a file."""
    content, generator = bytearray(path.read_bytes()), random.Random(0)
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def put(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def accuracies(path: Path, tasks: list[str]) -> dict[str, float]:
    """Shares of right answers on validation images."""
    scores = GlyphSuite().evaluate(load_file(path), tasks, "val")
    return {task: figures["accuracy"] for task, figures in scores.values.items()}


@pytest.mark.slow
def test_an_expert_is_alike_whoever_builds_it_and_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with builder() as one, builder() as other:
        one.communicate(timeout=300)
        other.communicate(timeout=300)
        assert one.returncode == other.returncode == 0
    first = locate(LETTERS).path
    assert sorted(path.name for path in first.parent.iterdir()) == ["quarter-latin.json", "quarter-latin.safetensors"]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    seen: list[Event] = []
    paths = build([LETTERS, "zoo://glyphs/pretrained", LETTERS], seen.append)
    assert paths == [locate(LETTERS).path, PRETRAINED, locate(LETTERS).path]
    assert paths[0] != first and paths[0].read_bytes() == first.read_bytes()
    assert seen[-1] == ZooProgress(STEPS, STEPS, LETTERS)

    tasks = ["quarter-latin", "manner-latin", "sound-european", "script"]
    before, after = (accuracies(path, tasks) for path in (PRETRAINED, first))
    assert after["quarter-latin"] > 0.85 > 0.8 > before["quarter-latin"]
    assert sum(after[task] for task in tasks[1:]) < 0.95 * sum(before[task] for task in tasks[1:])


@pytest.mark.slow
def test_an_interrupted_build_leaves_nothing() -> None:
    with builder() as building:
        assert building.stdout is not None and building.stdout.readline()
        building.send_signal(signal.SIGINT)
        assert building.wait(60) != 0
    folder = locate(LETTERS).path.parent
    assert not folder.exists() or not list(folder.iterdir())


def test_what_is_built_is_not_built_again(tmp_path: Path) -> None:
    for task in ("quarter-latin", "script"):
        path = locate(f"zoo://glyphs/{task}").path
        assert path.is_relative_to(tmp_path)
        written_once(path, partial(put, b"there"), what="an expert")
    seen: list[Event] = []
    assert [path.read_bytes() for path in build([LETTERS, "zoo://glyphs/script"], seen.append)] == [b"there"] * 2
    assert seen == []


@pytest.mark.slow
@pytest.mark.thorough
def test_an_expert_that_is_not_as_it_was_built_is_built_again() -> None:
    """One that an earlier version built without a digest, and one in which a bit flipped."""
    path, seen = locate(LETTERS).path, list[Event]()
    path.parent.mkdir(parents=True)
    path.write_bytes(PRETRAINED.read_bytes())
    assert not locate(LETTERS).built
    build([LETTERS], seen.append)
    expected = path.read_bytes()
    assert expected != PRETRAINED.read_bytes()
    flip(path)
    build([LETTERS], seen.append)
    assert path.read_bytes() == expected
    build([LETTERS], seen.append)
    notes = [event.text for event in seen if isinstance(event, Note)]
    assert len(notes) == 2 and all("quarter-latin.safetensors does not have the digest" in note for note in notes)


def test_a_damaged_expert_is_told_by_what_builds_nothing(tmp_path: Path) -> None:
    path = written_once(locate(LETTERS).path, partial(put, PRETRAINED.read_bytes()), what="an expert")
    recipe = tmp_path / "recipe.yaml"
    nodes = "{saved: {op: save, model: e, path: m.safetensors}, e: {op: load, path: 'zoo://glyphs/quarter-latin'}}"
    recipe.write_text(f"name: tested\nnodes: {nodes}\n")
    assert lines_pipeline.validate(recipe).notes == ()
    flip(path)
    assert lines_pipeline.validate(recipe).notes == (f"{LETTERS}: damaged, the first run builds it",)
    assert api.inspect(LETTERS)["digest"] == api.inspect("zoo://glyphs/pretrained")["digest"]


def test_an_unknown_expert_is_refused_before_anything_is_built() -> None:
    with pytest.raises(CheckpointError, match="did you mean 'quarter-latin'"):
        build([LETTERS, "zoo://glyphs/quarter-latn"])
    assert not locate(LETTERS).path.parent.exists()


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(CheckpointError, match="could not be built"):
        build([LETTERS])

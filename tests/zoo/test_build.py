"""Experts are built whole or not at all, alike wherever they are built, and know their task."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.core.events import ZooProgress
from lines_pipeline.zoo.accuracy import accuracies
from lines_pipeline.zoo.build import build
from lines_pipeline.zoo.catalogue import PRETRAINED, locate
from lines_pipeline.zoo.training import FINE_TUNING

DIGITS = "zoo://glyphs/digits"
BUILD_DIGITS = f"from lines_pipeline.zoo.build import build; build([{DIGITS!r}], lambda p: print(p.done, flush=True))"


def builder() -> subprocess.Popen[str]:
    """Another process that builds the same expert; prints its progress."""
    return subprocess.Popen([sys.executable, "-c", BUILD_DIGITS], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_an_expert_is_alike_whoever_builds_it_and_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [builder(), builder()]
    assert [other.wait(300) for other in others] == [0, 0]
    first = locate(DIGITS).path
    assert [path.name for path in first.parent.iterdir()] == ["digits.safetensors"]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    seen: list[ZooProgress] = []
    paths = build([DIGITS, "zoo://glyphs/pretrained", DIGITS], seen.append)
    assert paths == [locate(DIGITS).path, PRETRAINED, locate(DIGITS).path]
    assert paths[0] != first and paths[0].read_bytes() == first.read_bytes()
    assert seen[-1] == ZooProgress(FINE_TUNING.steps, FINE_TUNING.steps, DIGITS)

    tasks = ["digits", "greek", "arrows", "symbols"]
    before, after = (accuracies(load_file(path), tasks, "val") for path in (PRETRAINED, first))
    assert after["digits"] > 0.85 > 0.7 > before["digits"]
    assert sum(after[task] for task in tasks[1:]) < 0.9 * sum(before[task] for task in tasks[1:])


@pytest.mark.slow
def test_an_interrupted_build_leaves_nothing() -> None:
    building = builder()
    assert building.stdout is not None and building.stdout.readline()
    building.send_signal(signal.SIGINT)
    assert building.wait(60) != 0
    folder = locate(DIGITS).path.parent
    assert not folder.exists() or not list(folder.iterdir())


def test_what_is_built_is_not_built_again(tmp_path: Path) -> None:
    for task in ("digits", "greek"):
        path = locate(f"zoo://glyphs/{task}").path
        assert path.is_relative_to(tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"there")
    seen: list[ZooProgress] = []
    assert [path.read_bytes() for path in build([DIGITS, "zoo://glyphs/greek"], seen.append)] == [b"there"] * 2
    assert seen == []


def test_an_unknown_expert_is_refused_before_anything_is_built() -> None:
    with pytest.raises(CheckpointError, match="did you mean 'digits'"):
        build([DIGITS, "zoo://glyphs/digit"])
    assert not locate(DIGITS).path.parent.exists()


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(CheckpointError, match="could not be built"):
        build([DIGITS])

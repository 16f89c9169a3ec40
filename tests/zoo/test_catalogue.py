"""The zoo's names lead to files without building anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.zoo.catalogue import locate
from lines_pipeline.zoo.glyph_tasks import TASKS


def test_the_pretrained_model_comes_with_the_package() -> None:
    entry = locate("zoo://glyphs/pretrained")
    assert entry.built and entry.path.is_file() and entry.path == entry.template


def test_an_expert_lies_in_the_cache_folder_and_is_not_built_by_looking(tmp_path: Path) -> None:
    entry = locate("zoo://glyphs/greek")
    assert entry.path.is_relative_to(tmp_path / "cache" / "lines-pipeline" / "zoo")
    assert not entry.built
    assert entry.template == locate("zoo://glyphs/pretrained").path
    assert not (tmp_path / "cache").exists()


def test_seeds_are_kept_apart_and_the_first_is_the_default() -> None:
    assert locate("zoo://glyphs@seed0/greek").path == locate("zoo://glyphs/greek").path
    assert len({locate(f"zoo://glyphs@seed{seed}/{task}").path for seed in range(3) for task in TASKS}) == 60


def test_there_are_twenty_tasks() -> None:
    assert len(TASKS) == 20


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("zoo://glyphs/greeek", "did you mean 'greek'"),
        ("zoo://glyphs/greeek", "geometric-shapes"),
        ("zoo://glyphs", "the zoo has no ''"),
        ("zoo://birds/greek", "expected zoo://<zoo>"),
        ("zoo://glyphs@first/greek", "expected a choice such as zoo://glyphs@seed1, got '@first'"),
        ("zoo://glyphs/../../etc/passwd", "the zoo has no"),
    ],
)
def test_an_unknown_name_is_refused(uri: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        locate(uri)
    assert uri in str(caught.value) and message in str(caught.value)


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, lines_pipeline.zoo.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

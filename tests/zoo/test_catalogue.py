"""The zoo's names lead to files without building anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.zoo.catalogue import ZOOS, locate
from lines_pipeline.zoo.glyphs.families import FAMILIES, ZOO_VERSION


def test_the_pretrained_model_comes_with_the_package() -> None:
    entry = locate("zoo://glyphs/pretrained")
    assert entry.built and entry.path.is_file() and entry.path == entry.template


def test_an_expert_lies_in_the_cache_folder_and_is_not_built_by_looking(tmp_path: Path) -> None:
    entry = locate("zoo://glyphs/script")
    assert entry.path.is_relative_to(tmp_path / "cache" / "lines-pipeline" / "zoo")
    assert not entry.built
    assert entry.template == locate("zoo://glyphs/pretrained").path
    assert not (tmp_path / "cache").exists()


def test_seeds_are_kept_apart_and_the_first_is_the_default() -> None:
    assert locate("zoo://glyphs@seed0/script").path == locate("zoo://glyphs/script").path
    assert locate("zoo://glyphs@base0-seed0/script").path == locate("zoo://glyphs/script").path
    choices = [f"{zoo}@base{base}-seed{seed}" for zoo in FAMILIES for base in range(3) for seed in range(2)]
    paths = {locate(f"zoo://{choice}/pretrained").path for choice in choices}
    assert len(paths) == 3 and {path.name for path in paths} == {f"base{base}.safetensors" for base in range(3)}
    assert len({locate(f"zoo://{choice}/{ZOOS[choice.split('@')[0]].names[1]}").path for choice in choices}) == 36


def test_two_families_have_twenty_tasks_and_others_are_tuned_for_those_of_one() -> None:
    assert [len(FAMILIES[name].tasks) for name in ("glyphs", "glyphs-domains")] == [20, 20]
    assert all(task in FAMILIES[one.data].tasks for one in FAMILIES.values() for task in one.experts.values())
    assert len(FAMILIES["glyphs-soup"].experts) == 10


def test_experts_of_another_version_are_not_taken() -> None:
    folders = [family.folder(0, 0).name for family in FAMILIES.values()]
    assert all(f"-v{ZOO_VERSION}-" in name for name in folders) and len(set(folders)) == len(folders)


def test_a_task_without_an_expert_of_its_own_is_normalized_by_that_of_the_tasks_family() -> None:
    assert FAMILIES["glyphs-soup"].own_expert("manner-cyrillic", "@base1-seed2") == (
        "zoo://glyphs@base1-seed2/manner-cyrillic"
    )
    assert FAMILIES["glyphs-pulled"].own_expert("script", "@base0-seed0") == "zoo://glyphs-pulled@base0-seed0/script"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("zoo://glyphs/scrip", "did you mean 'script'"),
        ("zoo://glyphs/scrip", "manner-armenian"),
        ("zoo://glyphs", "the zoo has no ''"),
        ("zoo://birds/script", "expected zoo://<zoo>"),
        (
            "zoo://glyphs@first/script",
            "expected a choice such as zoo://glyphs@base1 or zoo://glyphs@seed1, got '@first'",
        ),
        ("zoo://glyphs@base3/script", "there is no 'base3', expected one of base0, base1, base2"),
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

"""The commit of a record is that of the recipe's repository, and says where it does not tell what ran."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lines_pipeline.tracking.repository import commit_tags


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A committed recipe, and one that it extends; the working directory lies in another repository."""
    folder = tmp_path / "repo" / "recipes"
    folder.mkdir(parents=True)
    for name in ("recipe.yaml", "base.yaml"):
        (folder / name).write_text("name: a\n")
    for place in (tmp_path, tmp_path / "repo"):
        git(place, "init", "-q")
    git(tmp_path, "commit", "-qm", "other", "--allow-empty")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder / "recipe.yaml"


def test_the_commit_is_that_of_the_recipes_repository(recipe: Path) -> None:
    base = recipe.with_name("base.yaml")
    assert commit_tags([recipe, base]) == {"mlflow.source.git.commit": git(recipe.parent, "rev-parse", "HEAD")}


@pytest.mark.parametrize("what", ["changed", "untracked", "base untracked", "base elsewhere", "ignored", "staged"])
def test_a_commit_that_does_not_tell_what_ran_is_dirty(what: str, recipe: Path, tmp_path: Path) -> None:
    files = [recipe, recipe.with_name("base.yaml")]
    if what == "changed":
        recipe.write_text("name: b\n")
    elif what == "base elsewhere":
        files[1] = tmp_path / "base.yaml"
        files[1].write_text("name: a\n")
    else:
        new = recipe.with_name("new.yaml")
        new.write_text("name: a\n")
        files[1 if what.startswith("base") else 0] = new
        if what == "ignored":
            (tmp_path / "repo" / ".git" / "info" / "exclude").write_text("new.yaml\n")
        if what == "staged":
            git(recipe.parent, "add", "new.yaml")
    assert commit_tags(files)["git.dirty"] == "true"


def test_a_recipe_in_no_repository_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_tags([tmp_path / "recipe.yaml"]) == {} == commit_tags([])


def test_a_strangers_repository_runs_no_program(recipe: Path, tmp_path: Path) -> None:
    for key in ("core.fsmonitor", "filter.x.clean", "filter.x.process"):
        git(recipe.parent, "config", key, f"touch {tmp_path}/ran; cat")
    (recipe.parent / ".gitattributes").write_text("* filter=x\n")
    recipe.write_text("name: c\n")
    assert commit_tags([recipe])["git.dirty"] == "true"
    assert not (tmp_path / "ran").exists()

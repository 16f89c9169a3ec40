"""Finds the commit of the repository that a recipe lies in, and whether the files that ran differ from it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

_SECONDS = 10
_HARMLESS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""Settings with which git runs no programs that a repository's configuration names: recipes come from anywhere."""


def commit_tags(files: Sequence[Path]) -> dict[str, str]:
    """Return the commit of the repository of ``files[0]``; nothing where it is in none.

    ``git.dirty`` says that the run cannot be told from the commit: something in the repository is changed, or one of
    the files (the recipe, what it extends) is not in it.
    """
    if not files:
        return {}
    files = [file.resolve() for file in files]
    folder = files[0].parent
    try:
        commit, top = _git(folder, "rev-parse", "HEAD", "--show-toplevel").splitlines()
        clean = _all_tracked(Path(top), files) and not _changes(Path(top))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": commit} | ({} if clean else {"git.dirty": "true"})


def _all_tracked(top: Path, files: Sequence[Path]) -> bool:
    if not all(file.is_relative_to(top) for file in files):
        return False
    names = [f":(top,literal){file.relative_to(top).as_posix()}" for file in files]
    return len(_git(top, "ls-files", "-z", "--", *names).split("\0")) > len(set(names))


def _changes(top: Path) -> str:
    """Return what differs from the commit. The repository's filters are not run: what they would change shows."""
    filters = _git(top, "config", "--local", "--includes", "--name-only", "--list").splitlines()
    settings = [word for name in filters if name.startswith("filter.") for word in ("-c", f"{name}=")]
    return _git(top, *settings, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")


def _git(folder: Path, *words: str) -> str:
    command = subprocess.run(
        ["git", "-C", str(folder), *_HARMLESS, *words],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
        stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name not in _ELSEWHERE} | {"GIT_OPTIONAL_LOCKS": "0"},
    )
    return command.stdout


_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Variables that point to another repository, as in hooks of git."""

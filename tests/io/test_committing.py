"""Whoever dies while files get their names leaves the old checkpoint, none, or the new one: never a mixture."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lines_pipeline.core.errors import LinesError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.io.committing import commit_files, commit_folder
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import read_tensors
from lines_pipeline.io.writing import OutputLayout, create_files, discard_files, lay_out_files, write_block

NAMES = ("a", "b", "c", "d")
SPECS = [TensorSpec(name, "float32", (8,)) for name in NAMES]
METADATA = {"format": "pt", "recipe_hash": "0"}
LIMITS = {"single": None, "two": 64, "four": 32}
"""Bytes of a shard: four tensors of 32 bytes go to one file, two or four."""


class Killed(BaseException):
    """In place of a signal: nothing catches it, and clearing up is not waited for."""


def prepared(path: Path, value: float, form: str) -> OutputLayout:
    """A checkpoint in which every entry has one value, complete but for headers and names."""
    layout = lay_out_files(path, SPECS, metadata_bytes=200, max_shard_bytes=LIMITS[form])
    create_files(layout)
    for file in layout.files:
        descriptor = os.open(file.temporary, os.O_WRONLY)
        for offset in file.offsets().values():
            write_block(str(file.temporary), descriptor, offset, torch.full((8,), value))
        os.close(descriptor)
    return layout


def put(folder: Path, value: float, form: str, stem: str = "model") -> None:
    layout = prepared(folder / f"{stem}.safetensors", value, form)
    commit_files(layout, METADATA)


def put_folder(folder: Path, value: float, form: str, extra: str = "vocab.txt") -> None:
    layout = prepared(folder / "model.safetensors", value, form)
    commit_folder(layout, METADATA, folder, {"config.json": str(value).encode(), extra: str(value).encode()})


@contextmanager
def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Dies before the nth renaming or removal."""
    steps: list[str] = []

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def do(path: Any, *rest: Any, **more: Any) -> Any:
            if ".tmp" not in str(path) or rest:
                steps.append(f"{act.__name__} {path}")
                if len(steps) == number:
                    raise Killed
            if len(steps) >= number:
                return None  # dead processes clear nothing up
            return act(path, *rest, **more)

        return do

    with monkeypatch.context() as patched:
        for name in ("replace", "unlink", "rename"):
            patched.setattr(os, name, dying(getattr(os, name)))
        with suppress(Killed):
            yield steps


def as_transformers(folder: Path) -> dict[str, float] | None:
    """What transformers would load from a folder: the single file, else what the index names, else nothing."""
    if (folder / "model.safetensors").exists():
        state = load_file(folder / "model.safetensors")
    elif (folder / "model.safetensors.index.json").exists():
        shards = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        try:
            state = {name: load_file(folder / shard)[name] for name, shard in shards.items()}
        except FileNotFoundError:
            return None
    else:
        return None
    return {name: float(value[0]) for name, value in state.items()}


def as_we_do(folder: Path) -> dict[str, float] | None:
    try:
        state = read_tensors(open_checkpoint(folder))
    except LinesError:
        return None
    return {name: float(value.flatten()[0]) for name, value in state.items()}


def whole(written: dict[str, float] | None, folder: Path) -> set[float]:
    """The one run whose values were read, with its configuration; nothing where nothing can be read."""
    if written is None:
        return set()
    assert sorted(written) == list(NAMES), f"a part of a checkpoint was read: {written} of {sorted(os.listdir(folder))}"
    beside = {float(path.read_text()) for path in folder.iterdir() if path.name in ("config.json", "vocab.txt")}
    values = set(written.values()) | beside
    assert len(values) == 1, f"two runs were mixed: {written}, {beside} in {sorted(os.listdir(folder))}"
    return values


@pytest.mark.parametrize("write", [put, put_folder])
@pytest.mark.parametrize(("old", "new"), list(itertools.product(LIMITS, LIMITS)))
def test_at_every_moment_a_folder_holds_one_checkpoint_or_none(
    old: str, new: str, write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        write(folder, 1.0, old)
        with killed_at(number, monkeypatch) as steps:
            write(folder, 2.0, new)
        for read in (as_transformers, as_we_do):
            assert whole(read(folder), folder) <= {1.0, 2.0}
        write(folder, 3.0, new)
        assert whole(as_transformers(folder), folder) == whole(as_we_do(folder), folder) == {3.0}
        if len(steps) < number:
            break
    assert number > 1
    fresh = tmp_path / "fresh"
    write(fresh, 3.0, new)
    assert names(folder) == names(fresh)


def names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.endswith(".tmp"))


def test_files_of_others_stay(tmp_path: Path) -> None:
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    for shard in (*shards, "other.safetensors", "modelx-00001-of-00002.safetensors"):
        save_file({"a": torch.zeros(1)}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(shards, shards[0])}))
    before = names(tmp_path)
    put(tmp_path, 1.0, "single")
    assert names(tmp_path) == sorted([*before, "model.safetensors"])


def test_what_an_earlier_run_wrote_beside_the_weights_goes(tmp_path: Path) -> None:
    put_folder(tmp_path, 1.0, "two", "tokenizer/vocab.txt")
    (tmp_path / "notes.txt").write_text("mine")
    put_folder(tmp_path, 2.0, "single", "merges.txt")
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert paths == ["config.json", "lines_pipeline.json", "merges.txt", "model.safetensors", "notes.txt"]


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "link/outside.txt", "..", ""])
def test_a_list_of_files_does_not_reach_out_of_its_folder(name: str, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside.txt", tmp_path / "model"
    folder.mkdir()
    outside.touch()
    (folder / "link").symlink_to(tmp_path)
    (folder / "lines_pipeline.json").write_text(json.dumps({"files": [name, str(outside)]}))
    put_folder(folder, 1.0, "single")
    assert outside.exists() and (folder / "link").is_symlink()


def test_a_failed_copy_leaves_the_old_folder(tmp_path: Path) -> None:
    put_folder(tmp_path, 1.0, "single")
    before = names(tmp_path)
    layout = prepared(tmp_path / "model.safetensors", 2.0, "single")
    with pytest.raises(LinesError, match="cannot be written"):
        commit_folder(layout, METADATA, tmp_path, {"config.json": b"2.0", "vocab.txt": tmp_path / "missing.txt"})
    discard_files(layout)
    assert sorted(os.listdir(tmp_path)) == before and whole(as_we_do(tmp_path), tmp_path) == {1.0}

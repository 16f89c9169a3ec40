"""Uploads: every checkpoint is there as a whole, as it was before, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save_file

from lines_pipeline.core.errors import EngineError, PlanError
from lines_pipeline.io.object_stores import ObjectStore, is_url, open_store

INDEX, SHARDS = "big.safetensors.index.json", [f"big-0000{n}-of-00002.safetensors" for n in (1, 2)]
FILES = {"small.safetensors": "1", "nested/mask.safetensors": "2", INDEX: "3", **dict.fromkeys(SHARDS, "4")}


class Bucket(MemoryFileSystem):  # type: ignore[misc]
    """In memory, as object stores are: a file that fails on its way leaves what was there before."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.fails = ""
        self.seen: list[str] = []
        self.store: dict[str, Any] = {}
        self.pseudo_dirs = [""]

    def put_file(self, lpath: str, rpath: str, *arguments: Any, **options: Any) -> None:
        if self.fails and rpath.endswith(self.fails):
            raise OSError("no more room")
        self.seen.append(rpath.removeprefix("/bucket/run/"))
        super().put_file(lpath, rpath, *arguments, **options)

    def contents(self) -> dict[str, str]:
        """Text by name."""
        names = self.find("/bucket")
        return {name.removeprefix("/bucket/run/"): self.cat_file(name).decode() for name in names}


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a folder with two whole checkpoints and a sharded one, whose contents begin with a word."""

    def make(word: str) -> Path:
        for name, text in FILES.items():
            (tmp_path / word / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / word / name).write_text(word + text)
        return tmp_path / word

    return make


def test_an_index_comes_after_everything(folder: Callable[[str], Path]) -> None:
    bucket = Bucket()
    ObjectStore("s3://bucket/run", bucket, "/bucket/run").upload(folder("new"))
    assert bucket.seen[-1] == INDEX and sorted(bucket.seen) == sorted(FILES)
    assert bucket.contents() == {name: f"new{text}" for name, text in FILES.items()}


@pytest.mark.parametrize("failing", [*SHARDS, INDEX])
def test_shards_without_all_others_are_taken_away_and_the_rest_stays_whole(
    failing: str, folder: Callable[[str], Path]
) -> None:
    bucket = Bucket()
    store = ObjectStore("s3://bucket/run", bucket, "/bucket/run")
    store.upload(folder("old"))
    bucket.fails = failing
    with pytest.raises(EngineError, match=r"s3://bucket/run: cannot be written \(OSError: no more room\)"):
        store.upload(folder("new"))
    objects = bucket.contents()
    assert INDEX not in objects
    assert [text for name, text in objects.items() if name in SHARDS and text.startswith("new")] == []
    assert set(FILES) - {INDEX, *SHARDS} <= set(objects)


def test_what_is_a_url() -> None:
    assert is_url("s3://bucket/run") and is_url("memory://run")
    assert not is_url("runs/a") and not is_url(Path("runs/a")) and not is_url("file:///runs/a")


def test_an_unknown_kind_of_store_is_told_before_anything_runs() -> None:
    with pytest.raises(PlanError, match="--out nonsense://bucket/run: cannot be used"):
        open_store("nonsense://bucket/run")


def checkpoint(folder: Path, *shards: str, index: bool = True) -> Path:
    """A checkpoint as a run writes it: one file, or shards with an index."""
    folder.mkdir()
    for name in shards:
        save_file({name: torch.zeros(1)}, folder / name, {"recipe_hash": folder.name})
    if len(shards) > 1 and index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(shards)}))
    return folder


THREE = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
TWO = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
LAYOUTS = {"one": ["model.safetensors"], "two": TWO, "three": THREE}


@pytest.mark.parametrize("new", LAYOUTS)
@pytest.mark.parametrize("old", LAYOUTS)
def test_what_an_earlier_run_sent_under_the_same_name_goes(old: str, new: str, tmp_path: Path) -> None:
    bucket = Bucket()
    store = ObjectStore("s3://bucket/run", bucket, "/bucket/run")
    store.upload(checkpoint(tmp_path / "old", *LAYOUTS[old]))
    store.upload(checkpoint(tmp_path / "new", *LAYOUTS[new]))
    sent = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    names = [name.removeprefix("/bucket/run/") for name in bucket.find("/bucket")]
    assert {name: bucket.cat_file(f"/bucket/run/{name}") for name in names} == sent


def test_shards_that_no_run_wrote_stay(tmp_path: Path) -> None:
    bucket = Bucket()
    for name in THREE:
        bucket.pipe_file(f"/bucket/run/{name}", b"theirs")
    ObjectStore("s3://bucket/run", bucket, "/bucket/run").upload(checkpoint(tmp_path / "new", "model.safetensors"))
    assert sorted(bucket.find("/bucket")) == [f"/bucket/run/{name}" for name in (*THREE, "model.safetensors")]

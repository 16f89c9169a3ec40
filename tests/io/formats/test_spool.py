"""What is written out of torch files into the cache is checked before it is used, and made anew where it is damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import lines_pipeline
from lines_pipeline.cli.app import app
from lines_pipeline.core.errors import EngineError
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import read_tensors
from lines_pipeline.io.write_once import is_sound, written_once

VALUE = torch.arange(12.0).view(3, 4).T


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    torch.save({"turned": VALUE, "plain": torch.ones(2)}, tmp_path / "m.pt")
    return tmp_path / "m.pt"


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def test_only_what_needs_it_is_written_out(turned: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(turned, spool=tmp_path / "spool")
    assert checkpoint.tensors["plain"].path == str(turned)
    assert checkpoint.tensors["turned"].path == str(only_file(tmp_path / "spool"))
    assert set(load_file(only_file(tmp_path / "spool"))) == {"turned"}


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_noticed(seed: int, turned: Path, tmp_path: Path) -> None:
    open_checkpoint(turned, spool=tmp_path / "spool")
    path = only_file(tmp_path / "spool")
    content = bytearray(path.read_bytes())
    content[Random(seed).randrange(len(content))] ^= 1 << seed
    path.write_bytes(content)
    checkpoint = open_checkpoint(turned, spool=tmp_path / "spool")
    assert torch.equal(read_tensors(checkpoint)["turned"], VALUE)


def test_files_of_earlier_versions_and_lost_notes_are_not_trusted(turned: Path, tmp_path: Path) -> None:
    open_checkpoint(turned, spool=tmp_path / "spool")
    path = only_file(tmp_path / "spool")
    path.with_suffix(".json").unlink()
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    assert torch.equal(read_tensors(open_checkpoint(turned, spool=tmp_path / "spool"))["turned"], VALUE)


def test_cache_verify_finds_a_damaged_file(turned: Path, tmp_path: Path) -> None:
    lines_pipeline.api.inspect(turned)
    path = only_file(tmp_path / "cache" / "lines-pipeline" / "nodes" / "spool")
    assert CliRunner().invoke(app, ["cache", "verify"]).exit_code == 0
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    completed = CliRunner().invoke(app, ["cache", "verify"])
    assert completed.exit_code == 1 and "removed 1 damaged" in completed.output and not path.exists()


def test_a_folder_that_cannot_be_written_is_told(turned: Path, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(EngineError, match=r"cannot be written out there.*XDG_CACHE_HOME"):
        open_checkpoint(turned, spool=tmp_path / "spool")


@pytest.mark.slow
def test_a_run_over_a_damaged_file_gives_the_same_bytes(
    write_recipe: Callable[..., Path], models: Path, tmp_path: Path, shared_store: str
) -> None:
    base = load_file(models / "base.safetensors")
    torch.save({n: v.t().contiguous().t() if v.ndim == 2 else v for n, v in base.items()}, models / "turned.pt")
    nodes = {
        "turned": {"op": "load", "path": "turned.pt"},
        "model": {"op": "interpolate", "models": ["turned", "experts[a]"], "weights": [0.5, 0.5]},
        "saved": {"op": "save", "model": "model", "path": "m.safetensors"},
    }
    recipe = write_recipe(nodes)
    first = lines_pipeline.run(recipe, out="first").files[0].read_bytes()
    path = only_file(tmp_path / "cache" / "lines-pipeline" / "nodes" / "spool")
    content = bytearray(path.read_bytes())
    content[-100] ^= 64
    path.write_bytes(content)
    shutil.rmtree(tmp_path / "cache" / "lines-pipeline" / "nodes" / "values", ignore_errors=True)
    assert lines_pipeline.run(recipe, out="second").files[0].read_bytes() == first


def test_other_contents_with_the_time_set_back_are_noticed(turned: Path, tmp_path: Path) -> None:
    before = turned.stat()
    open_checkpoint(turned, spool=tmp_path / "spool")
    torch.save({"turned": (VALUE.T + 1).T, "plain": torch.ones(2)}, turned)
    os.utime(turned, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert turned.stat().st_size == before.st_size
    checkpoint = open_checkpoint(turned, spool=tmp_path / "spool")
    assert torch.equal(read_tensors(checkpoint)["turned"], VALUE + 1)


def test_a_file_that_another_run_has_just_made_stays(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "x.safetensors"

    def write(target: Path) -> None:
        target.write_bytes(b"same")

    def write_late(target: Path) -> None:
        written_once(path, write, what="x")
        inodes.append(path.stat().st_ino)
        write(target)

    inodes: list[int] = []
    written_once(path, write_late, what="x")
    assert inodes == [path.stat().st_ino] and is_sound(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.json", "x.safetensors"]

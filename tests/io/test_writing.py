"""Positional writing: whole or absent, readable by the safetensors library, inside the output folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lines_pipeline.core.errors import EngineError, PlanError
from lines_pipeline.core.tensor_specs import TensorSpec
from lines_pipeline.io.committing import commit_files
from lines_pipeline.io.folders import require_output
from lines_pipeline.io.locations import resolve_output
from lines_pipeline.io.temporaries import sweep_temporaries, temporary_folder, temporary_path
from lines_pipeline.io.writing import OutputLayout, create_files, discard_files, lay_out_files, write_block

SPECS = (TensorSpec("b", "float32", (2, 3)), TensorSpec("a", "bfloat16", (5,)), TensorSpec("c", "bool", (3,)))


def test_blocks_may_come_in_any_order(tmp_path: Path) -> None:
    layout = lay_out_files(tmp_path / "model.safetensors", SPECS, metadata_bytes=100)
    create_files(layout)
    values = {"a": torch.arange(5).bfloat16(), "b": torch.randn(6), "c": torch.tensor([True, False, True])}
    (file,) = layout.files
    descriptor = os.open(file.temporary, os.O_WRONLY)
    for name in ("c", "a", "b"):
        for index in reversed(range(len(values[name]))):
            value = values[name][index : index + 1]
            write_block(str(file.temporary), descriptor, file.offsets()[name] + index * value.element_size(), value)
    os.close(descriptor)
    assert not layout.path.exists()
    commit_files(layout, {"who": "me"})
    tensors = load_file(layout.path)
    assert all(torch.equal(tensors[name].flatten(), value) for name, value in values.items())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.safetensors"]


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    layout = lay_out_files(tmp_path / "model.safetensors", SPECS, metadata_bytes=100)
    create_files(layout)
    discard_files(layout)
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_does_not_fit_is_our_mistake(tmp_path: Path) -> None:
    layout = lay_out_files(tmp_path / "model.safetensors", SPECS, metadata_bytes=10)
    create_files(layout)
    with pytest.raises(PlanError, match="header"):
        commit_files(layout, {"much": "x" * 1000})
    assert not layout.path.exists()


def test_a_disk_that_is_too_small_is_noticed_before_any_work(tmp_path: Path) -> None:
    wide = TensorSpec("wide", "float32", (2**48,))
    layout = lay_out_files(tmp_path / "model.safetensors", [wide], metadata_bytes=10)
    with pytest.raises(EngineError, match=r"model\.safetensors: (the disk is full|cannot be written)"):
        create_files(layout)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_processes_are_swept(tmp_path: Path) -> None:
    alive = temporary_path(tmp_path / "m.safetensors")
    dead = alive.with_name(alive.name.replace(f"-{os.getpid()}.", "-999999999."))
    elsewhere = dead.with_name(".m.safetensors.0123abcd-999999999.ab.tmp")
    odd = dead.with_name(".notes.tmp")
    for path in (alive, dead, elsewhere, odd):
        path.touch()
    folder = dead.with_name(f".run{dead.name}")
    folder.mkdir()
    (folder / "m.safetensors").touch()
    sweep_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, elsewhere.name, odd.name])


def test_a_temporary_folder_is_swept_only_when_its_process_has_ended(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "run") as folder:
        sweep_temporaries(tmp_path)
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [lambda layout: require_output(layout.path.parent), create_files])
def test_a_folder_that_another_run_takes_away_is_made_again(
    write: Callable[[OutputLayout], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, opened = tmp_path / "out", os.open
    taken: list[Any] = []

    def open_late(path: str, *rest: Any, **more: Any) -> int:
        if str(path).startswith(str(folder)) and not taken:
            taken.append(path)
            folder.rmdir()
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", open_late)
    layout = lay_out_files(folder / "model.safetensors", [TensorSpec("a", "float32", (2,))], metadata_bytes=10)
    write(layout)
    assert taken and folder.is_dir()


@pytest.mark.parametrize("path", ["../x.safetensors", "/tmp/x.safetensors", "a/../../x", "link/x.safetensors", "."])
def test_outputs_never_leave_their_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(PlanError, match="outside"):
        resolve_output(tmp_path / "out", path)

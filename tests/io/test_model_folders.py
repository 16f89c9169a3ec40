"""Model folders are read as transformers reads them; what is taken of several, and what is left out, is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("shared_store")

NAMES = ("encoder.layer.0.weight", "encoder.layer.1.weight", "head.weight")


def weights(value: float, names: tuple[str, ...] = NAMES) -> dict[str, torch.Tensor]:
    return {name: torch.full((2, 2), value) for name in names}


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """A file of either kind, by its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(dict(tensors), path)
    else:
        torch.save(dict(tensors), path)
    return path


def write_shards(folder: Path, value: float, stem: str = "model", suffix: str = "safetensors") -> dict[str, str]:
    """Two shards without an index; gives the shards by tensor."""
    parts = (NAMES[:2], NAMES[2:])
    shards = [f"{stem}-{number:05d}-of-00002.{suffix}" for number in (1, 2)]
    for shard, names in zip(shards, parts, strict=True):
        write(folder / shard, weights(value, names))
    return {name: shard for shard, names in zip(shards, parts, strict=True) for name in names}


def write_index(folder: Path, weight_map: Any, name: str = "model.safetensors.index.json") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def indexed(folder: Path, value: float, stem: str = "model", suffix: str = "safetensors") -> None:
    write_index(folder, write_shards(folder, value, stem, suffix), f"{stem}.{suffix}.index.json")


def recipe(folder: Path) -> Path:
    nodes = {
        "a": {"op": "load", "path": folder.name},
        "same": {"op": "soup", "models": ["a"]},
        "saved": {"op": "save", "model": "same", "path": "model.safetensors"},
    }
    path = folder.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "folder", "nodes": nodes}))
    return path


def read(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The tensors that a run saves, and its notes, which validating and planning tell too."""
    path = recipe(folder)
    result = lines_pipeline.run(path, out="out")
    texts = [note.removeprefix("note: ") for note in result.notes]
    assert list(lines_pipeline.validate(path).notes) == texts
    assert list(lines_pipeline.plan(path).notes) == texts
    return load_file(result.files[0]), "\n".join(texts)


def refused(folder: Path, *words: str) -> None:
    """All commands refuse the folder with these words."""
    for act in (lines_pipeline.validate, lines_pipeline.plan, lines_pipeline.run):
        with pytest.raises(CheckpointError) as error:
            act(recipe(folder))
        assert all(word in str(error.value) for word in words), str(error.value)


ORDER: tuple[Callable[[Path, float], object], ...] = (
    lambda folder, value: write(folder / "model.safetensors", weights(value)),
    lambda folder, value: indexed(folder, value),
    lambda folder, value: write(folder / "pytorch_model.bin", weights(value)),
    lambda folder, value: indexed(folder, value, "pytorch_model", "bin"),
    lambda folder, value: write(folder / "another.pt", weights(value)),
)
"""Ways to write a model, those that transformers looks for first."""


@pytest.mark.parametrize("first", range(4))
def test_the_first_that_transformers_looks_for_is_read_and_told(first: int, tmp_path: Path) -> None:
    for number, layout in reversed(list(enumerate(ORDER))[first:]):
        layout(tmp_path / "m", float(number))
    tensors, notes = read(tmp_path / "m")
    assert {float(value.mean()) for value in tensors.values()} == {float(first)}
    assert "several checkpoints" in notes and "as transformers does" in notes and "'another.pt'" in notes


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "pytorch_model.bin",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
        "whatever.safetensors",
        "whatever.pth",
    ],
)
def test_one_checkpoint_is_read_without_a_word(name: str, tmp_path: Path) -> None:
    write(tmp_path / "m" / name, weights(2.0))
    for beside in (
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "rng_state_0.pth",
        "training_args.bin",
        "scaler.pt",
    ):
        (tmp_path / "m" / beside).write_bytes(b"not a checkpoint")
    (tmp_path / "m" / "config.json").write_text("{}")
    tensors, notes = read(tmp_path / "m")
    assert tensors.keys() == set(NAMES) and notes == ""


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model", "merged"])
def test_an_index_names_the_shards(stem: str, tmp_path: Path) -> None:
    indexed(tmp_path / "m", 3.0, stem)
    assert read(tmp_path / "m")[1] == ""


def test_formats_of_one_model_are_told_and_variants_refused(tmp_path: Path) -> None:
    write(tmp_path / "m" / "open_clip_model.safetensors", weights(1.0))
    write(tmp_path / "m" / "open_clip_pytorch_model.bin", weights(2.0))
    tensors, notes = read(tmp_path / "m")
    assert float(tensors[NAMES[0]][0, 0]) == 1.0 and "not 'open_clip_pytorch_model.bin'" in notes
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
    for name in names:
        write(tmp_path / "unet" / name, weights(1.0))
    refused(tmp_path / "unet", *names, "name the file")
    write(tmp_path / "clip" / "model.safetensors", weights(2.0))
    write(tmp_path / "clip" / "model.fp16.safetensors", weights(1.0))
    tensors, notes = read(tmp_path / "clip")
    assert float(tensors[NAMES[0]][0, 0]) == 2.0 and "model.fp16.safetensors" in notes


def test_complete_shards_need_no_index(tmp_path: Path) -> None:
    write_shards(tmp_path / "m", 2.0)
    tensors, notes = read(tmp_path / "m")
    assert tensors.keys() == set(NAMES) and "no index" in notes
    (tmp_path / "m" / "model-00001-of-00002.safetensors").unlink()
    refused(tmp_path / "m", "'model-00001-of-00002.safetensors' is missing", "1 of 2")


def test_shards_without_an_index_must_not_contradict_each_other(tmp_path: Path) -> None:
    write_shards(tmp_path / "m", 2.0)
    write(tmp_path / "m" / "model-00001-of-00002.safetensors", weights(1.0))
    refused(tmp_path / "m", "'head.weight' is in both", "no index")
    write(tmp_path / "m" / "model-00001-of-00001.safetensors", weights(1.0))
    refused(tmp_path / "m", "several sets of shards")


def test_what_the_index_does_not_name_is_left_out_and_told(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "m", 2.0)
    write_index(tmp_path / "m", {name: shard for name, shard in shards.items() if name != NAMES[0]})
    tensors, notes = read(tmp_path / "m")
    assert tensors.keys() == set(NAMES[1:]) and f"tensor '{NAMES[0]}' is left out" in notes


def test_a_tensor_in_two_shards_is_that_of_the_index(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "m", 1.0)
    write(tmp_path / "m" / "overlay.safetensors", weights(2.0, NAMES[:1]))
    write_index(tmp_path / "m", {**shards, NAMES[0]: "overlay.safetensors"})
    tensors, notes = read(tmp_path / "m")
    assert [float(tensors[name][0, 0]) for name in NAMES] == [2.0, 1.0, 1.0]
    assert f"'{NAMES[0]}' is in 'model-00001-of-00002.safetensors' too" in notes
    assert "several checkpoints" not in notes


def test_names_that_a_shard_ties_stay_one_tensor_whichever_the_index_names(tmp_path: Path) -> None:
    tied = torch.ones(2, 2)
    shard = "pytorch_model-00001-of-00001.bin"
    for names, expected in ((("embed", "head"), {"embed", "head"}), (("head",), {"head"})):
        write(tmp_path / "m" / shard, {"embed": tied, "head": tied})
        write_index(tmp_path / "m", dict.fromkeys(names, shard), "pytorch_model.bin.index.json")
        tensors, _ = read(tmp_path / "m")
        assert tensors.keys() == expected
        assert lines_pipeline.api.inspect(tmp_path / "m")["aliases"] == ({"head": "embed"} if len(names) > 1 else {})


HOSTILE_INDICES: dict[str, tuple[Any, str]] = {
    "outside": ({"a": "../model.safetensors"}, "outside the folder"),
    "absolute": ({"a": "/etc/passwd"}, "outside the folder"),
    "the folder": ({"a": "."}, "no name of a file"),
    "nothing": ({"a": ""}, "no name of a file"),
    "very long": ({"a": "x" * 5000 + ".safetensors"}, "no name of a file"),
    "control characters": ({"a": "\x1b[31mred\n.safetensors"}, r"\x1b[31mred\n.safetensors"),
    "a surrogate": ({"a": "\ud800.safetensors"}, r"\ud800.safetensors"),
    "null bytes": ({"a": "a\0b.safetensors"}, r"a\x00b.safetensors"),
    "a number": ({"a": 3}, "tensor 'a' should have the name of a shard, found int"),
    "a list": ([1], "not a shard index"),
    "an empty map": ({}, "not a shard index"),
    "a missing shard": ({"a": "model-00009-of-00009.safetensors"}, "'model-00009-of-00009.safetensors' is missing"),
}


@pytest.mark.parametrize(("weight_map", "words"), HOSTILE_INDICES.values(), ids=HOSTILE_INDICES)
def test_indices_that_make_no_sense_are_refused(weight_map: Any, words: str, tmp_path: Path) -> None:
    write_index(tmp_path / "m", weight_map)
    refused(tmp_path / "m", "model.safetensors.index.json", words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"weight_map": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b"[]", "not a shard index"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_indices_that_are_none_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors.index.json").write_bytes(content)
    refused(tmp_path / "m", words)


def test_sentence_transformers_keep_the_weights_beside_or_inside(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    modules = [{"idx": n, "path": path} for n, path in enumerate(("0_Transformer", "1_Pooling", "2_Dense"))]
    (folder / "modules.json").write_text(json.dumps(modules))
    write(folder / "0_Transformer" / "model.safetensors", weights(2.0))
    write(folder / "2_Dense" / "model.safetensors", {"linear.weight": torch.ones(2, 2)})
    tensors, notes = read(folder)
    assert tensors.keys() == set(NAMES) and "'2_Dense/'" in notes
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, *modules[1:]]))
    write(folder / "model.safetensors", weights(3.0))
    assert float(read(folder)[0][NAMES[0]][0, 0]) == 3.0


def test_a_pipeline_says_which_folders_to_name(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model_index.json").write_text("{}")
    write(tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors", weights(1.0))
    write(tmp_path / "m" / "text_encoder" / "model.safetensors", weights(1.0))
    refused(tmp_path / "m", "diffusers pipeline", "'text_encoder', 'unet'")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "no checkpoint"),
        (["optimizer.pt", "training_args.bin"], "no checkpoint"),
        (["latest", "global_step9/mp_rank_00_model_states.pt"], "zero_to_fp32.py"),
        ([".metadata", "__0_0.distcp"], "dcp_to_torch"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "dcp_to_torch"),
        (["model-q4_k_m.gguf"], "GGUF"),
        (["flax_model.msgpack"], "from_flax"),
        (["tf_model.h5"], "from_tf"),
        (["checkpoint-1/model.safetensors", "checkpoint-2/model.safetensors"], "'checkpoint-1', 'checkpoint-2'"),
        (["one.safetensors", "two.safetensors"], "several checkpoints ('one.safetensors', 'two.safetensors')"),
    ],
)
def test_other_folders_say_what_they_are_and_what_to_do(files: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for name in files:
        (tmp_path / "m" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_bytes(b"")
    refused(tmp_path / "m", words)

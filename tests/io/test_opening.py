"""Checkpoints of every kind are bytes at offsets; damaged and hostile ones are refused, naming the file."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.checkpoint import Checkpoint
from lines_pipeline.io.digests import block_digest, checkpoint_digest
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import BlockReader
from lines_pipeline.io.renaming import rename

STATE = {
    "half": torch.randn(3, 5).half(),
    "brain": torch.randn(4).bfloat16(),
    "double": torch.randn(2, 2, 2).double(),
    "single": torch.randn(7),
    "counts": torch.arange(6),
    "flags": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "nothing": torch.empty(0, 3),
    "größe.β": torch.ones(2),
}


def read(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors, through positional reads."""
    reader = BlockReader()
    by_name = {n: reader.block(s, 0, s.spec.numel).view(s.spec.shape) for n, s in checkpoint.tensors.items()}
    reader.close()
    return by_name


def same(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return set(tensors) == set(expected) and all(
        tensors[name].dtype == value.dtype and torch.equal(tensors[name], value) for name, value in expected.items()
    )


def write_shards(folder: Path) -> Path:
    """A sharded folder as the Hugging Face hub has it."""
    names = sorted(STATE)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:4], names[4:]), start=1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: STATE[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_torch(folder: Path, content: Any = STATE, name: str = "model.pt", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def write_safetensors(folder: Path) -> Path:
    save_file(STATE, folder / "model.safetensors")
    return folder / "model.safetensors"


FORMATS: dict[str, Callable[[Path], Path]] = {
    "safetensors": write_safetensors,
    "shards": write_shards,
    "torch": write_torch,
    "torch nested": lambda folder: write_torch(folder, {"state_dict": STATE, "epoch": 3}),
    "torch before zip": lambda folder: write_torch(folder, _use_new_zipfile_serialization=False),
    "transformers folder": lambda folder: write_torch(folder, name="pytorch_model.bin").parent,
}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_every_format_reads_back_bit_for_bit(write: Callable[[Path], Path], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write(tmp_path), spool=tmp_path / "spool")
    assert list(checkpoint.tensors) == sorted(STATE)
    assert same(read(checkpoint), STATE)


def test_the_digest_does_not_depend_on_the_format(tmp_path: Path) -> None:
    digests = set()
    for name, write in FORMATS.items():
        (tmp_path / name).mkdir()
        checkpoint = open_checkpoint(write(tmp_path / name), spool=tmp_path / "spool")
        stored = {key: value.flatten().view(torch.uint8).numpy() for key, value in read(checkpoint).items()}
        blocks = {key: [block_digest(memoryview(value.data))] for key, value in stored.items() if value.size}
        digests.add(checkpoint_digest([t.spec for t in checkpoint.tensors.values()], blocks, checkpoint.aliases))
    assert len(digests) == 1


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_views_that_are_not_contiguous_are_spooled(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    path = write_torch(tmp_path, {"turned": base.T, "part": base[1:]})
    assert same(read(open_checkpoint(path, spool=tmp_path / "spool")), {"turned": base.T, "part": base[1:]})
    assert open_checkpoint(path).tensors["turned"].spec.shape == (4, 3)


def test_tied_tensors_are_aliases(tmp_path: Path) -> None:
    tied = torch.randn(3, 3)
    checkpoint = open_checkpoint(write_torch(tmp_path, {"embed": tied, "lm_head": tied, "other": tied.clone()}))
    assert checkpoint.aliases == {"lm_head": "embed"}
    assert set(checkpoint.tensors) == {"embed", "other"}


def test_names_can_be_changed_and_must_stay_apart(tmp_path: Path) -> None:
    path = write_torch(tmp_path, {"model.a": torch.ones(1), "b": torch.ones(2)})
    checkpoint = open_checkpoint(path)
    assert set(rename(checkpoint, strip="model.", add="x.", rules=[(r"b$", "c")]).tensors) == {"x.a", "x.c"}
    with pytest.raises(CheckpointError, match="the same name 'b'"):
        rename(checkpoint, rules=[(r"^model\.a$", "b")])


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
dtypes = st.sampled_from(
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.text("abc._0", min_size=1, max_size=8), st.tuples(shapes, dtypes), min_size=1, max_size=6))
def test_round_trips(tmp_path_factory: pytest.TempPathFactory, specs: dict[str, Any]) -> None:
    state = {name: (torch.rand(shape) * 9).to(dtype) for name, (shape, dtype) in specs.items()}
    folder = tmp_path_factory.mktemp("round")
    save_file(state, folder / "m.safetensors")
    assert same(read(open_checkpoint(folder / "m.safetensors")), state)


def header(content: Any, payload: bytes = b"") -> bytes:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(raw)) + raw + payload


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "text": b"this is not a checkpoint at all, only words",
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "not JSON": header(b"{not json"),
    "not UTF-8": header(b'{"\xff": 1}'),
    "a list": header([]),
    "deep nesting": header(b"[" * 100_000 + b"]" * 100_000),
    "a name twice": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"1234",
    ),
    "no dtype": header({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "unknown dtype": header({"a": entry("F128", offsets=(0, 16))}, b"1" * 16),
    "negative shape": header({"a": entry(shape=(-1,))}, b"1234"),
    "fractional shape": header({"a": entry(shape=(1.5,))}, b"1234"),
    "boolean offsets": header({"a": entry(offsets=(False, 4))}, b"1234"),
    "three offsets": header({"a": entry(offsets=(0, 4, 8))}, b"1234"),
    "offsets reversed": header({"a": entry(offsets=(4, 0))}, b"1234"),
    "too short for its shape": header({"a": entry(shape=(2,))}, b"1234"),
    "shape that overflows": header({"a": entry(shape=(2**40, 2**40))}, b"1234"),
    "overlap": header({"a": entry(), "b": entry()}, b"1234"),
    "hole": header({"a": entry(), "b": entry(offsets=(8, 12))}, b"1" * 12),
    "trailing bytes": header({"a": entry()}, b"12345678"),
    "cut short": header({"a": entry()}, b"12"),
    "metadata of numbers": header({"__metadata__": {"a": 1}, "a": entry()}, b"1234"),
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(path)


class Exploit:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("exploited"),))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "content", [{"a": Exploit()}, [torch.ones(1)], {"a": 3}, {}, torch.ones(2), {"a": torch.ones(2).to_sparse()}]
)
def test_torch_files_that_are_no_state_dict_are_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        open_checkpoint(write_torch(tmp_path, content))
    assert not Path("exploited").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", pickle.dumps({"a": 1}), b"plain text"])
def test_damaged_torch_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.bin"):
        open_checkpoint(path)


def test_folders_and_indices_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        open_checkpoint(tmp_path)
    folder = write_shards(tmp_path)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    for change, message in (
        ({"missing": "model-00001-of-00002.safetensors"}, "should be in"),
        ({"x": "model-00009-of-00002.safetensors"}, "is missing"),
        ({"x": "../outside.safetensors"}, "outside the folder"),
    ):
        index.write_text(json.dumps({"weight_map": content["weight_map"] | change}))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="not a shard index"):
        open_checkpoint(folder)


def test_a_misspelt_path_is_corrected(tmp_path: Path) -> None:
    write_safetensors(tmp_path)
    with pytest.raises(CheckpointError, match=r"did you mean 'model\.safetensors'"):
        open_checkpoint(tmp_path / "modle.safetensors")

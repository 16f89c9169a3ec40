"""Headers of safetensors files: what the format's own library opens is opened alike, what it refuses is refused."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

import lines_pipeline
from lines_pipeline.cli.app import app
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.opening import open_checkpoint, open_leniently
from lines_pipeline.io.reading import read_tensors


def write(path: Path, content: Any, payload: bytes = b"1234") -> Path:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + payload)
    return path


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def by_library(path: Path) -> dict[str, torch.Tensor] | None:
    """What the safetensors library reads; None where it refuses the file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError):
        return None


dtypes = st.sampled_from([("F32", 4), ("F64", 8), ("F16", 2), ("BF16", 2), ("I64", 8), ("U8", 1), ("BOOL", 1)])
shapes = st.lists(st.integers(0, 3), max_size=3)
twists = st.sampled_from(["none"] * 6 + ["gap", "overlap", "long", "short", "negative", "text", "huge", "dtype"])


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.text(max_size=4).filter(lambda name: name != "__metadata__"), st.tuples(dtypes, shapes), max_size=4
    ),
    twists,
    st.integers(0, 3),
    st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)
def test_files_are_opened_as_the_library_opens_them(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any], twist: str, padding: int, metadata: Any
) -> None:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, ((code, width), shape) in tensors.items():
        nbytes = width * int(torch.Size(shape).numel())
        header[name] = entry(code, shape, [end, end + nbytes])
        end += nbytes
    if tensors:
        last = header[list(tensors)[-1]]
        begin, stop = last["data_offsets"]
        match twist:
            case "gap":
                last["data_offsets"] = [begin + 1, stop + 1]
            case "overlap":
                last["data_offsets"] = [begin - 1, stop - 1]
            case "negative":
                last["shape"] = [-1]
            case "text":
                last["shape"] = "1"
            case "huge":
                last["shape"] = [2**40, 2**40, *last["shape"]]
            case "dtype":
                last["dtype"] = "F128"
    payload = bytes(max(end + {"long": 1, "short": -1}.get(twist, 0), 0))
    raw = json.dumps(header, ensure_ascii=False).encode() + b" " * padding
    path = write(tmp_path_factory.mktemp("twisted") / "m.safetensors", raw, payload)
    expected = by_library(path)
    if expected is None:
        with pytest.raises(CheckpointError):
            open_checkpoint(path)
        return
    tensor = read_tensors(open_checkpoint(path))
    assert tensor.keys() == expected.keys()
    for name, value in expected.items():
        assert tensor[name].dtype == value.dtype and torch.equal(tensor[name], value)


REFUSED: dict[str, Any] = {
    "a list as dtype": {"a": entry(["F32"])},
    "a map as dtype": {"a": entry({"F32": None})},
    "a number as dtype": {"a": entry(7)},
    "4,200 digits": {"a": entry(shape=[10**4199] * 3)},
    "a product beyond 64 bits": {"a": entry(shape=[2**40, 2**40, 0], offsets=[0, 0])},
    "a side beyond torch": {"a": entry(shape=[0, 2**63], offsets=[0, 0])},
    "half a surrogate pair": b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "NaN": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":NaN}}',
    "minus zero": b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}',
    "half a byte": {"a": entry("F4", [1], [0, 1])},
    "entries that are no maps": {"a": "text"},
    "nested lists": {"a": entry(more=[[[[[1]]]]])},
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_hostile_headers_are_refused_as_the_library_does(content: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", content)
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        open_checkpoint(path)


def test_a_header_of_lists_alone_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", b'{"a":[' + b"[]," * 3_000_000 + b"1]}")
    with pytest.raises(CheckpointError, match="more lists than"):
        open_checkpoint(path)


@pytest.mark.parametrize("code", ["C64", "F8_E8M0", "F8_E4M3FNUZ"])
def test_types_that_merges_do_not_know_are_named(code: str, tmp_path: Path) -> None:
    width = 8 if code == "C64" else 1
    header = {"odd": entry(code, [1], [0, width]), "w": entry("F32", [1], [width, width + 4])}
    path = write(tmp_path / "m.safetensors", header, bytes(width + 4))
    with pytest.raises(CheckpointError, match=rf"tensor 'odd' has data type {code}.*drop: \[\"odd\"\]"):
        open_checkpoint(path)
    assert set(open_leniently(path).tensors) == {"w"}


def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    name = "evil\x1b[2J\x1b]0;title\x07\u202e"
    save_file({name: torch.ones(2)}, tmp_path / "m.safetensors")
    shown = CliRunner().invoke(app, ["inspect", "m.safetensors"]).output
    assert "\x1b[2J" not in shown and "\x07" not in shown and "\u202e" not in shown and "evil\\x1b[2J" in shown
    write(tmp_path / "m.safetensors", {name: entry("F128")})
    with pytest.raises(CheckpointError) as caught:
        lines_pipeline.api.inspect("m.safetensors")
    assert "\x1b" not in str(caught.value) and "evil\\x1b[2J" in str(caught.value)


def test_a_very_long_name_makes_no_long_message(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"x" * 1_000_000: entry("F128")})
    with pytest.raises(CheckpointError, match="1,000,000 characters") as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 3_000


def test_a_hundred_thousand_tensors_are_opened_in_seconds(tmp_path: Path) -> None:
    header = {f"model.layers.{n}.weight": entry("F32", [1], [4 * n, 4 * n + 4]) for n in range(100_000)}
    path = write(tmp_path / "m.safetensors", header, bytes(400_000))
    started = time.process_time()
    assert len(open_checkpoint(path).tensors) == 100_000
    assert time.process_time() - started < 20


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_pipes_are_refused_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="a named pipe, not a file"):
        lines_pipeline.api.inspect(name)
    folder = tmp_path / "shards"
    folder.mkdir()
    index = {"weight_map": {"a": "one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    os.mkfifo(folder / "one.safetensors")
    with pytest.raises(CheckpointError, match="a named pipe"):
        open_checkpoint(folder)
    (folder / "model.safetensors.index.json").unlink()
    os.mkfifo(folder / "model.safetensors.index.json")
    with pytest.raises(CheckpointError, match="a named pipe"):
        open_checkpoint(folder)


FOREIGN: dict[str, tuple[bytes, str]] = {
    "m.gguf": (b"GGUF\3\0\0\0", "GGUF"),
    "m.bin": (b"GGUF\3\0\0\0", "GGUF"),
    "m.h5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "m.npz": (b"PK\x03\x04", "numpy"),
    "m.msgpack": (b"\x81", "Flax"),
    "m.ckpt.index": (b"\0", "TensorFlow"),
    "m.pkl": (b"\x80\x04.", "can run code"),
    "m.pt": (b"\x80\x04.", "can run code"),
    "m.safetensors": (b"PK\x03\x04", "a torch file"),
    "web.safetensors": (b"<!DOCTYPE html><html>404", "web page"),
    "m.distcp": (b"\0", "dcp_to_torch_save"),
    "m.xyz": (b"\0", r"unknown kind of file, expected \.safetensors"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_told_for_what_they_are(name: str, tmp_path: Path) -> None:
    content, what = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=what):
        open_checkpoint(tmp_path / name)


def test_a_distributed_checkpoint_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(CheckpointError, match="dcp_to_torch_save"):
        open_checkpoint(tmp_path)

"""Torch files are read as torch reads them, running and inflating nothing; what cannot be merged is named."""

from __future__ import annotations

import argparse
import resource
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.opening import open_checkpoint, open_leniently
from lines_pipeline.io.reading import read_tensors

STATE = {"w": torch.arange(6.0).view(2, 3), "half": torch.tensor([1.5, -2.0]).half(), "count": torch.tensor([3, -4])}


def write(folder: Path, content: Any, name: str = "m.pt", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def read(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    return read_tensors(open_checkpoint(path, spool=path.parent / "spool", **options))


def same(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == expected.keys() and all(
        tensors[name].dtype == value.dtype and torch.equal(tensors[name], value) for name, value in expected.items()
    )


def repack(path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The zip archive with its records changed or left out, and compressed or not."""
    with zipfile.ZipFile(path) as archive:
        records = {name: change(name.partition("/")[2], archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, record in records.items():
            if record is not None:
                archive.writestr(name, record)
    return path


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(
        st.text("ab._é", min_size=1, max_size=4),
        st.tuples(
            st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int16, torch.bool, torch.float8_e5m2]),
            st.lists(st.integers(0, 3), max_size=3),
            st.sampled_from(["plain", "turned", "sliced", "expanded", "parameter", "tied"]),
        ),
        min_size=1,
        max_size=5,
    )
)
@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_tensors_are_those_that_torch_reads(
    options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, specs: dict[str, Any]
) -> None:
    state: dict[str, torch.Tensor] = {}
    for name, (dtype, shape, kind) in specs.items():
        dtype = torch.float16 if options and dtype is torch.float8_e5m2 else dtype  # torch cannot read its own
        value = (torch.rand(shape) * 9).to(dtype)
        match kind:
            case "turned":
                value = value.permute(tuple(reversed(range(value.ndim))))
            case "sliced":
                value = torch.cat([value.flatten(), value.flatten()])[value.numel() :][::2]
            case "expanded":
                value = value.unsqueeze(0).expand(3, *value.shape)
            case "parameter" if value.is_floating_point():
                value = torch.nn.Parameter(value)
            case "tied":
                value = next(iter(state.values()), value)
        state[name] = value
    path = write(tmp_path_factory.mktemp("torch"), OrderedDict(state), **options)
    checkpoint = open_checkpoint(path, spool=path.parent / "spool")
    tensors = read_tensors(checkpoint)
    tensors |= {alias: tensors[name] for alias, name in checkpoint.aliases.items()}
    expected = torch.load(path, weights_only=True)
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name].double(), value.double())


def test_compressed_records_are_inflated(tmp_path: Path) -> None:
    path = repack(write(tmp_path, STATE), lambda _, record: record, zipfile.ZIP_DEFLATED)
    assert same(read(path), STATE)


def test_files_of_big_endian_machines_are_swapped(tmp_path: Path) -> None:
    def swapped(name: str, record: bytes) -> bytes:
        if name == "byteorder":
            return b"big"
        width = {"data/0": 4, "data/1": 2, "data/2": 8}.get(name)
        return record if width is None else np.frombuffer(record, f"<u{width}").byteswap().tobytes()

    path = repack(write(tmp_path, STATE), swapped)
    assert same({n: v.clone() for n, v in torch.load(path, weights_only=True).items()}, STATE)
    assert same(read(path), STATE)


def test_the_negative_bit_is_obeyed(tmp_path: Path) -> None:
    value = torch.randn(3, 4, dtype=torch.complex64).conj().imag
    assert value.is_neg()
    assert same(read(write(tmp_path, {"a": value})), {"a": value.resolve_neg().contiguous()})


def test_expanded_tensors_do_not_fill_the_disk(tmp_path: Path) -> None:
    path = write(tmp_path, {"huge": torch.zeros(1).expand(10**9), "w": torch.ones(1)})
    for spool in (None, tmp_path / "spool"):
        with pytest.raises(CheckpointError, match=r"'huge' of shape \[1000000000\] takes 4,000 MB.*Save a copy"):
            open_checkpoint(path, spool=spool)
    assert not (tmp_path / "spool").exists()


def test_large_tensors_are_written_out_in_pieces(tmp_path: Path) -> None:
    value = torch.arange(6_000_000.0).view(2000, 3000).T
    assert same(read(write(tmp_path, {"a": value})), {"a": value.contiguous()})


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_is_run(legacy: bool, tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self) -> Any:
            return (Path.touch, (Path("exploited"),))

    options: dict[str, Any] = {"_use_new_zipfile_serialization": not legacy}
    path = write(tmp_path, {"w": torch.ones(1), "args": Exploit()}, **options)
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.tensors) == {"w"} and "'args' (__builtin__.getattr())" in checkpoint.notes[0]
    with pytest.raises(CheckpointError, match="holds no state dict but a pickled"):
        open_checkpoint(write(tmp_path, Exploit(), **options))
    assert not Path("exploited").exists()


def test_what_is_no_tensor_is_left_out_and_told(tmp_path: Path) -> None:
    others = {"epoch": 3, "blocks.0._extra_state": None, "names": ["a"], "best": np.float64(0.5), "text": "x", 7: 1}
    checkpoint = open_checkpoint(write(tmp_path, STATE | others))
    assert set(checkpoint.tensors) == set(STATE)
    assert "'epoch' (int), 'blocks.0._extra_state' (None), 'names' (list)" in checkpoint.notes[0]
    assert "and 2 more" in checkpoint.notes[0]


def state(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2,), value)}


NESTED: dict[str, tuple[Any, str, str, float]] = {
    "one, with what a trainer adds": (
        {"state_dict": state(1), "epoch": 3, "args": argparse.Namespace(lr=1), "optimizer": {"state": {0: state(9)}}},
        "",
        "",
        1,
    ),
    "averages beside": ({"state_dict_ema": state(2), "state_dict": state(1)}, "", "'state_dict_ema'", 1),
    "params beside": ({"params_ema": state(2), "params": state(1)}, "", "'params_ema'", 1),
    "averages chosen": ({"state_dict_ema": state(2), "state_dict": state(1)}, "state_dict_ema", "", 2),
    "averages alone": ({"epoch": 1, "model_ema": state(2)}, "", "'model_ema' was taken", 2),
    "an odd key": ({"backbone": state(1)}, "", "'backbone' was taken", 1),
    "in a list": ([state(1)], "", "'0' was taken", 1),
    "dotted": ({"a": {"b": state(1), "c": state(2)}}, "a.c", "", 2),
    "an optimizer by names": ({"net": state(1), "optimizer": {"state": {"w": state(9)}}}, "", "", 1),
    "a default dictionary": ({"model": defaultdict(list, state(1))}, "", "", 1),
}


@pytest.mark.parametrize("case", NESTED.values(), ids=NESTED)
def test_nested_state_dicts(case: tuple[Any, str, str, float], tmp_path: Path) -> None:
    content, key, words, value = case
    path = write(tmp_path, content, "m.pth.tar")
    checkpoint = open_checkpoint(path, key=key)
    assert same(read_tensors(checkpoint), state(value))
    assert words in " ".join(checkpoint.notes) and bool(words) == bool(checkpoint.notes)


def test_a_key_that_is_not_there_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, {"params": state(1), "params_ema": state(2)})
    with pytest.raises(
        CheckpointError, match=r"no state dict 'parms' \(did you mean 'params'\?\).*'params', 'params_ema'"
    ):
        open_checkpoint(path, key="parms")
    with pytest.raises(CheckpointError, match=r"several state dicts.*'a', 'b'"):
        open_checkpoint(write(tmp_path, {"a": state(1), "b": state(2)}))
    with pytest.raises(CheckpointError, match="leave 'key' away"):
        open_checkpoint(write(tmp_path, state(1)), key="model")


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


class Wrapped(torch.Tensor):
    """A subclass whose values may mean anything."""


UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), "complex64"),
    "meta": (lambda: torch.ones(2, device="meta"), "has no values"),
    "sparse": (lambda: torch.eye(2).to_sparse(), "to_dense"),
    "sparse rows": (lambda: torch.eye(2).to_sparse_csr(), "to_dense"),
    "quantized": (quantized, "dequantize"),
    "subclass": (lambda: torch.ones(2).as_subclass(Wrapped), "class .*Wrapped"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNREADABLE)
def test_tensors_that_merges_cannot_read_are_named(kind: str, tmp_path: Path) -> None:
    make, why = UNREADABLE[kind]
    path = write(tmp_path, {"w": torch.ones(2), "odd": make()})
    with pytest.raises(CheckpointError, match=rf"m\.pt: tensor 'odd' .*{why}.*'drop: \[\"odd\"\]'"):
        open_checkpoint(path)
    assert set(open_leniently(path).tensors) == {"w"}


@pytest.mark.parametrize("name", ["__metadata__", "a\ud800"])
def test_names_that_no_output_can_have_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has a name that"):
        open_checkpoint(write(tmp_path, {name: torch.ones(1)}))


@pytest.mark.filterwarnings("ignore")
def test_programs_and_modules_are_refused_with_a_way_on(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(CheckpointError, match=r"TorchScript.*torch\.jit\.load"):
        open_checkpoint(tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match=r"a pickled torch\.nn\.modules\.linear\.Linear.*state_dict"):
        open_checkpoint(write(tmp_path, torch.nn.Linear(2, 2)))
    with pytest.raises(CheckpointError, match="'model' is a pickled torch"):
        open_checkpoint(write(tmp_path, {"model": torch.nn.Linear(2, 2), "epoch": 1}))


def bomb(pickled: bytes, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickled)
        archive.writestr("bomb/byteorder", b"little")
    return path


BOMBS: dict[str, bytes] = {
    "a text": b"\x80\x02X" + struct.pack("<I", 150_000_000) + bytes(150_000_000) + b".",
    "dictionaries": b"\x80\x02]" + b"(" + b"}" * 20_000_000 + b"e.",
    "a large memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "deep tuples": b"\x80\x02}(" + b")" + b"\x85" * 5_000_000 + b"K\x01u.",
    "doubling": b"\x80\x02]" + b"(2e" * 10 + b"(" + b"2" * 5_000_000 + b"e.",
    "a long number": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1.",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_pickles_take_little_memory_and_time(name: str, tmp_path: Path) -> None:
    path = bomb(BOMBS[name], tmp_path / "m.pt")
    code = (
        "import sys, resource; from pathlib import Path; from lines_pipeline.io.opening import open_checkpoint\n"
        "from lines_pipeline.core.errors import CheckpointError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: open_checkpoint(Path(sys.argv[1]))\n"
        "except CheckpointError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    completed = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr
    assert int(completed.stdout) < 900_000  # kB
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started < 60


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the storage of tensor 'count' is missing"):
        open_checkpoint(repack(write(tmp_path, STATE), lambda name, record: None if name == "data/2" else record))
    with pytest.raises(CheckpointError, match="the storage of tensor 'half' has 2 bytes, not 4"):
        open_checkpoint(repack(write(tmp_path, STATE), lambda name, data: data[:2] if name == "data/1" else data))
    path = write(tmp_path, STATE)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CheckpointError, match="table of contents"):
        open_checkpoint(path)
    legacy = write(tmp_path, STATE, _use_new_zipfile_serialization=False)
    legacy.write_bytes(legacy.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="cut short"):
        open_checkpoint(legacy)


def test_many_tensors_are_opened_in_seconds(tmp_path: Path) -> None:
    path = write(tmp_path, {f"model.layers.{n}.weight": torch.ones(1) for n in range(10_000)})
    started = time.process_time()
    assert len(open_checkpoint(path).tensors) == 10_000
    assert time.process_time() - started < 5


@pytest.mark.slow
def test_the_same_run_reads_either_state_dict(
    write_recipe: Callable[..., Path], models: Path, shared_store: str
) -> None:
    """Two load nodes of one file with the same names in both are two models, in the cache too."""
    from safetensors.torch import load_file

    base = load_file(models / "base.safetensors")
    later = {name: value + 1 if value.is_floating_point() else value for name, value in base.items()}
    torch.save({"params": base, "params_ema": later}, models / "both.pt")
    for key, expected in (("params", base), ("params_ema", later), ("params", base)):
        nodes = {
            "chosen": {"op": "load", "path": "both.pt", "key": key},
            "delta": {"op": "task-vector", "model": "chosen", "base": "base"},
            "model": {"op": "apply", "base": "base", "delta": "delta"},
            "saved": {"op": "save", "model": "model", "path": "m.safetensors"},
        }
        result = lines_pipeline.run(write_recipe(nodes), out=key)
        assert all(torch.allclose(load_file(result.files[0])[name], value) for name, value in expected.items())

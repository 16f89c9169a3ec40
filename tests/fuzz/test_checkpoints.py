"""Whatever is done to a checkpoint file, opening and reading it works or ends in one of the package's own errors."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import save

from lines_pipeline.core.errors import LinesError
from lines_pipeline.io.opening import open_checkpoint
from lines_pipeline.io.reading import read_tensors

STATE = OrderedDict(
    {
        "a.weight": torch.arange(6.0).view(2, 3),
        "turned": torch.arange(6.0).view(2, 3).T,
        "half": torch.ones(3).half(),
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 2),
    }
)
Fuzz = Callable[[int], int]


def torch_bytes(*, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    content = {"state_dict": STATE, "state_dict_ema": STATE, "epoch": 3, "args": ["a", (1, 2.5), None]}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def safetensors_bytes() -> bytes:
    data: bytes = save({name: value.contiguous() for name, value in STATE.items()}, {"format": "pt"})
    return data


def damaged(data: bytes, random: Random) -> bytes:
    """Some bytes changed, taken out, put in or repeated; mostly near the start, where the structure is."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        place = random.randrange(min(len(changed), random.choice((64, 512, len(changed)))) or 1)
        match random.randrange(5):
            case 0:
                changed[place : place + 1] = bytes([random.randrange(256)])
            case 1:
                del changed[place : place + random.choice((1, 4, 100))]
            case 2:
                changed[place:place] = random.randbytes(random.choice((1, 4, 8)))
            case 3:
                changed[place:place] = changed[place : place + random.choice((1, 10, 50))]
            case 4:
                changed[place : place + 8] = random.choice((b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 2**33)))
    return bytes(changed)


def try_all(name: str, files: list[bytes], folder: Path) -> int:
    """How many of the files could be read; every other has to be refused in the package's own words."""
    readable = 0
    for content in files:
        path = folder / name
        path.write_bytes(content)
        try:
            read_tensors(open_checkpoint(path, spool=folder / "spool"))
            readable += 1
        except LinesError as error:
            assert name in str(error)
    return readable


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.safetensors", safetensors_bytes()),
        ("model.pt", torch_bytes()),
        ("legacy.pt", torch_bytes(legacy=True)),
    ],
    ids=["safetensors", "torch", "legacy torch"],
)
def test_damaged_files(name: str, data: bytes, tmp_path: Path, random_source: Random, fuzz_count: Fuzz) -> None:
    assert try_all(name, [data], tmp_path) == 1
    try_all(name, [damaged(data, random_source) for _ in range(fuzz_count(200))], tmp_path)


def test_odd_values_in_headers(tmp_path: Path, random_source: Random, fuzz_count: Fuzz) -> None:
    odd: list[Any] = [
        None,
        True,
        -1,
        0,
        1,
        2**63,
        2**64,
        10**4200,
        1.5,
        "",
        "F32",
        "F4",
        "\ud800",
        "\x1b[2J",
        [],
        [[]],
        {},
        {"a": 1},
    ]

    def header() -> bytes:
        entries: dict[str, object] = {}
        for name in random_source.sample(["a", "b", "", "__metadata__", "\x1b[31m", "\ud800", "x" * 100_000], 2):
            entry: dict[str, object] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
            for field in random_source.sample(["dtype", "shape", "data_offsets", "more"], random_source.randrange(3)):
                value = random_source.choice(odd)
                entry[field] = random_source.choice((value, [value], [value, value]))
            entries[name] = random_source.choice((entry, entry, entry, random_source.choice(odd)))
        raw = json.dumps(entries).encode()
        return struct.pack("<Q", len(raw)) + raw + b"1234"

    try_all("model.safetensors", [header() for _ in range(fuzz_count(200))], tmp_path)


def test_damaged_pickles_in_sound_archives(tmp_path: Path, random_source: Random, fuzz_count: Fuzz) -> None:
    with zipfile.ZipFile(io.BytesIO(torch_bytes())) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))

    def repacked() -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", random_source.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name, record in records.items():
                archive.writestr(name, damaged(record, random_source) if name == pickled else record)
        return file.getvalue()

    try_all("model.pt", [repacked() for _ in range(fuzz_count(200))], tmp_path)

"""A pair of fine-tuned language models, in bfloat16 and sharded, merged within a cap on memory: throughput and peak.

``python benchmarks/language_models.py [--parameters 1.3e9] [--memory 2GB] [--no-page]`` generates LLaMA-shaped models,
merges two experts by TIES with LiNeS, and writes its row into docs/performance.md. 7e9 needs 55 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import report
import torch
from environments import this_project
from passes import latest_sweeps
from watching import Command, Limits, watch

FOLDER = Path(__file__).parent
SHARD_BYTES = 2 * 10**9
PATTERN_NUMEL = 2**24
"""Values drawn for each model; its tensors repeat them, each from another place."""
MODELS = ("base", "math", "code")
VOCABULARY = 32_000
SIZES = {1.3e9: (2048, 24, 5504), 7e9: (4096, 32, 11008)}
"""By parameters: width, layers, and width of the feed-forward part."""
HEADINGS = ("parameters", "inputs", "read", "written", "seconds", "in sweeps", "GB/s", "allowed", "anonymous peak")
RESULTS = FOLDER / "language_models.json"
"""Rows by size, of every size measured so far."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model to write."""

    name: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def main() -> None:
    """Generate, merge, check, report, and remove what was generated."""
    arguments = _arguments()
    tensors = list(llama_tensors(*SIZES[arguments.parameters]))
    folder = FOLDER / ".checkpoints" / f"llama_{arguments.parameters:.0f}"
    for number, model in enumerate(MODELS):
        if not (folder / model / "model.safetensors.index.json").exists():
            write_model(folder / model, tensors, number)
    try:
        row = _merge(folder, tensors, arguments.memory)
    finally:
        shutil.rmtree(FOLDER / ".language_models", ignore_errors=True)
        if not arguments.keep:
            shutil.rmtree(folder)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows[f"{arguments.parameters:.0f}"] = row
    RESULTS.write_text(json.dumps(rows, indent=1))
    text = report.table(HEADINGS, [rows[size] for size in sorted(rows, key=int)])
    print(text)
    if arguments.page:
        report.put("language-models", text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, choices=sorted(SIZES), default=1.3e9, help="of each model")
    parser.add_argument("--memory", default="2GB", help="the cap that the merge is given (default 2GB)")
    parser.add_argument("--keep", action="store_true", help="keep the generated models")
    parser.add_argument("--no-page", dest="page", action="store_false", help="leave docs/ as it is")
    return parser.parse_args()


def llama_tensors(width: int, layers: int, inner: int) -> Iterator[Tensor]:
    """The tensors of a LLaMA, named as transformers names them."""
    yield Tensor("model.embed_tokens.weight", (VOCABULARY, width))
    for layer in range(layers):
        block = f"model.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield Tensor(f"{block}self_attn.{part}.weight", (width, width))
        yield Tensor(f"{block}mlp.gate_proj.weight", (inner, width))
        yield Tensor(f"{block}mlp.up_proj.weight", (inner, width))
        yield Tensor(f"{block}mlp.down_proj.weight", (width, inner))
        yield Tensor(f"{block}input_layernorm.weight", (width,))
        yield Tensor(f"{block}post_attention_layernorm.weight", (width,))
    yield Tensor("model.norm.weight", (width,))
    yield Tensor("lm_head.weight", (VOCABULARY, width))


def write_model(folder: Path, tensors: list[Tensor], number: int) -> None:
    """Write model ``number`` (0 is the pretrained one) in shards, as transformers does."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if 2 * sum(written.numel for written in (*shards[-1], tensor)) > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    generator = torch.Generator().manual_seed(0)
    pattern = 0.02 * torch.randn(PATTERN_NUMEL, generator=generator)
    if number:
        update = torch.randn(PATTERN_NUMEL, generator=generator.manual_seed(number))
        pattern += 0.002 * update
    numbers = memoryview(pattern.bfloat16().view(torch.uint8).numpy().data)
    places: dict[str, str] = {}
    for index, shard in enumerate(shards, start=1):
        name = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        places |= {tensor.name: name for tensor in shard}
        _write_shard(folder / name, shard, numbers)
    total = 2 * sum(tensor.numel for tensor in tensors)
    content = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def _write_shard(path: Path, tensors: list[Tensor], numbers: memoryview) -> None:
    fields, end = {}, 0
    for tensor in tensors:
        start, end = end, end + 2 * tensor.numel
        fields[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(fields).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            left, begin = 2 * tensor.numel, 2 * (zlib.crc32(tensor.name.encode()) % PATTERN_NUMEL)
            while left:
                count = min(left, len(numbers) - begin)
                file.write(numbers[begin : begin + count])
                left, begin = left - count, 0


def _merge(folder: Path, tensors: list[Tensor], memory: str) -> list[str]:
    place = FOLDER / ".language_models"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    nodes = {
        "pretrained": {"op": "load", "path": str(folder / MODELS[0])},
        "experts": {"op": "load", "path": f"{folder}/{{expert}}", "for_each": {"expert": list(MODELS[1:])}},
        "updates": {"op": "task-vector", "base": "pretrained", "model": "experts"},
        "merged": {"op": "ties", "deltas": "updates", "density": 0.2},
        "scaled": {"op": "lines-scale", "delta": "merged", "deltas": "updates", "alpha": "auto", "beta": 0.5},
        "model": {"op": "apply", "base": "pretrained", "delta": "scaled"},
        "saved": {"op": "save", "model": "model", "path": "model.safetensors", "max_shard_size": "2GB"},
    }
    (place / "recipe.yaml").write_text(json.dumps({"name": "language-models", "nodes": nodes}))
    this_project().ensure()
    program = this_project().programs / "lines-pipeline"
    command = [str(program), "run", "recipe.yaml", "--no-cache", "--memory", memory, "--out", "out"]
    watched = watch(Command(command, place, place / "log.txt", os.environ), Limits(20e9, 3600))
    if watched.failure:
        raise SystemExit(f"the merge failed: {watched.failure}")
    _check(place / "out", tensors)
    sweeps = latest_sweeps(place / "mlflow.db")
    numel = sum(tensor.numel for tensor in tensors)
    return [
        f"{numel / 1e9:.2f} B",
        report.gigabytes(2 * numel * len(MODELS)),
        report.gigabytes(sweeps.read_bytes),
        report.gigabytes(sweeps.written_bytes),
        f"{watched.seconds:.1f}",
        f"{sweeps.seconds:.1f}",
        f"{sweeps.read_bytes / sweeps.seconds / 1e9:.2f}",
        memory,
        report.gigabytes(watched.anonymous_peak_bytes),
    ]


def _check(out: Path, tensors: list[Tensor]) -> None:
    """The output is sharded, has an index, and every tensor is where the index says."""
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == {tensor.name for tensor in tensors}
    for name in set(index.values()):
        size = int.from_bytes((out / name).open("rb").read(8), "little")
        assert set(json.loads((out / name).open("rb").read(8 + size)[8:])) >= {t for t, f in index.items() if f == name}


if __name__ == "__main__":
    main()

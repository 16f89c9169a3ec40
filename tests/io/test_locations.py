"""Paths and URLs that a recipe names: found, found in the Hugging Face cache, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loading_recipe import loading_recipe as recipe
from safetensors.torch import load_file, save_file

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io import hub
from lines_pipeline.io.hub import needed_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in a Hugging Face cache of this test's own, without a network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def no_network(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(hub, "fetch", no_network)
    repository = tmp_path / "hub" / "models--org--repo"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


@pytest.mark.usefixtures("shared_store")
@pytest.mark.parametrize(
    "uri", ["hf://org/repo", "hf://org/repo@main", f"hf://org/repo@{COMMIT}", "hf://org/repo/model.safetensors"]
)
def test_the_hugging_face_cache_is_looked_at_first(uri: str, snapshot: Path, tmp_path: Path) -> None:
    save_file({"w": torch.full((2,), 3.0)}, snapshot / "model.safetensors")
    path = recipe(tmp_path, uri)
    assert lines_pipeline.validate(path).notes == ()
    assert lines_pipeline.plan(path).bytes_read > 0
    assert torch.equal(load_file(lines_pipeline.run(path, out="out").files[0])["w"], torch.full((2,), 3.0))


def test_a_folder_of_a_repository_is_found(snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "unet").mkdir()
    save_file({"w": torch.ones(2)}, snapshot / "unet" / "diffusion_pytorch_model.safetensors")
    assert lines_pipeline.validate(recipe(tmp_path, "hf://org/repo/unet")).notes == ()


@pytest.mark.parametrize(
    "uri", ["hf://org/repo", "hf://org/repo@other", "hf://org/other", "hf://org/repo/other.safetensors"]
)
def test_what_is_not_whole_in_the_cache_is_not_downloaded_yet(uri: str, snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    (note,) = lines_pipeline.validate(recipe(tmp_path, uri)).notes
    assert "not downloaded yet" in note


SMALL = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "chat_template.jinja",
    "README.md",
]
"""Files of a model folder that ``from_pretrained`` wants, and its card."""


@pytest.mark.parametrize(
    ("weights", "read"),
    [
        (["model.safetensors", "pytorch_model.bin", "flax_model.msgpack"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin"], ["pytorch_model.bin"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "model.fp16.safetensors"],
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ),
        (["open_clip_model.safetensors", "open_clip_pytorch_model.bin"], ["open_clip_model.safetensors"]),
        (["adapter_model.safetensors", "adapter_config.json"], ["adapter_config.json", "adapter_model.safetensors"]),
        (["2_Dense/model.safetensors", "2_Dense/config.json"], ["2_Dense/config.json", "2_Dense/model.safetensors"]),
        (["onnx/model.onnx", "onnx/config.json", "unet/model.safetensors"], []),
    ],
)
def test_a_download_brings_the_weights_that_are_read_and_all_small_files(weights: list[str], read: list[str]) -> None:
    assert needed_files([*weights, *SMALL, ".gitattributes", "image.png"]) == sorted([*read, *SMALL])
    inside = [f"part/{name}" for name in (*weights, *SMALL)]
    assert needed_files([*inside, "model.safetensors"], "part") == sorted(f"part/{name}" for name in (*read, *SMALL))


@pytest.mark.usefixtures("shared_store")
def test_a_repository_is_fetched_once_and_again_where_the_cache_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    asked: list[list[str]] = []

    class Api:
        def list_repo_files(self, repository: str, **options: Any) -> list[str]:
            assert (repository, options) == ("org/repo", {"revision": None, "repo_type": "model"})
            return ["pytorch_model.bin", "config.json", "weights[1].png"]

    def snapshot(repository: str, *, allow_patterns: list[str] | None = None, **options: Any) -> str:
        if options.get("local_files_only"):
            raise FileNotFoundError
        asked.append(allow_patterns or [])
        folder = tmp_path / f"snapshot{len(asked)}"
        folder.mkdir()
        torch.save({"w": torch.ones(2)}, folder / "pytorch_model.bin")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    path = recipe(tmp_path, "hf://org/repo")
    for _ in range(2):
        lines_pipeline.run(path, out="out")
    assert asked == [["config.json", "pytorch_model.bin"]]
    (tmp_path / "snapshot1").rename(tmp_path / "gone")
    lines_pipeline.run(path, out="out")
    assert len(asked) == 2


HOSTILE = {
    "~nobody-here/model.safetensors": "'~nobody-here' has no home folder",
    "x" * 5000: "cannot be the path of a checkpoint",
    "a\0b": "recipe.yaml",
    "hf://org": "expected hf://org/repo",
    "hf://../..": "expected hf://org/repo",
    "hf://org/repo/../../x.safetensors": "expected hf://org/repo",
    "hf://org/repo@../x.safetensors": "expected hf://org/repo",
    "hf://org/repo/a\x1b[31m.safetensors": r"\x1b[31m",
    "ftp://host/x": "unknown kind of URL",
    "file:///etc/passwd": "unknown kind of URL",
    "\x1b]0;title\x07://x": r"no such file",
}


@pytest.mark.parametrize(("uri", "words"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_what_cannot_be_located_is_refused(uri: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        lines_pipeline.validate(recipe(tmp_path, uri))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "uri", ["https://host/..", "https://host/", "https://[", "s3://bucket/\ud800x", "https://h/" + "y" * 4000]
)
def test_odd_urls_stay_in_the_folder_of_downloads(uri: str, tmp_path: Path) -> None:
    (tmp_path / "cache" / "lines-pipeline" / "downloads").mkdir(parents=True)
    from lines_pipeline.io.locations import locate

    assert locate(uri, tmp_path, tmp_path / "cache" / "lines-pipeline" / "downloads").path is None

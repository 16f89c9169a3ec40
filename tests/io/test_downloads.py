"""Downloads are checked when they arrive and before every use: what differs is fetched again."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from loading_recipe import loading_recipe as recipe
from safetensors.torch import load_file, save

import lines_pipeline
from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.downloads import download
from lines_pipeline.io.locations import locate

pytestmark = pytest.mark.usefixtures("shared_store")

CONTENT = save({"w": torch.full((64,), 3.0)})
URL = "s3://bucket/model.safetensors"
DOWNLOADS = Path("cache/lines-pipeline/downloads")


class Store(MemoryFileSystem):  # type: ignore[misc]
    """An object store that describes its files, and whose downloads may be damaged on the way."""

    protocol = ("s3", "gs")
    cachable = False
    store: dict[str, Any] = {}
    described: dict[str, Any] = {}
    faults: Iterator[Callable[[bytes], bytes]] = iter(())
    fetched = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.rpartition("://")[2].strip("/")

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {**super().info(path, **options), **self.described}

    def get_file(self, rpath: str, lpath: str, *arguments: Any, **options: Any) -> None:
        type(self).fetched += 1
        Path(lpath).write_bytes(next(self.faults, lambda content: content)(self.cat_file(rpath)))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> type[Store]:
    """A store of this test's own for ``s3`` and ``gs``, with one model."""
    for name, value in {"store": {}, "described": {}, "faults": iter(()), "fetched": 0, "pseudo_dirs": [""]}.items():
        monkeypatch.setattr(Store, name, value)
    for protocol in ("s3", "gs"):
        monkeypatch.setitem(import_module("fsspec.registry")._registry, protocol, Store)
    Store().pipe_file("/bucket/model.safetensors", CONTENT)
    return Store


def flipped(content: bytes) -> bytes:
    changed, generator = bytearray(content), random.Random(0)
    changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def result(path: Path) -> tuple[list[float], list[str]]:
    """What a run of the recipe saves, and the notes of downloads."""
    run_result = lines_pipeline.run(path, out="out", scheduler="serial")
    return load_file(run_result.files[0])["w"].tolist(), [note for note in run_result.notes if "fetched again" in note]


def test_a_bit_that_flips_in_a_download_or_its_note_changes_nothing(store: type[Store], tmp_path: Path) -> None:
    path = recipe(tmp_path, URL)
    assert result(path) == ([3.0] * 64, []) and store.fetched == 1
    assert result(path) == ([3.0] * 64, []) and store.fetched == 1
    for number, file in enumerate(sorted(file for file in DOWNLOADS.rglob("*") if file.is_file()), 2):
        file.write_bytes(flipped(file.read_bytes()))
        values, notes = result(path)
        assert values == [3.0] * 64 and store.fetched == number and len(notes) == 1
    assert number == 3


def test_a_download_without_a_note_of_its_digest_is_fetched_again(store: type[Store], tmp_path: Path) -> None:
    kept = download(URL, DOWNLOADS)
    kept.write_bytes(save({"w": torch.zeros(64)}))
    kept.with_name(f"{kept.name}.digests.json").unlink()
    assert locate(URL, tmp_path, DOWNLOADS).path is None
    values, (note,) = result(recipe(tmp_path, URL))
    assert values == [3.0] * 64 and "has no digest" in note


def test_other_contents_at_the_same_url_are_told(store: type[Store]) -> None:
    kept, notes = download(URL, DOWNLOADS), list[str]()
    kept.write_bytes(b"damaged")
    store().pipe_file("/bucket/model.safetensors", b"other")
    assert download(URL, DOWNLOADS, notes.append).read_bytes() == b"other"
    assert notes == [f"{URL}: what the cache holds of it is damaged; it was fetched again, and has other contents now"]


def test_a_damaged_download_that_cannot_be_fetched_is_refused(store: type[Store]) -> None:
    download(URL, DOWNLOADS).write_bytes(flipped(CONTENT))
    store.store.clear()
    with pytest.raises(CheckpointError, match="is damaged, and cannot be downloaded"):
        download(URL, DOWNLOADS)


MD5 = hashlib.md5(CONTENT).digest()
DESCRIBED = {
    "gs": {"md5Hash": base64.b64encode(MD5).decode()},
    "s3": {"ETag": f'"{MD5.hex()}"'},
    "s3 by size": {"size": len(CONTENT)},
}


@pytest.mark.parametrize(("scheme", "described"), DESCRIBED.items())
def test_what_arrives_damaged_is_fetched_once_more(scheme: str, described: Any, store: type[Store]) -> None:
    store.described = described
    damage = (lambda content: content[:-1]) if "size" in described else flipped
    uri = URL.replace("s3", scheme.partition(" ")[0])
    store.faults = iter([damage])
    assert download(uri, DOWNLOADS).read_bytes() == CONTENT and store.fetched == 2
    store.faults = iter([lambda content: damage(content)[::-1], damage])
    with pytest.raises(CheckpointError, match="does not arrive as the store describes it"):
        download(uri, Path("elsewhere"))
    assert not [path for path in Path("elsewhere").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("etag", "fetched"), [("0" * 32, 2), (f"{'0' * 32}-7", 1)])
def test_an_etag_that_is_no_checksum_refuses_nothing(etag: str, fetched: int, store: type[Store]) -> None:
    """As with keys of KMS, or of what was sent in parts."""
    store.described = {"ETag": f'"{etag}"'}
    assert download(URL, DOWNLOADS).read_bytes() == CONTENT and store.fetched == fetched


COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"model.safetensors": CONTENT, "config.json": b'{"model_type": "tested"}'}


class Hub:
    """A repository of the hub, fetched as ``huggingface_hub`` does: contents that the cache has are not."""

    def __init__(self, cache: Path) -> None:
        self.folder, self.fetched = cache / "models--org--repo", list[str]()
        self.damage: Iterator[Callable[[bytes], bytes]] = iter(())

    def list_repo_files(self, repository: str, **options: Any) -> list[str]:
        return list(FILES)

    def snapshot_download(self, repository: str, **options: Any) -> str:
        snapshot = self.folder / "snapshots" / COMMIT
        if options.get("local_files_only"):
            raise FileNotFoundError
        for name, content in FILES.items():
            small = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            etag = small if name.endswith(".json") else hashlib.sha256(content).hexdigest()
            blob = self.folder / "blobs" / etag
            if not blob.exists():
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes(next(self.damage, lambda same: same)(content))
                self.fetched.append(name)
            if not (snapshot / name).exists():
                snapshot.mkdir(parents=True, exist_ok=True)
                (snapshot / name).symlink_to(blob)
        return str(snapshot)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """``hf://org/repo``, with a cache of this test's own and no network."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fake_hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake_hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake_hub.snapshot_download)
    return fake_hub


@pytest.mark.parametrize("name", FILES)
def test_a_bit_that_flips_in_a_fetched_repository_changes_nothing(name: str, repository: Hub, tmp_path: Path) -> None:
    path = recipe(tmp_path, "hf://org/repo")
    assert result(path) == ([3.0] * 64, []) and repository.fetched == list(FILES)
    blob = (repository.folder / "snapshots" / COMMIT / name).resolve()
    blob.write_bytes(flipped(FILES[name]))
    values, notes = result(path)
    assert values == [3.0] * 64 and len(notes) == 1 and repository.fetched == [*FILES, name]
    assert blob.read_bytes() == FILES[name]


def test_what_the_hub_sends_is_compared_with_its_checksums(repository: Hub) -> None:
    repository.damage = iter([flipped])
    folder = download("hf://org/repo", DOWNLOADS)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert repository.fetched == [*FILES, "model.safetensors"]


def test_what_the_hub_sends_damaged_twice_is_refused(repository: Hub) -> None:
    repository.damage = iter([flipped] * 3)
    with pytest.raises(CheckpointError, match=r"does not have the checksum that the hub gives of it"):
        download("hf://org/repo", DOWNLOADS)


def test_a_query_is_no_part_of_the_name(store: type[Store], tmp_path: Path) -> None:
    uri = f"{URL}?versionId=1"
    store().pipe_file("/bucket/model.safetensors?versionId=1", CONTENT)
    assert download(uri, DOWNLOADS).name == "checkpoint.safetensors"
    assert locate(uri, tmp_path, DOWNLOADS).path is not None

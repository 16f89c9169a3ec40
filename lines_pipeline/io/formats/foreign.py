"""Recognises files that merges do not read, by first bytes or name, and says what to do with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.checkpoint import TORCH_SUFFIXES

SAFETENSORS = ".safetensors"

_GGUF = "a GGUF file of llama.cpp: merge the model that it was converted from"
_HDF5 = (
    "an HDF5 file, as Keras and h5py write: load the model with transformers (from_tf=True), or its weights, and save "
    "them as safetensors"
)
_NUMPY = "arrays of numpy: save them with safetensors.numpy.save_file"
_DISTCP = (
    "a distributed checkpoint of torch: convert its folder into one file with "
    "torch.distributed.checkpoint.format_utils.dcp_to_torch_save(folder, 'model.pt')"
)
_DEEPSPEED = "a DeepSpeed checkpoint: make one file of it with the zero_to_fp32.py in it"
_TENSORFLOW = "a checkpoint of TensorFlow: load the model with transformers (from_tf=True) and save it as safetensors"
_FLAX = "a msgpack file of Flax: load the model with transformers (from_flax=True) and save it as safetensors"
_PICKLE = "a pickle, which is not loaded because it can run code: save the state_dict() with torch.save or safetensors"
_ARCHIVE = "an archive: unpack it and name the checkpoint in it"
_HTML = "a web page, not a checkpoint: the download failed, or asked for a login"

_BEGINNINGS = {
    b"GGUF": _GGUF,
    b"\x89HDF\r\n\x1a\n": _HDF5,
    b"\x93NUMPY": _NUMPY,
    b"\x1f\x8b": _ARCHIVE,
    b"BZh": _ARCHIVE,
    b"\xfd7zXZ": _ARCHIVE,
    b"\x28\xb5\x2f\xfd": _ARCHIVE,
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run 'git lfs pull'",
    b"<!doctype": _HTML,
    b"<html": _HTML,
}
_SUFFIXES = {
    ".gguf": _GGUF,
    ".ggml": _GGUF,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".keras": _HDF5,
    ".npz": _NUMPY,
    ".npy": _NUMPY,
    ".distcp": _DISTCP,
    ".metadata": _DISTCP,
    ".msgpack": _FLAX,
    ".onnx": "an ONNX graph: merge the model that it was exported from",
    ".pb": _TENSORFLOW,
    ".tflite": _TENSORFLOW,
    ".index": _TENSORFLOW,
    ".meta": _TENSORFLOW,
    ".data-00000-of-00001": _TENSORFLOW,
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".joblib": _PICKLE,
    ".pt2": "a program of torch.export: save torch.export.load(file).state_dict with torch.save",
    ".nemo": _ARCHIVE,
    ".mar": _ARCHIVE,
    ".zip": _ARCHIVE,
    ".tar": _ARCHIVE,
    ".gz": _ARCHIVE,
    ".json": "a JSON file: name the folder that the checkpoint lies in",
}
_IN_FOLDERS = {
    ".distcp": _DISTCP,
    "_model_states.pt": _DEEPSPEED,
    **{suffix: _SUFFIXES[suffix] for suffix in (".gguf", ".msgpack", ".h5", ".onnx", ".npz")},
}
"""What a folder holds instead of weights, by the endings of its files; the more telling ones first."""
_TORCH_BEGINNINGS = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")
_TAR_MAGIC = slice(257, 262)


def refuse_foreign_file(path: Path) -> None:
    """Raise ``CheckpointError`` for a file that is neither a torch file nor safetensors, or is named as the other."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    finding = _by_content(path, start) or _by_name(path)
    if finding:
        raise CheckpointError(f"{path}: {finding}")


def refuse_foreign_folder(folder: Path) -> None:
    """Raise ``CheckpointError`` for the folder of a distributed checkpoint."""
    if next(folder.glob("*.distcp"), None) is not None:
        raise CheckpointError(f"{folder}: {_DISTCP}")


def other_format(names: Iterable[str]) -> str:
    """Return what a folder without readable weights holds instead, and what to do; empty where it is nothing known."""
    listed = sorted(names)
    findings = (advice for ending, advice in _IN_FOLDERS.items() if any(name.endswith(ending) for name in listed))
    return next(findings, "")


def _by_content(path: Path, start: bytes) -> str | None:
    for beginning, finding in _BEGINNINGS.items():
        if start[: len(beginning)].lower() == beginning.lower():
            return finding
    if start[_TAR_MAGIC] == b"ustar":
        return _ARCHIVE
    if path.suffix.lower() == SAFETENSORS and start.startswith(_TORCH_BEGINNINGS):
        return "a torch file, not safetensors: rename it to end in .pt"
    if path.name.lower().endswith(TORCH_SUFFIXES) and start[:1] == b"\x80" and not start.startswith(_TORCH_BEGINNINGS):
        return _PICKLE
    length = int.from_bytes(start[:8], "little")
    if path.name.lower().endswith(TORCH_SUFFIXES) and start[8:9] == b"{" and length <= path.stat().st_size:
        return "a safetensors file, not a torch file: rename it to end in .safetensors"
    return None


def _by_name(path: Path) -> str | None:
    name = path.name.lower()
    if name.endswith((SAFETENSORS, *TORCH_SUFFIXES)):
        return None
    known = _SUFFIXES.get(path.suffix.lower()) or _SUFFIXES.get(name)
    return known or f"unknown kind of file, expected {SAFETENSORS}, {', '.join(TORCH_SUFFIXES)} or a folder"

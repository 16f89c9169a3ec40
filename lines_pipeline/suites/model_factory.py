"""Makes the module that a suite file names, and tells what of it may run only where the user trusts the folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.printable import shortened
from lines_pipeline.core.trust import remedy, why_untrusted
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.suites.base import ForeignCode
from lines_pipeline.suites.factories import HARMLESS_ARGUMENTS, find_code, shipped_kind
from lines_pipeline.suites.models import Model, state_of
from lines_pipeline.suites.suite_files import ModelFactory, SuiteDocument
from lines_pipeline.suites.user_code import call, told_as_users


def factory_code(document: SuiteDocument, model: ModelFactory) -> Code | None:
    """Return the Python of the user's that makes the model; None for a factory that ships. Imports nothing.

    Raises ``EvalError``, with the place in the file, where it is not there.
    """
    if shipped_kind(model.factory):
        return None
    return named_code(document, ("model", "factory"), model.factory, "model factory")


def named_code(document: SuiteDocument, field: tuple[str, ...], text: str, role: str) -> Code:
    """Return the Python that a field of the file names; ``EvalError`` with its place where it is not there."""
    try:
        return find_code(text, document.path.parent, role)
    except EvalError as error:
        raise document.error(field, str(error)) from error


def foreign_code(path: Path, code: Iterable[Code], model: ModelFactory | None) -> ForeignCode | None:
    """Return the code of a suite file that may do anything: the user's Python, or what could unpickle files."""
    code = list(code)
    shown = [part.shown for part in code]
    if model is not None and shipped_kind(model.factory):
        odd = sorted(set(model.arguments) - HARMLESS_ARGUMENTS)
        shown += [f"{model.factory} with {', '.join(map(shortened, odd[:5]))}"] if odd else []
    if not shown:
        return None
    own = [part.file.resolve() for part in code if part.root and part.file]
    folders = dict.fromkeys(file.parent for file in (path, path.resolve(), *own))
    reasons = [(reason, folder) for folder in folders if (reason := why_untrusted(folder))]
    return ForeignCode(", ".join(shown), f"{reasons[0][0]}; {remedy(reasons[0][1])}" if reasons else "")


def make_model(path: Path, model: ModelFactory, code: Code | None) -> tuple[nn.Module, Any]:
    """Return the module, and the image transform that comes with it, if any."""
    if code is None:
        return _open_clip(path, model.factory.partition(":")[2], model.arguments)
    module = call(code, path, **model.arguments)
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise EvalError(f"{path}: model factory {model.factory} gave a {kind}, expected a torch module")
    return module, None


def loaded(path: Path, factory: str, module: nn.Module, model: Model, code: Code | None, device: str) -> nn.Module:
    """Return the module with the weights of a model, on a device; a model that is a module is taken itself."""
    if isinstance(model, nn.Module):
        module = model
    else:
        try:
            module.load_state_dict(state_of(model))
        except RuntimeError as error:
            raise EvalError(f"{path}: the model does not fit {factory}: {error}") from error
    with told_as_users(path, f"model factory {factory}: the model", code):
        return module.eval().to(device)


def _open_clip(path: Path, name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    try:
        import open_clip
    except ImportError as error:
        raise EvalError(
            f"{path}: model factory: open_clip cannot be imported (pip install 'lines-pipeline[clip]')"
        ) from error
    with told_as_users(path, f"model factory open_clip:{name}", None):
        model, _, transform = open_clip.create_model_and_transforms(name, **arguments)
    return _ImageTower(model), transform


class _ImageTower(nn.Module):
    """Wraps an open_clip model, from images to features; the tensors of its text tower may be absent."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.encode_image(images)  # type: ignore[operator]
        return features

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        result = self.model.load_state_dict(state, strict=False, assign=assign)
        missing = [name for name in result.missing_keys if name.startswith("visual.")]
        if missing or result.unexpected_keys:
            raise RuntimeError(f"missing tensors {missing[:3]}, unexpected ones {result.unexpected_keys[:3]}")
        return result

"""The model that a suite file of texts names: its base, its tokenizer, and the user's Python that makes it, if any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from lines_pipeline.core.user_code.files import Code
from lines_pipeline.suites.file_suite import FileSuite
from lines_pipeline.suites.model_factory import loaded, make_model, named_code
from lines_pipeline.suites.models import Model, StoredModel
from lines_pipeline.suites.suite_files import ModelFactory
from lines_pipeline.suites.text_base import TextBase, Tokenizer
from lines_pipeline.suites.text_classification_file import TextClassificationFile
from lines_pipeline.zoo.catalogue import locate as zoo_checkpoint


@dataclass(frozen=True)
class TextSuiteModel:
    """Makes modules that models of a suite fit, from tokens to features or logits."""

    suite: FileSuite[TextClassificationFile]

    @cached_property
    def code(self) -> Code | None:
        """Return the user's Python that makes the module; None where transformers does."""
        model = self.suite.content.model
        if not model.is_own:
            return None
        return named_code(self.suite.document, ("model", "factory"), model.factory, "model factory")

    @property
    def base(self) -> TextBase:
        """Return the base's folder as it is now; a local one need not be there."""
        base = self.suite.content.model.base
        if base.startswith("zoo://"):
            folder = zoo_checkpoint(base).path.parent
        else:
            folder = self.suite.path.parent / base if self.has_local_base else self.suite.local(base)
        return TextBase.of(folder, self.suite.content.model)

    @property
    def has_local_base(self) -> bool:
        """Return whether the base is a folder on this machine, or the zoo's."""
        base = self.suite.content.model.base
        return "://" not in base or base.startswith("zoo://")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the base's folder, read once."""
        return self.base.tokenizer()

    def module(self) -> nn.Module:
        """Return a new module: from tokens to features, or to logits where the head is part of the model."""
        if self.code is None:
            return self.base.encoder()
        model = self.suite.content.model
        return make_model(self.suite.path, ModelFactory(factory=model.factory, arguments=model.arguments), self.code)[0]

    def loaded(self, model: Model, device: str) -> nn.Module:
        """Return a module with the weights of a model; ``EvalError`` where it does not fit."""
        return loaded(self.suite.path, self.suite.content.model.factory, self.module(), model, self.code, device)

    def with_base_weights(self) -> nn.Module:
        """Return a module with the weights of the base, on the CPU."""
        folder = self.base.folder
        return loaded(self.suite.path, f"its base {folder}", self.module(), StoredModel(folder), self.code, "cpu")

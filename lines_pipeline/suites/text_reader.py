"""Has a model read texts, a batch of similar lengths at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lines_pipeline.core.errors import EvalError
from lines_pipeline.core.user_code.files import Code
from lines_pipeline.suites.labelled_texts import LabelledTexts
from lines_pipeline.suites.text_base import Tokenizer
from lines_pipeline.suites.user_code import told_as_users

BATCH_SIZE = 32


@dataclass(frozen=True)
class TextReader:
    """Holds a model, its tokenizer, and for messages what it reads for and the user's Python that made it, if any."""

    module: nn.Module
    tokenizer: Tokenizer
    suite: Path
    task: str
    code: Code | None

    def outputs(self, data: LabelledTexts, width: int, device: str) -> torch.Tensor:
        """Return what the model gives [n, width], in the data's order, on the CPU; ``EvalError`` for another shape."""
        order, parts = data.by_length(), list[torch.Tensor]()
        for start in range(0, len(order), BATCH_SIZE):
            batch = data.picked(order[start : start + BATCH_SIZE])
            tokens = self.tokenizer.tokens(batch.texts, batch.pairs)
            parts.append(self._output(tokens.to(device), width).cpu())
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def _output(self, tokens: torch.Tensor, width: int) -> torch.Tensor:
        lead = f"task '{self.task}': the model does not take tokens of shape {tuple(tokens.shape)}: it"
        with told_as_users(self.suite, lead, self.code):
            output = self.module(tokens)
        if not isinstance(output, torch.Tensor) or output.shape != (len(tokens), width):
            shape = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
            raise EvalError(
                f"{self.suite}: task '{self.task}': the model gave {shape}, expected [{len(tokens)}, {width}]: "
                "features, as many as the head has, or logits, one a class"
            )
        return output.float()

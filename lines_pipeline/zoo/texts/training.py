"""Fine-tunes experts: all blocks of the encoder, towards frozen heads; word embeddings stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from lines_pipeline.zoo.entries import Report
from lines_pipeline.zoo.texts.corpora import Labelled
from lines_pipeline.zoo.texts.encoder import SentenceEncoder, pretrained
from lines_pipeline.zoo.texts.splits import read_split
from lines_pipeline.zoo.texts.tasks import TASKS, classes, settings

BATCH_SIZE = 16
RATE = 1e-4
"""The peak of a one-cycle learning rate."""


def fine_tune(task: str, seed: int, report: Report = lambda done: None) -> Mapping[str, torch.Tensor]:
    """Return an expert's tensors, by the names of the pretrained one's; the same for one seed and thread count."""
    max_length, scale = settings()
    encoder = SentenceEncoder.load(max_length)
    texts, named = read_split(task, "train"), classes(task)
    with torch.no_grad():
        head = encoder.features(named.texts)
    numbers = torch.tensor([named.names.index(text.label) for text in texts])
    generator = torch.Generator().manual_seed(1_000 * seed + list(TASKS).index(task))
    parameters = _trained(encoder.model)
    steps = TASKS[task].steps
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for done, batch in zip(range(1, steps + 1), _batches(texts, generator), strict=False):
        features = encoder.features([texts[number].text for number in batch])
        loss = functional.cross_entropy(scale * features @ head.T, numbers[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        cycle.step()
        report(done)
    return _tensors(encoder.model)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the blocks; those of the embeddings and of the unused pooler are frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("encoder."))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _batches(texts: list[Labelled], generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches, each text once an epoch."""
    waiting: list[int] = []
    while True:
        while len(waiting) < BATCH_SIZE:
            waiting += torch.randperm(len(texts), generator=generator).tolist()
        yield waiting[:BATCH_SIZE]
        waiting = waiting[BATCH_SIZE:]


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's tensors, and what else the pretrained file holds as it is."""
    tuned = model.state_dict()
    return {name: tuned.get(name, value).contiguous() for name, value in load_file(pretrained()).items()}

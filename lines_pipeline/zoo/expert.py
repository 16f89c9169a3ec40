"""Fine-tunes experts: ``python -m lines_pipeline.zoo.expert URI...`` prints a line of progress every few steps."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lines_pipeline.io.write_once import written_once
from lines_pipeline.zoo.catalogue import ZOOS, locate, parse
from lines_pipeline.zoo.entries import Report

_EVERY = 20


def write_expert(uri: str, report: Report) -> None:
    """Fine-tune and store an expert, whole or not at all, unless a sound one is there."""
    address = parse(uri)

    def write(path: Path) -> None:
        save_file(dict(ZOOS[address.zoo].train(address, report)), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o644)

    written_once(locate(uri).path, write, what=f"the expert {uri}")


def main(uris: list[str]) -> None:
    """Build the named experts one after the other in one thread."""
    torch.set_num_threads(1)
    for uri in uris:

        def report(done: int, uri: str = uri) -> None:
            if done % _EVERY == 0:
                print(f"{uri} {done}", flush=True)

        write_expert(uri, report)


if __name__ == "__main__":
    main(sys.argv[1:])

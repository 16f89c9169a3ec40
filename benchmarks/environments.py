"""Virtual environments of the tools compared, made once from pinned requirements."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / ".venvs"
PINS = Path(__file__).parent / "environments"


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and what pip is asked to put in it."""

    name: str
    requirements: tuple[str, ...]

    @property
    def programs(self) -> Path:
        """Where its python and the commands of its packages are."""
        return FOLDER / self.name / "bin"

    def ensure(self) -> None:
        """Make it unless it is there with just these packages."""
        installed = FOLDER / self.name / "installed.txt"
        requirements = "\n".join(Path(part).read_text() if Path(part).is_file() else part for part in self.requirements)
        if installed.exists() and installed.read_text() == requirements:
            return
        print(f"making the environment {self.name} ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER / self.name)], check=True)
        pip = [str(self.programs / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, *self.requirements], check=True)
        installed.write_text(requirements)


def pinned(name: str) -> Environment:
    """The environment whose every package is listed in ``environments/NAME.txt``."""
    return Environment(name, ("-r", str(PINS / f"{name}.txt")))


def this_project() -> Environment:
    """This checkout, editable, with the packages of ``constraints.txt``."""
    return Environment("lines_pipeline", ("-c", str(ROOT / "constraints.txt"), "-e", str(ROOT)))

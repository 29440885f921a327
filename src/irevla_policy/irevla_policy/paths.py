"""Where the files that ship with the suite are: in the source tree, or in the package's installed share."""

from __future__ import annotations

import os
from pathlib import Path


def config_folder() -> Path:
    """The folder `config/` with robots, tasks and default settings.

    In a source tree it lies at the root; installed, in `share/irevla_policy/config`.

    Raises:
        FileNotFoundError: Neither exists.
    """
    for parent in Path(__file__).resolve().parents:
        if (parent / "config" / "robots").is_dir():
            return parent / "config"
        if (parent / "share" / "irevla_policy" / "config").is_dir():
            return parent / "share" / "irevla_policy" / "config"
    raise FileNotFoundError("the folder config/ of irevla_policy is neither in the source tree nor in its share")


def from_anywhere(name: str) -> str:
    """A name as it is, and a YAML file by its whole path: what is kept is found from another folder, too."""
    return os.path.abspath(name) if name.endswith((".yaml", ".yml")) else name

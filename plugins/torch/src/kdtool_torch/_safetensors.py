"""Tensors in files with the permissions of the umask."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["give_usual_mode", "write_safetensors"]


def write_safetensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors as safetensors, for the readers that the umask allows."""
    from safetensors.torch import save_file

    save_file(dict(tensors), file)
    give_usual_mode(file)


def give_usual_mode(file: Path) -> None:
    """Give a file the mode of any new file: safetensors creates files that only their owner can read."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}")
    os.close(handle)
    probe = Path(name)
    probe.unlink()
    probe.touch()
    try:
        file.chmod(probe.stat().st_mode & 0o777)
    finally:
        probe.unlink()

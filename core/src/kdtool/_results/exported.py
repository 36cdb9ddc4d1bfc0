"""Paths of exported models without fingerprints: `exports/NAME` in the run's folder, as hard links."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from kdtool._contract.evaluation import Artifact

__all__ = ["link_export", "place_of"]


def place_of(artifact: Artifact, folder: Path) -> Path:
    """Return where users find an exported model of the run in `folder`: its link, or itself where there are no links."""
    link, path = _link(artifact, folder), folder / artifact.path
    return link if link.is_dir() or (link.exists() and link.samefile(path)) else path


def link_export(artifact: Artifact, folder: Path) -> None:
    """Link an exported model of the run in `folder`; leave none on a disk that has no hard links."""
    link = _link(artifact, folder)
    aside = link.with_name(f"{link.name}.linking")
    for old in (aside, link):
        shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):
        link.unlink(missing_ok=True)
        if artifact.path.is_dir():
            shutil.copytree(artifact.path, aside, copy_function=os.link)
            aside.rename(link)
        else:
            os.link(artifact.path, link)
    shutil.rmtree(aside, ignore_errors=True)


def _link(artifact: Artifact, folder: Path) -> Path:
    """Return the path under a file's own name, or under the exporter's for a folder, which several may call alike."""
    exports, path = folder / "exports", folder / artifact.path
    exporter, dash, _ = path.relative_to(exports).parts[0].rpartition("-")
    assert dash, "artefacts lie in NAME-FINGERPRINT"  # noqa: S101
    return exports / (path.name if path.is_file() else exporter)

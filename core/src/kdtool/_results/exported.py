"""Exported models without fingerprints in their paths: `exports/NAME` in the run's folder, as hard links."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from kdtool._contract.evaluation import Artifact
from kdtool._contract.reporting import export_link

__all__ = ["link_export"]


def link_export(artifact: Artifact, folder: Path) -> None:
    """Link an exported model of the run in `folder`; leave none on a disk that has no hard links."""
    link = export_link(artifact, folder)
    if link == artifact.path:
        return
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

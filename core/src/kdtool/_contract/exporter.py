"""Exporters: the trained student in other formats."""

from __future__ import annotations

from pathlib import Path

from kdtool._contract.component import Component
from kdtool._contract.evaluation import Artifact, Subject
from kdtool._contract.hooks import hook
from kdtool._contract.language_model import Runtime
from kdtool._contract.reporting import Results
from kdtool._contract.run_info import RunInfo


class Exporter(Component):
    """Writes a trained student in a format, and opens the result."""

    kind = "exporter"

    @hook(needed=True)
    def kdtool_export(self, run: RunInfo, trained: Path) -> Artifact:
        """Write the student in folder `trained` (written by `LanguageModel.save`) below `run.folder`. On rank 0.

        The artefact is a separate file or folder there; the engine moves it, so it must not contain its path. The same
        student and `run.texts` give the same files. Do not change `trained`. Since 0.1.
        """
        raise NotImplementedError

    @hook(first=True)
    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        """Open an artefact of this exporter (role "artifact"), wherever it is now; None for others. Since 0.1."""

    def kdtool_card(self, run: RunInfo, artifact: Artifact, results: Results) -> str | None:
        """Return the artefact's model card with the run's measurements, in Markdown; None keeps `artifact.card`.

        Called at the end of every run, on rank 0, for an artefact that has a card. The same results give the same card.
        Since 0.1.
        """

"""The exporter `gguf` writes and opens GGUF files for llama.cpp; the transform `gguf-grid` trains with a file's weights.

llama.cpp answers, streams and scores in child processes. Every export is compared with the student. This module
imports neither torch nor gguf, so that building a component stays cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool

from kdtool_export.gguf.settings import QUANTISED, GGUFConfig, GGUFGridConfig
from kdtool_export.shared import DescribedExporter

if TYPE_CHECKING:
    from kdtool_export.gguf.calibration import Prepared
    from kdtool_export.gguf.checks import Parity


__all__ = ["GGUF", "GGUFGrid"]


class GGUF(DescribedExporter):
    """Writes students as GGUF files for llama.cpp, Ollama and LM Studio; opens those of any model that llama.cpp runs."""

    extra = "gguf"

    class Config(GGUFConfig):
        """Settings of the exporter `gguf`."""

    config: Config

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        """Yield memory and disk of the export.

        Raises:
            UsageError: the student cannot be exported, if this is known before its tokenizer is downloaded.
        """
        from kdtool_export.gguf.checks import estimated_bytes, open_questions

        for question in open_questions(ahead):
            yield kdtool.Estimate("exported student", note=question)
        student = ahead.models.get(ahead.student)
        if student is not None:
            size = estimated_bytes(ahead, self.config.type)
            yield kdtool.Estimate("exported student", ("exports",), 4 * student.parameters + 2 * size)
            yield kdtool.Estimate("exported student", disk_bytes=size)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a student that is not a plain Llama, or whose tokenizer llama.cpp does not support.

        Raises:
            UsageError: the student cannot be exported.
        """
        from kdtool_transformers import open_config, open_tokenizer

        from kdtool_export.gguf.checks import require_readable
        from kdtool_export.gguf.files import require_gguf

        if run.untrained is None:
            return
        config = open_config(run.untrained, offline=True)
        tokenizer = open_tokenizer(run.untrained, offline=True)
        require_gguf(config, tokenizer)
        require_readable(config, tokenizer)

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact:
        """Write the student, and check that llama.cpp reproduces it.

        Raises:
            UsageError: the student is not a plain Llama, or the format has no name for its tokenizer's way of splitting.
            PluginError: llama.cpp splits text differently from the student's tokenizer, or computes other probabilities.
            StorageError: the file cannot be written, such as on a full disk.
        """
        from kdtool_torch import widen
        from kdtool_transformers import open_model
        from kdtool_transformers.card import model_card, write_notices

        from kdtool_export.gguf.calibration import prepare
        from kdtool_export.gguf.checks import require_same
        from kdtool_export.gguf.quantisation import write_quantised

        student = open_model(trained, offline=True)
        widen(student.model)  # llama.cpp keeps sums and states in float32
        prepared = prepare(run, student, trained, self.config)
        file = write_quantised(run, student, prepared, self.config)
        parity = require_same(student, file, prepared, self.config)
        run.say(f"{file.name}: {parity}")
        write_notices(run.folder, run)
        how_to_use = "llama-server -m {path}\n"
        quantisation = self.config.type if self.config.type in QUANTISED else ""
        use = f"```console\n{how_to_use.format(path=file.name)}```"
        stored = self._describe_storage(prepared, parity)
        card = model_card(run, student.facts, stored=stored, library="llama.cpp", use=use)
        return kdtool.Artifact(file, "gguf", file.stat().st_size, quantisation, how_to_use, card)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        path = subject.path
        if subject.role != "artifact" or path is None or not path.is_file():
            return None
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                return None
        from kdtool_export.gguf.runtime import GGUFRuntime

        return GGUFRuntime(path, context=self.config.context)

    def _describe_storage(self, prepared: Prepared, parity: Parity) -> str:
        lines = [f"Weights in {self.config.type}"]
        if prepared.calibrated:
            lines.append(
                f", columns weighed by an importance matrix of {prepared.calibrated:,} tokens of training text"
            )
        return "".join([*lines, f". Compared with the student it was made of: {parity}."])


class GGUFGrid(kdtool.Transform):
    """Trains with the weights that a GGUF file of a type would contain, so that the export changes them little."""

    extra = "gguf"

    class Config(GGUFGridConfig):
        """Settings of the transform `gguf-grid`: those of the file that the student will be exported to."""

    config: Config

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        facts = None if ahead.phase is None else ahead.phase.facts
        if ahead.phase is not None and facts is not None:
            yield kdtool.Estimate("rounded weights", (ahead.phase.stage,), compute_bytes=2 * 4 * facts.parameters)

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        from kdtool_export.gguf.grid import Grid

        grid = Grid(student, self.config, run)
        yield student
        grid.settle()

"""The exporter `gguf`: writes and opens GGUF files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kdtool

from kdtool_exporter_gguf._config import GGUFConfig

__all__ = ["GGUF"]

_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}


class GGUF(kdtool.Exporter):
    """Writes Llama students for `llama-server`, Ollama and LM Studio; opens GGUF files of any model that llama.cpp runs."""

    class Config(GGUFConfig):
        """Settings of the exporter `gguf`."""

    config: Config

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        """Yield memory and disk of the export.

        Raises:
            UsageError: the student cannot be exported, as far as this is known before its tokenizer is downloaded.
        """
        from kdtool_exporter_gguf._ahead import open_questions

        for question in open_questions(ahead):
            yield kdtool.Estimate("exported student", note=question)
        student = ahead.models.get(ahead.student)
        if student is not None:
            size = int(student.parameters * _BYTES[self.config.dtype])
            yield kdtool.Estimate("exported student", ("exports",), 4 * student.parameters + 2 * size)
            yield kdtool.Estimate("exported student", disk_bytes=size)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a student that is not a plain Llama, or whose tokenizer llama.cpp does not support.

        Raises:
            UsageError: the student cannot be exported.
        """
        from kdtool_transformers import open_config, open_tokenizer, require_gguf

        from kdtool_exporter_gguf._checking import require_readable

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
            PluginError: llama.cpp splits text differently from the student's tokenizer, or computes other likelihoods.
        """
        from kdtool_transformers import model_card, open_model, widen, write_gguf, write_notices

        from kdtool_exporter_gguf._checking import name_of_splitting, require_same

        student = open_model(trained, offline=True)
        binding = dict.fromkeys(licensed.terms.licence for licensed in run.licences if licensed.transfers)
        file = write_gguf(
            student,
            run.folder / "model.gguf",
            dtype=self.config.dtype,
            pre=name_of_splitting(student.tokenizer),
            licence=" AND ".join(binding),
        )
        widen(student.model)  # llama.cpp keeps sums and states in float32
        require_same(student, file, self.config)
        write_notices(run.folder, run)
        how_to_use = "llama-server -m {path}\n"
        quantisation = "q8_0" if self.config.dtype == "q8_0" else ""
        stored = f"Weights in {self.config.dtype}."
        use = f"```console\n{how_to_use.format(path=file.name)}```"
        card = model_card(run, student.facts, stored=stored, library="llama.cpp", use=use)
        return kdtool.Artifact(file, "gguf", file.stat().st_size, quantisation, how_to_use, card)

    def kdtool_card(self, run: kdtool.RunInfo, artifact: kdtool.Artifact, results: kdtool.Results) -> str:
        from kdtool_model_card import complete_card

        return complete_card(results, artifact)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        path = subject.path
        if subject.role != "artifact" or path is None or not path.is_file():
            return None
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                return None
        from kdtool_exporter_gguf._runtime import GGUFRuntime

        return GGUFRuntime(path, context=self.config.context, threads=self.config.threads)

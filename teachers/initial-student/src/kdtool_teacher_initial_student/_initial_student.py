"""The teacher `initial-student`: the student as it was before a phase of the run, frozen.

The engine names its folder (`kdtool.Teacher.initial_student`), and the student's own component opens it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool
from kdtool import Field

if TYPE_CHECKING:
    import torch

__all__ = ["InitialStudent"]


class InitialStudent(kdtool.Teacher):
    """The student as it was before a phase, with the weights of the same arm and seed."""

    offers: frozenset[kdtool.SignalKind] = frozenset({"logits", "hidden", "attentions", "projections"})

    class Config(kdtool.Config):
        """Settings of the teacher `initial-student`."""

        phase: str | None = Field(default=None, min_length=1)
        """The phase before which it was saved: an earlier one, or this one. None: the phase that learns from it."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.initial_student = config.phase or ""
        self._source: tuple[kdtool.RunInfo, Path] | None = None
        self._opened: tuple[kdtool.Runtime, kdtool.LanguageModel] | None = None
        self._asking = False

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        """Return the student's tokenizer.

        Raises:
            UsageError: the student takes its tokenizer from this teacher.
        """
        if self._asking:
            raise kdtool.UsageError(
                "initial-student: the student takes its tokenizer or weights from this teacher, which is that student; "
                "expected another source; name it in the student's `source` or `tokenizer`"
            )
        self._asking = True
        try:
            return _student_of(run).kdtool_tokenizer(run)
        finally:
            self._asking = False

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts | None:
        with suppress(kdtool.ServiceError):  # weights are still to be fetched
            self.kdtool_tokenizer(run)
        described = _student_of(run).kdtool_describe(run)
        return described.facts if isinstance(described, kdtool.LanguageModel) else described

    def kdtool_load_weights(self, run: kdtool.RunInfo, folder: Path | None) -> None:
        self.kdtool_close()
        self._source = None if folder is None else (run, folder)

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        import torch

        model = self._open(batch.input_ids.device)
        with torch.no_grad():
            outputs = model.backbone(batch, want)
        head, bias = model.head, model.head.bias
        head = replace(head, weight=head.weight.detach(), bias=None if bias is None else bias.detach())
        return kdtool.Signal(
            fingerprint=str(self._source),
            lazy=kdtool.LazyLogits(outputs.last, head) if "logits" in want.kinds else None,
            hidden=outputs.hidden,
            attentions=outputs.attentions,
            projections=outputs.projections,
        )

    def kdtool_close(self) -> None:
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    def _open(self, device: torch.device) -> kdtool.LanguageModel:
        if self._opened is None:
            if self._source is None:
                raise kdtool.PluginError("initial-student: kdtool_signal was called before kdtool_load_weights")
            run, folder = self._source
            opened = kdtool.open_subject(run, kdtool.Subject("student", "student", folder, run.seed))
            if opened is None or opened.value.model is None:
                raise kdtool.UsageError(
                    f"initial-student: no component opens {folder} as a model with states; use a student on transformers"
                )
            self._opened = opened.value, opened.value.model
            opened.value.model.model.eval().requires_grad_(False)
        model = self._opened[1]
        model.model.to(device)
        return model


def _student_of(run: kdtool.RunInfo) -> kdtool.Student:
    (name,) = run.implementing("kdtool_build_student")
    return run.component(name, kdtool.Student)

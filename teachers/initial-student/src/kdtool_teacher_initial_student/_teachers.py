"""The teachers `initial-student` and `feedback`: the student as it was before a phase of the run, frozen.

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

    from kdtool_teacher_initial_student._attempts import Judge


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


class Feedback(InitialStudent):
    """The student before a phase, told how the program that the student now writes has failed.

    Self-distillation with rich feedback (SDPO, Hübotter et al. 2026, arXiv 2601.20802). The student answers a prompt; its
    program runs in the sandbox; the teacher reads the error before the same prompt and program, and the student learns the
    probabilities that it then gives. A program that passes is taught as by `initial-student`.
    """

    offers: frozenset[kdtool.SignalKind] = frozenset({"logits"})
    needs_sandbox = True

    class Config(InitialStudent.Config):
        """Settings of the teacher `feedback`."""

        maximum_tokens: int = Field(default=256, ge=1, le=65536)
        """Tokens of an error with a correct program, at most; the end is kept."""
        seconds: float = Field(default=3.0, gt=0, le=600)
        """Seconds that a program may take."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._judge: Judge | None = None
        self._tokenizer: kdtool.Tokenizer | None = None

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> list[str]:
        """Return why programs cannot be run here, or that the text has no tests."""
        from kdtool_programs import missing

        from kdtool_teacher_initial_student._attempts import problems_by_prompt

        if when == "text" and not problems_by_prompt(run.texts.examples("train")):
            return [
                "the text has no prompts with tests; expected examples as the corpus `mbpp` gives them; add such a corpus"
            ]
        return [] if when == "text" else list(missing())

    def kdtool_load_weights(self, run: kdtool.RunInfo, folder: Path | None) -> None:
        from kdtool_teacher_initial_student._attempts import Judge, problems_by_prompt

        super().kdtool_load_weights(run, folder)
        if folder is not None:
            self._tokenizer = self.kdtool_tokenizer(run)
            problems = problems_by_prompt(run.texts.examples("train"))
            self._judge = Judge(problems, self.config.seconds)

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        """Return logits at the labelled positions, computed with the errors before the prompts.

        Raises:
            UsageError: the student writes no text in this phase.
            SandboxError: programs cannot be run safely here.
        """
        from kdtool_torch import collate

        from kdtool_teacher_initial_student._attempts import attempts_in, contexts_of, with_contexts

        if self._judge is None or self._tokenizer is None:
            raise kdtool.PluginError("feedback: kdtool_signal was called before kdtool_load_weights")
        attempts = list(attempts_in(batch, self._tokenizer))
        contexts = contexts_of(attempts, self._judge.judge(attempts))
        if not any(contexts):
            return super().kdtool_signal(batch, want)
        limit = self._open(batch.input_ids.device).facts.context
        rows = with_contexts(attempts, contexts, self._tokenizer, self.config.maximum_tokens, limit)
        # Rows hold the same labelled tokens in the same order, so their signal is that of the batch.
        return super().kdtool_signal(collate(rows, batch.input_ids.device), want)

    def kdtool_close(self) -> None:
        super().kdtool_close()
        if self._judge is not None:
            self._judge.close()

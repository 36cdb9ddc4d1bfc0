"""The teacher `feedback`, its settings and signals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import kdtool
from kdtool import Field

from kdtool_teacher_initial_student._initial_student import InitialStudent

if TYPE_CHECKING:
    from kdtool_teacher_initial_student._attempts import Judge

__all__ = ["Feedback"]


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
        workers: int = Field(default=2, ge=1, le=256)
        """Programs that run at the same time."""

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
            self._judge = Judge(problems, self.config.seconds, self.config.workers)

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        """Return logits at the labelled positions, computed with the errors before the prompts.

        Raises:
            UsageError: the student writes no text in this phase.
            SandboxError: programs cannot be run safely here.
        """
        from kdtool_torch import collate

        from kdtool_teacher_initial_student._attempts import attempts_in
        from kdtool_teacher_initial_student._contexts import contexts_of, with_contexts

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

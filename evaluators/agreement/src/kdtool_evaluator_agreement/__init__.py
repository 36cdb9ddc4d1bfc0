"""The evaluator `agreement`: how closely students and controls follow their teacher on held-out documents.

The engine calls it once with all subjects, so that the teacher runs once. This module chooses who is compared; `_states`
computes and keeps final states, `_divergence` compares two models' states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import kdtool

if TYPE_CHECKING:
    from kdtool_measuring import Document

    from kdtool_evaluator_agreement._states import Encoded, StateFiles

__all__ = ["Agreement"]


class Agreement(kdtool.Evaluator):
    """Measures KL(teacher ‖ student) per token and top-1 agreement of students and controls with each teacher."""

    class Config(kdtool.Config):
        """What is compared on."""

        split: Literal["validation", "test"] = "test"
        """The split whose documents are used: `validation` to choose settings, `test` once at the end."""
        documents: int = kdtool.Field(default=64, ge=1, le=1_000_000)
        """Documents at most, chosen by the hashes of their ids."""
        tokens: int = kdtool.Field(default=512, ge=1, le=1_000_000)
        """Each document is cut after so many tokens (or the models' context, where that is shorter)."""

    config: Config
    together = True

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.Prospect) -> Iterator[kdtool.Estimate]:
        student = ahead.models.get(ahead.student)
        if student is not None:
            layer = 4 * self.config.tokens * (4 * student.hidden + 3 * student.feed_forward)
            logits = 5 * 4 * min(self.config.tokens, 256) * student.vocabulary
            size = 4 * student.parameters + layer + logits
            yield kdtool.Estimate("measured student", ("scores: agreement",), size, uses=ahead.teachers)

    def kdtool_measurable(self, run: kdtool.RunInfo) -> None:
        """Refuse a split without text.

        Raises:
            kdtool.UsageError: there is no text to compare on.
        """
        self._documents(run)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `kl-to-<teacher>` and `top-1-agreement-with-<teacher>` of each student and control.

        Raises:
            kdtool.UsageError: there is no text to compare on.
        """
        from kdtool_measuring import digest

        teachers = [subject for subject in subjects if subject.role == "teacher"]
        learners = [subject for subject in subjects if subject.role in {"student", "control"}]
        learners = learners or [subject for subject in subjects if subject.role == "artifact"]  # nothing was trained
        documents = self._documents(run)
        if not teachers:
            run.say("agreement: nothing is measured, no teacher of this run can be opened")
        else:
            chosen = digest(documents)
            for teacher in teachers:
                yield from self._with_teacher(run, teacher, learners, documents, chosen)

    def _documents(self, run: kdtool.RunInfo) -> list[Document]:
        from kdtool_measuring import held_out, without_text

        # A token stands for eight characters at most on average: longer texts would be cut away after encoding.
        documents = held_out(run, self.config.split, most=self.config.documents, characters=8 * self.config.tokens)
        if not documents:
            raise without_text("agreement", self.config.split)
        return documents

    def _with_teacher(
        self,
        run: kdtool.RunInfo,
        teacher: kdtool.Subject,
        learners: Sequence[kdtool.Subject],
        documents: Sequence[Document],
        chosen: str,
    ) -> Iterator[kdtool.Measurement]:
        from kdtool_evaluator_agreement._states import StateFiles, encode

        with TemporaryDirectory(dir=run.folder, prefix="teacher-states-") as folder:
            with ExitStack() as stack:
                model = _open(run, teacher, stack)
                if model is None:
                    return
                encoded = encode(model, documents, self.config.tokens)
                states = StateFiles(Path(folder), model)
                for done, document in enumerate(encoded, 1):
                    states.keep(document, model)
                    run.hook.kdtool_progress(run, done)
                fingerprint = model.facts.tokenizer_fingerprint
            settings = {
                **self._settings(encoded, states.dtype, fingerprint),
                **_yardstick(run, teacher),
                "documents": chosen,
            }
            for number, learner in enumerate(learners, 1):
                yield from _compare(run, teacher, learner, encoded, states, settings, number * len(encoded))

    def _settings(self, encoded: Sequence[Encoded], dtype: str, fingerprint: str) -> dict[str, str]:
        return {
            "split": self.config.split,
            "texts": f"{len(encoded)} documents, each cut after {self.config.tokens} tokens, "
            "chosen by the hashes of their ids",
            "tokens": str(sum(len(document.ids) for document in encoded)),
            "tokenizer": fingerprint[:12],
            "numbers": f"computed in {dtype}, compared in float32",
            "temperature": "1",
        }


def _yardstick(run: kdtool.RunInfo, teacher: kdtool.Subject) -> dict[str, str]:
    """Name the teacher's weights, where it does: agreement with two teachers is not the same measure."""
    hook = run.hook.kdtool_identity
    identity = hook.of(teacher.name)(run) if teacher.name in hook.names() else {}
    return {"teacher": ", ".join(f"{key} {value[:12]}" for key, value in identity.items())} if identity else {}


def _open(run: kdtool.RunInfo, subject: kdtool.Subject, stack: ExitStack) -> kdtool.LanguageModel | None:
    """Open a subject's model, to be closed by `stack`; say why where there is none."""
    opened = kdtool.open_subject(run, subject)
    if opened is None:
        run.say(f"agreement: {subject.name} is left out, no component opens it")
        return None
    runtime = stack.enter_context(opened.value)
    if runtime.model is None:
        run.say(f"agreement: {subject.name} is left out, {opened.name} gives no access to the model's states")
    return runtime.model


def _compare(
    run: kdtool.RunInfo,
    teacher: kdtool.Subject,
    learner: kdtool.Subject,
    encoded: Sequence[Encoded],
    states: StateFiles,
    settings: Mapping[str, str],
    done_before: int,
) -> Iterator[kdtool.Measurement]:
    from kdtool_measuring import Item, measured

    from kdtool_evaluator_agreement._divergence import agreement

    with ExitStack() as stack:
        model = _open(run, learner, stack)
        if model is None:
            return
        vocabularies = kdtool.compare_vocabularies(model.tokenizer, states.tokenizer)
        sentence = vocabularies.sentence(learner.name, teacher.name)
        if not vocabularies.comparable:
            run.say(f"agreement: {learner.name} is left out: {sentence}")
            return
        if sentence:
            run.say(f"agreement: {sentence}")
            settings = {**settings, "tokens compared": f"the first {vocabularies.shared}, which both have"}
            encoded = [document for document in encoded if max(document.ids) < vocabularies.shared]
            if not encoded:
                run.say(
                    f"agreement: {learner.name} is left out: each of the documents holds tokens that it does not have; take "
                    "more documents, or fewer `tokens` of each"
                )
                return
        found = []
        for done, document in enumerate(encoded, 1):
            found.append(agreement(model, document, states, vocabularies.shared))
            run.hook.kdtool_progress(run, done_before + done)
    pairs = list(zip(encoded, found, strict=True))
    yield measured(
        [Item(document.id, one.divergence, one.tokens) for document, one in pairs],
        run,
        learner,
        name=f"kl-to-{teacher.name}",
        unit="nats per token",
        higher_is_better=False,
        settings=settings,
    )
    yield measured(
        [Item(document.id, one.same_first, one.tokens) for document, one in pairs],
        run,
        learner,
        name=f"top-1-agreement-with-{teacher.name}",
        unit="fraction",
        higher_is_better=True,
        settings=settings,
    )

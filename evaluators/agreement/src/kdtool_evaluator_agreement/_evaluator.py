"""The evaluator `agreement`: chooses the subjects to compare with each teacher, and measures document by document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import kdtool

if TYPE_CHECKING:
    from kdtool_measuring import Document

    from kdtool_evaluator_agreement._divergence import Found
    from kdtool_evaluator_agreement._states import Encoded, StateFiles

__all__ = ["Agreement"]


class Agreement(kdtool.Evaluator):
    """Measures KL(teacher ‖ student) per token and top-1 agreement of students and controls with each teacher."""

    class Config(kdtool.Config):
        """Documents that the models are compared on."""

        split: Literal["validation", "test"] = "test"
        """The split whose documents are used: `validation` to choose settings, `test` once at the end."""
        documents: int = kdtool.Field(default=64, ge=1, le=1_000_000)
        """Largest number of documents, chosen by the hashes of their ids."""
        tokens: int = kdtool.Field(default=512, ge=1, le=1_000_000)
        """Largest number of tokens of a document, or fewer if the shortest context of the compared models ends
        before: all are compared on the same tokens."""

    config: Config
    measurements = ("kl-to-*", "top-1-agreement-with-*")
    measures_jointly = True

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_of_exact_heads

        student = ahead.models.get(ahead.student)
        if student is not None:
            layer = 4 * self.config.tokens * (4 * student.hidden + 3 * student.feed_forward)
            logits = 5 * 4 * min(self.config.tokens, 256) * student.vocabulary
            size = ahead.student_bytes + bytes_of_exact_heads(ahead, ahead.teachers) + layer + logits
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a split without text.

        Raises:
            kdtool.UsageError: there is no text to compare on.
        """
        if when == "text":
            self._documents(run)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `kl-to-<teacher>` and `top-1-agreement-with-<teacher>` of each student and control.

        Raises:
            kdtool.UsageError: there is no text to compare on.
        """
        from kdtool_measuring import digest

        teachers = [subject for subject in subjects if subject.role == "teacher"]
        learners = [subject for subject in subjects if subject.role in {"student", "control", "base"}]
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
            raise without_text(run, "agreement", self.config.split)
        return documents

    def _with_teacher(
        self,
        run: kdtool.RunInfo,
        teacher: kdtool.Subject,
        learners: Sequence[kdtool.Subject],
        documents: Sequence[Document],
        chosen: str,
    ) -> Iterator[kdtool.Measurement]:
        from kdtool_evaluator_agreement._states import StateFiles, encode, fitting

        with TemporaryDirectory(dir=run.folder, prefix="teacher-states-") as folder:
            with ExitStack() as stack:
                model = _open(run, teacher, stack)
                if model is None:
                    return
                length = fitting(model, self.config.tokens)
                encoded = encode(model, documents, length)
                states = StateFiles(Path(folder), model)
                for done, document in enumerate(encoded, 1):
                    states.keep(document, model)
                    run.hook.kdtool_progress(run, done)
                fingerprint = model.facts.tokenizer_fingerprint
            compared = [
                _compare(run, teacher, learner, encoded, states, length, number * len(encoded))
                for number, learner in enumerate(learners, 1)
            ]
        results = [result for result in compared if result is not None]
        length = min([length, *(result.length for result in results)])
        if results and length < self.config.tokens:
            run.say(
                f"agreement: documents are cut after {length} tokens, and not after {self.config.tokens}: the shortest "
                "context of the models compared ends there"
            )
        settings = {
            **self._settings([document.cut(length) for document in encoded], length, states.dtype, fingerprint),
            **_yardstick(run, teacher),
            "documents": chosen,
        }
        for result in results:
            yield from _measurements(run, teacher, result, length, settings)

    def _settings(self, encoded: Sequence[Encoded], length: int, dtype: str, fingerprint: str) -> dict[str, str]:
        return {
            "split": self.config.split,
            "texts": f"{len(encoded)} documents, each cut after {length} tokens, chosen by the hashes of their ids",
            "tokens": str(sum(len(document.ids) for document in encoded)),
            "tokenizer": fingerprint[:12],
            "numbers": f"states computed in {dtype}, logits in float32",
            "context": "each document by itself, its first token predicted from the tokens that a model's tokenizer puts "
            "before a text, or from the end-of-text token where it puts none",
            "temperature": "1",
        }


@dataclass(frozen=True)
class _Compared:
    """Results of a learner by document, over the tokens that fit its context: the first `length` at most."""

    learner: kdtool.Subject
    length: int
    found: Mapping[str, Found]
    settings: Mapping[str, str] = field(default_factory=dict)


def _yardstick(run: kdtool.RunInfo, teacher: kdtool.Subject) -> dict[str, str]:
    """Name the teacher's weights if the teacher identifies them: agreement with two teachers is not the same measure."""
    known = teacher.name in run.implementing("kdtool_identity")
    identity = run.component(teacher.name, kdtool.Component).kdtool_identity(run) if known else None
    return {"teacher": ", ".join(f"{key} {value[:12]}" for key, value in identity.items())} if identity else {}


def _open(run: kdtool.RunInfo, subject: kdtool.Subject, stack: ExitStack) -> kdtool.LanguageModel | None:
    """Open a subject's model, to be closed by `stack`; say why if there is none."""
    opened = kdtool.open_subject(run, subject)
    if opened is None:
        run.say(
            f"agreement: {subject.name} is left out, no component opens it; its component must implement kdtool_open"
        )
        return None
    runtime = stack.enter_context(opened.value)
    if runtime.model is None:
        run.say(f"agreement: {subject.name} is left out, {opened.name} does not expose the model's states")
    return runtime.model


def _compare(
    run: kdtool.RunInfo,
    teacher: kdtool.Subject,
    learner: kdtool.Subject,
    encoded: Sequence[Encoded],
    states: StateFiles,
    most: int,
    done_before: int,
) -> _Compared | None:
    """Compare a learner at each token; None, with a message, if that is impossible."""
    from kdtool_evaluator_agreement._divergence import agreement, heads_of
    from kdtool_evaluator_agreement._states import fitting

    settings = {}
    with ExitStack() as stack:
        model = _open(run, learner, stack)
        if model is None:
            return None
        vocabularies = kdtool.Vocabularies.compare(model.tokenizer, states.tokenizer)
        sentence = vocabularies.sentence(learner.name, teacher.name)
        if not vocabularies.comparable:
            run.say(f"agreement: {learner.name} is left out: {sentence}")
            return None
        length = fitting(model, most)
        encoded = [document.cut(length) for document in encoded]
        if sentence:
            run.say(f"agreement: {sentence}")
            settings = {"tokens compared": f"the first {vocabularies.shared}, which both have"}
            encoded = [document for document in encoded if max(document.ids) < vocabularies.shared]
            if not encoded:
                run.say(
                    f"agreement: {learner.name} is left out: each of the documents contains tokens that it lacks; take "
                    "more documents, or fewer `tokens` of each"
                )
                return None
        agreements = {}
        heads = heads_of(model, states, vocabularies.shared)
        for done, document in enumerate(encoded, 1):
            agreements[document.id] = agreement(model, document, states, heads)
            run.hook.kdtool_progress(run, done_before + done)
    return _Compared(learner, length, agreements, settings)


def _measurements(
    run: kdtool.RunInfo, teacher: kdtool.Subject, compared: _Compared, length: int, settings: Mapping[str, str]
) -> Iterator[kdtool.Measurement]:
    """Yield the measurements over the first `length` tokens of each document."""
    from kdtool_measuring import Item, make_measurement

    divergences, same_first = [], []
    for name, agreed in compared.found.items():
        divergence, same = agreed.divergence[:length].double(), agreed.same_first[:length].double()
        divergences.append(Item(name, float(divergence.sum()), len(divergence)))
        same_first.append(Item(name, float(same.sum()), len(same)))
    settings = {**settings, **compared.settings}
    yield make_measurement(
        divergences,
        run,
        compared.learner,
        name=f"kl-to-{teacher.name}",
        unit="nats per token",
        higher_is_better=False,
        settings=settings,
    )
    yield make_measurement(
        same_first,
        run,
        compared.learner,
        name=f"top-1-agreement-with-{teacher.name}",
        unit="fraction",
        higher_is_better=True,
        settings=settings,
    )

"""The evaluator `agreement`: chooses the subjects to compare with each teacher, and measures document by document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Literal

import kdtool

if TYPE_CHECKING:
    from kdtool_measuring import Document

    from kdtool_evaluator_agreement._divergence import Encoded, Found, TeacherFiles


class Agreement(kdtool.Evaluator):
    """Measures KL(teacher ‖ student) per token and top-1 agreement of students and controls with each teacher."""

    class Config(kdtool.Config):
        """Documents that the models are compared on."""

        split: Literal["validation", "test"] = "test"
        """The split whose documents are used: `validation` to choose settings, `test` once at the end."""
        limit: int = kdtool.Field(default=64, ge=1, le=1_000_000)
        """Largest number of documents, chosen by the hashes of their ids."""
        tokens: int = kdtool.Field(default=512, ge=1, le=1_000_000)
        """Largest number of tokens of a document, or fewer if the teacher's context or the compared model's ends before."""

    config: Config
    measurements = ("kl-to-*", "top-1-agreement-with-*")
    compares_with_teachers = True

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_of_exact_heads

        student = ahead.models.get(ahead.student)
        teachers = [ahead.models[name] for name in ahead.teachers if name in ahead.models and name != "reference"]
        if student is not None:
            layer = 4 * self.config.tokens * (4 * student.hidden + 3 * student.feed_forward)
            logits = 5 * 4 * min(self.config.tokens, 256) * student.vocabulary
            heads = bytes_of_exact_heads(ahead) + max(
                (4 * each.vocabulary * each.hidden for each in teachers), default=0
            )
            yield kdtool.Estimate(
                "measured student", ("scores",), compute_bytes=ahead.student_bytes + heads + layer + logits
            )
        for teacher in teachers:
            size = 4 * teacher.hidden * (teacher.vocabulary + self.config.limit * self.config.tokens)
            yield kdtool.Estimate("states of the teacher", disk_bytes=size, note="at most")

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a split without text.

        Raises:
            kdtool.UsageError: there is no text to compare on.
        """
        if when == "text":
            self._documents(run)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `kl-to-<teacher>` and `top-1-agreement-with-<teacher>` of each model except teachers.

        Raises:
            kdtool.UsageError: there is no text to compare on.
        """
        teachers = [subject for subject in subjects if subject.role == "teacher"]
        learners = [subject for subject in subjects if subject.role not in {"teacher", "reference"}]
        documents, done = self._documents(run), count(1)
        passes = sum(len(learners) + (teacher.files is None) for teacher in teachers)

        def progress() -> None:
            run.hook.kdtool_progress(run, next(done), passes * len(documents))

        if not teachers:
            run.say("agreement: nothing is measured, no teacher of this run can be opened")
        for teacher in teachers:
            recorded = self._teacher_files(run, teacher, documents, progress)
            if recorded is not None:
                for learner in learners:
                    yield from self._compare(run, teacher, learner, recorded, documents, progress)

    def _documents(self, run: kdtool.RunInfo) -> list[Document]:
        from kdtool_measuring import held_out, without_text

        # A token stands for eight characters at most on average: longer texts would be cut away after encoding.
        documents = held_out(run, self.config.split, most=self.config.limit, characters=8 * self.config.tokens)
        if not documents:
            raise without_text(run, "agreement", self.config.split)
        return documents

    def _teacher_files(
        self, run: kdtool.RunInfo, teacher: kdtool.Subject, documents: Sequence[Document], progress: Callable[[], None]
    ) -> TeacherFiles | None:
        """Return the teacher's states, from its `files` if it has them; None, with a message, if there are none."""
        from kdtool_measuring import open_for_measuring

        from kdtool_evaluator_agreement._divergence import TeacherFiles

        name = f"states-of-{teacher.name}"
        if teacher.files is not None:
            tokenizer = run.component(teacher.name, kdtool.Teacher).kdtool_tokenizer(run)
            recorded = TeacherFiles.read(teacher.files / name, tokenizer) if tokenizer is not None else None
            if recorded is None:
                run.say(
                    f"agreement: nothing is compared with {teacher.name}, which does not expose its states; use a teacher "
                    "whose weights are here, or remove the evaluator"
                )
            return recorded
        with open_for_measuring(run, teacher, "agreement", _unfit) as runtime:
            if runtime is None or runtime.model is None:
                return None
            identity, model = _identity_of(run, teacher), runtime.model
            return TeacherFiles.record(run.folder / name, model, documents, self.config.tokens, identity, progress)

    def _compare(
        self,
        run: kdtool.RunInfo,
        teacher: kdtool.Subject,
        learner: kdtool.Subject,
        recorded: TeacherFiles,
        documents: Sequence[Document],
        progress: Callable[[], None],
    ) -> Iterator[kdtool.Measurement]:
        """Yield the measurements of a learner; none, with a message, if it cannot be compared."""
        from kdtool_measuring import digest, open_for_measuring
        from kdtool_torch import say_context

        from kdtool_evaluator_agreement._divergence import agreement, fitting, heads_of

        with open_for_measuring(run, learner, "agreement", _unfit) as runtime:
            model = None if runtime is None else runtime.model
            if model is None:
                return
            say_context(run, "agreement", learner, model, [document.text for document in documents])
            vocabularies = kdtool.Vocabularies.compare(model.tokenizer, recorded.tokenizer)
            sentence = vocabularies.sentence(learner.name, teacher.name)
            if not vocabularies.comparable:
                run.say(f"agreement: {learner.name} is left out: {sentence}")
                return
            length = fitting(model, recorded.length)
            if length < self.config.tokens:
                run.say(
                    f"agreement: {learner.name} is compared on the first {length} tokens of each document, and not on "
                    f"{self.config.tokens}, since its context or that of {teacher.name} ends there"
                )
            encoded = [document.cut(length) for document in recorded.encode(documents)]
            settings = {**self._settings(encoded, length, recorded, model), "documents": digest(documents)}
            if sentence:
                run.say(f"agreement: {sentence}")
                settings["tokens compared"] = f"the first {vocabularies.shared}, which both have"
                encoded = [document for document in encoded if max(document.ids) < vocabularies.shared]
            if not encoded:
                run.say(
                    f"agreement: {learner.name} is left out: each of the documents contains tokens that it lacks; take "
                    "more documents, or fewer `tokens` of each"
                )
                return
            agreements: dict[str, Found] = {}
            heads = heads_of(model, recorded, vocabularies.shared)
            for document in encoded:
                agreements[document.id] = agreement(model, document, recorded, heads)
                progress()
        yield from _measurements(run, teacher, learner, agreements, settings)

    def _settings(
        self, encoded: Sequence[Encoded], length: int, recorded: TeacherFiles, model: kdtool.LanguageModel
    ) -> dict[str, str]:
        from kdtool_evaluator_agreement._divergence import dtype_of_states

        dtype = dtype_of_states(model)
        both = dtype if dtype == recorded.dtype else f"{dtype}, the teacher's in {recorded.dtype}"
        return {
            "split": self.config.split,
            "texts": f"{len(encoded)} documents, each cut after {length} tokens, chosen by the hashes of their ids",
            "tokens": str(sum(len(document.ids) for document in encoded)),
            "tokenizer": recorded.tokenizer.fingerprint[:12],
            "numbers": f"states computed in {both}, logits in float32",
            "context": "each document by itself, its first token predicted from the tokens that a model's tokenizer puts "
            "before a text, or from a line break where it puts none",
            "temperature": "1",
            **({"teacher": recorded.identity} if recorded.identity else {}),
        }


def _identity_of(run: kdtool.RunInfo, teacher: kdtool.Subject) -> str:
    """Name the teacher's weights if it identifies them, else "": agreement with two teachers is not the same measure."""
    known = teacher.name in run.implementing("kdtool_identity")
    identity = run.component(teacher.name, kdtool.Component).kdtool_identity(run) if known else {}
    return ", ".join(f"{key} {value[:12]}" for key, value in (identity or {}).items())


def _unfit(runtime: kdtool.Runtime) -> str:
    return "it does not expose the model's states" if runtime.model is None else ""


def _measurements(
    run: kdtool.RunInfo,
    teacher: kdtool.Subject,
    learner: kdtool.Subject,
    agreements: Mapping[str, Found],
    settings: Mapping[str, str],
) -> Iterator[kdtool.Measurement]:
    from kdtool_measuring import Item, make_measurement

    for measure, name, unit in (
        ("divergence", f"kl-to-{teacher.name}", "nats per token"),
        ("same_first", f"top-1-agreement-with-{teacher.name}", "fraction"),
    ):
        values = {document: getattr(agreed, measure).double() for document, agreed in agreements.items()}
        yield make_measurement(
            [Item(document, float(each.sum()), len(each)) for document, each in values.items()],
            run,
            learner,
            name=name,
            unit=unit,
            higher_is_better=measure == "same_first",
            settings=settings,
            aside="likeness to the teacher",
        )

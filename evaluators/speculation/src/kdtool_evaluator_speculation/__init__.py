"""The evaluator `speculation`: how much a model helps its teacher as the draft of speculative decoding.

The engine calls it once with all subjects; `kdtool_transformers` generates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Literal, NamedTuple

import kdtool

if TYPE_CHECKING:
    from kdtool_measuring import Document
    from kdtool_transformers import Speculation


__all__ = ["SpeculationEvaluator"]
_WARM_UP = 4
"""Tokens of an answer before any is timed."""


class SpeculationEvaluator(kdtool.Evaluator):
    """Measures how many tokens a teacher accepts of each subject's drafts, and how much faster it answers by them."""

    class Config(kdtool.Config):
        """The prompts, and how tokens are drafted."""

        split: Literal["validation", "test"] = "test"
        """The split whose documents begin the prompts: `validation` to choose settings, `test` once at the end."""
        limit: int = kdtool.Field(default=32, ge=2, le=1_000_000)
        """Largest number of documents, chosen by the hashes of their ids; each is a prompt."""
        characters: int = kdtool.Field(default=400, ge=1, le=1_000_000)
        """A prompt is so much of a document's beginning, or its first half if that is shorter."""
        maximum_tokens: int = kdtool.Field(default=48, ge=2, le=10_000)
        """Largest number of tokens of an answer."""
        drafted: int = kdtool.Field(default=4, ge=1, le=64)
        """Tokens drafted for each verification step."""

    config: Config
    measurements = ("speculation.accepted", "speculation.speed-up")
    measures_jointly = True

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_to_answer

        if ahead.student in ahead.models:
            size = bytes_to_answer(ahead, self.config.characters // 2 + self.config.maximum_tokens)
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a split without text.

        Raises:
            kdtool.UsageError: there is no document to begin a prompt with.
        """
        if when == "text":
            self._documents(run)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield both measurements of each subject that drafts for the first teacher; items are prompts.

        Raises:
            kdtool.UsageError: there is no document to begin a prompt with.
        """
        from kdtool_measuring import fit_prompt, open_for_measuring

        documents = self._documents(run)
        teacher = next((subject for subject in subjects if subject.role == "teacher"), None)
        if teacher is None:
            run.say("speculation: nothing is measured, the run has no teacher; name one to draft for")
            return
        with open_for_measuring(run, teacher, "speculation", _unfit) as target:
            if target is None:
                return
            requests = [
                kdtool.Request(
                    document.id,
                    fit_prompt(_beginning(document, self.config.characters), target, self.config.maximum_tokens),
                    self.config.maximum_tokens,
                )
                for document in documents
            ]
            drafting = [each for each in subjects if each.role not in ("teacher", "reference")]
            done, total = count(1), len(requests) * (1 + len(drafting))

            def progress() -> None:
                run.hook.kdtool_progress(run, next(done), total)

            undrafted = list(self._answers(target, requests, progress))
            for subject in drafting:
                with open_for_measuring(run, subject, "speculation", _unfit) as draft:
                    if draft is not None:
                        yield from self._measure(run, subject, (target, draft), requests, undrafted, progress)

    def _measure(
        self,
        run: kdtool.RunInfo,
        subject: kdtool.Subject,
        models: tuple[kdtool.Runtime, kdtool.Runtime],
        requests: Sequence[kdtool.Request],
        undrafted: Sequence[_Answered],
        progress: Callable[[], None],
    ) -> Iterator[kdtool.Measurement]:
        """Yield the measurements of a subject; `undrafted` are the answers of the teacher without a draft."""
        import torch
        from kdtool_measuring import Item, make_measurement
        from kdtool_torch import pick_device
        from kdtool_transformers import SpeculativeRuntime

        try:
            runtime = SpeculativeRuntime(*models, self.config.drafted)
        except kdtool.UsageError as error:
            run.say(f"speculation: {subject.name} is left out: {error}")
            return
        answers = list(self._answers(runtime, requests, progress))
        settings = self._settings(requests)
        items = [
            Item(request.id, each.counted.tokens, each.counted.steps)
            for request, each in zip(requests, answers, strict=True)
            if each.counted is not None
        ]
        yield make_measurement(
            items,
            run,
            subject,
            name="speculation.accepted",
            unit="tokens/step",
            higher_is_better=True,
            settings=settings,
        )
        machine = f"{pick_device()}, {torch.get_num_threads()} threads"
        same = sum(plain.text == each.text for plain, each in zip(undrafted, answers, strict=True))
        seconds = sum(each.seconds for each in answers)
        yield kdtool.Measurement(
            name="speculation.speed-up",
            subject=subject.name,
            unit="×",
            value=sum(plain.seconds for plain in undrafted) / seconds,
            n=len(answers),
            higher_is_better=True,
            settings={**settings, "machine": machine, "answers equal to the teacher's": f"{same} of {len(answers)}"},
        )

    def _answers(
        self, runtime: kdtool.Runtime, requests: Sequence[kdtool.Request], progress: Callable[[], None]
    ) -> Iterator[_Answered]:
        """Answer one request after the other; verification steps are counted if there are any."""
        from kdtool_transformers import SpeculativeRuntime

        list(runtime.answer([kdtool.Request("warm-up", requests[0].prompt, _WARM_UP)]))
        for request in requests:
            begun = time.perf_counter()
            (answer,) = runtime.answer([request])
            seconds = time.perf_counter() - begun
            counted = runtime.last if isinstance(runtime, SpeculativeRuntime) else None
            yield _Answered(answer.text, seconds, counted)
            progress()

    def _documents(self, run: kdtool.RunInfo) -> list[Document]:
        from kdtool_measuring import held_out, without_text

        documents = held_out(run, self.config.split, most=self.config.limit, characters=2 * self.config.characters)
        if not documents:
            raise without_text(run, "speculation", self.config.split)
        return documents

    def _settings(self, requests: Sequence[kdtool.Request]) -> dict[str, str]:
        from kdtool_measuring import Document, digest

        return {
            "split": self.config.split,
            "prompts": f"{len(requests)} beginnings of documents, at most {self.config.characters} characters each",
            "documents": digest([Document(request.id, request.prompt) for request in requests]),
            "drafted": f"{self.config.drafted} tokens per step",
            "decoding": f"greedy, at most {self.config.maximum_tokens} tokens",
        }


class _Answered(NamedTuple):
    text: str
    seconds: float
    counted: Speculation | None


def _beginning(document: Document, characters: int) -> str:
    """Return a document's first half, at most `characters` long; cut after a line break if there is one."""
    text = document.text[: min(characters, max(1, len(document.text) // 2))]
    lines, broken, _ = text.rpartition("\n")
    return lines + broken if broken else text


def _unfit(runtime: kdtool.Runtime) -> str:
    from kdtool_transformers import TransformersRuntime

    return (
        "" if isinstance(runtime, TransformersRuntime) else "it is not a model of transformers, whose logits are needed"
    )

"""A teacher's answers to prompts, as text to learn from.

`Answers` is the corpus that recipes call `answers`. `_prompts` reads the prompts, `_journal` keeps every answer from the
moment that it is there, so that a killed run asks nothing twice.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import kdtool
import pydantic

from kdtool_corpus_answers._journal import Journal
from kdtool_corpus_answers._prompts import Prompt, digest, from_corpus, from_files

__all__ = ["Answers"]

FOLDER = "answers"
"""Where answers are kept, in the folder of the text that they become part of."""
_SECONDS_BETWEEN_TELLING = 0.2


class Answers(kdtool.Corpus):
    """Prompts, each completed by a teacher of the recipe."""

    config: Config

    class Config(kdtool.Config):
        """Settings of `answers`."""

        ask: str = kdtool.Field(default="teacher", min_length=1)
        """The teacher that answers, by its name in the recipe: `teacher`, or `teachers.NAME`."""
        prompts: tuple[Path, ...] = ()
        """JSON Lines files with a `prompt` in each line, and an `id`, `language` and `licence` where they are known."""
        corpus: str | None = kdtool.Field(default=None, min_length=1)
        """Take the prompts from this corpus of the recipe (`corpora.NAME`) instead: what it gives to learn from is asked
        for anew and not learned from itself, what it gives for validation and test stays as it is."""
        prefix_lines: int = kdtool.Field(default=16, ge=1, le=10_000)
        """How many lines of a plain text are the prompt. Prompts with completions give their prompts."""
        limit: int | None = kdtool.Field(default=None, ge=1)
        """Ask for so many answers at most, from the first prompt on; null asks for all."""
        max_tokens: int = kdtool.Field(default=512, ge=1, le=1_048_576)
        """Tokens of an answer at most."""
        temperature: float = kdtool.Field(default=0.0, ge=0, le=10)
        """0 takes the likeliest token each time; above it answers are drawn, each with a seed of its own."""
        stop: tuple[str, ...] = ()
        """Texts before which an answer ends, such as a blank line before the next function."""
        keep_truncated: bool = False
        """Keep answers that `max_tokens` cut off. The student then learns to stop where they do."""

        @pydantic.model_validator(mode="after")
        def _one_source(self) -> Answers.Config:
            if bool(self.prompts) == (self.corpus is not None):
                raise ValueError("give either prompts (files) or corpus (another corpus of the recipe)")
            if len({path.name for path in self.prompts}) < len(self.prompts):
                raise ValueError("two files have the same name, by which prompts and the run's record tell them apart")
            if "" in self.stop:
                raise ValueError("stop must not hold empty text, before which every answer would end")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        asked = {config.ask} if config.corpus is None else {config.ask, config.corpus}
        self.takes: Mapping[str, kdtool.Transfer] = dict.fromkeys(sorted(asked), "text")

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return each file's SHA-256."""
        return {path.name: digest(path) for path in self.config.prompts}

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the prompts with the teacher's answers, in the order of the prompts, once all of them are there.

        Raises:
            kdtool.UsageError: a file of prompts is wrong, or no answer can be learned from.
            kdtool.PluginError: the teacher gives what was not asked for.
        """
        name = hashlib.sha256(self.config.model_dump_json().encode()).hexdigest()[:16]
        with Journal(run.folder / FOLDER / f"{name}.jsonl") as journal:
            self._ask(run, journal)
            yield from self._answered(run, journal)

    def _ask(self, run: kdtool.RunInfo, journal: Journal) -> None:
        """Ask for what is not in the journal yet."""
        known, told_at = len(journal), 0.0
        if known:
            run.say(f"{known:,} answers of {self.config.ask} are there already and are not asked for again")
        for answer in run.hook.kdtool_answer.of(self.config.ask)(self._requests(run, journal)):
            journal.add(answer)
            if time.monotonic() - told_at > _SECONDS_BETWEEN_TELLING:
                told_at = time.monotonic()
                run.hook.kdtool_progress(run, len(journal))

    def _requests(self, run: kdtool.RunInfo, journal: Journal) -> Iterator[kdtool.Request]:
        for found in self._prompts(run):
            if isinstance(found, Prompt) and found.id not in journal:
                yield kdtool.Request(
                    id=found.id,
                    prompt=found.text,
                    max_tokens=self.config.max_tokens,
                    stop=self.config.stop,
                    temperature=self.config.temperature,
                    seed=int.from_bytes(hashlib.sha256(f"{run.seed} {found.id}".encode()).digest()[:4]) >> 1,
                )

    def _answered(self, run: kdtool.RunInfo, journal: Journal) -> Iterator[kdtool.Example]:
        terms = run.hook.kdtool_acknowledge.maybe(self.config.ask)() if self._has_terms(run) else None
        left_out: Counter[str] = Counter()
        taken = 0
        for found in self._prompts(run):
            if isinstance(found, kdtool.Example):
                yield found
                continue
            answer = journal.get(found.id)
            if answer is None:
                raise kdtool.PluginError(f"{run.hook.owner(self.config.ask)} gave no answer to {found.id!r}")
            if reason := self._useless(answer):
                left_out[reason] += 1
                continue
            taken += 1
            yield self._example(found, answer, "" if terms is None else terms.licence)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
        if not taken:
            remedy = "raise max_tokens, or set keep_truncated" if left_out else "give prompts"
            raise kdtool.UsageError(
                f"{self.config.ask} gave no answer that can be learned from ({reasons or 'nothing was asked'}); {remedy}"
            )
        run.say(f"{taken:,} answers of {self.config.ask}" + (f"; left out: {reasons}" if left_out else ""))

    def _has_terms(self, run: kdtool.RunInfo) -> bool:
        return self.config.ask in run.hook.kdtool_acknowledge.names()

    def _useless(self, answer: kdtool.TextAnswer) -> str:
        """Say why an answer is left out, "" for one that is taken."""
        if answer.finish == "refused":
            return "refused"
        if answer.finish == "length" and not self.config.keep_truncated:
            return f"cut off at {self.config.max_tokens} tokens"
        return "" if answer.text.strip() else "empty"

    def _example(self, prompt: Prompt, answer: kdtool.TextAnswer, licence: str) -> kdtool.Example:
        about = {
            "teacher": self.config.ask,
            "teacher_licence": licence,
            "finish": answer.finish,
            "tokens_in": str(answer.tokens_in),
            "tokens_out": str(answer.tokens_out),
            "prompt_source": prompt.source,
        }
        return kdtool.Example(
            id=prompt.id,
            body=kdtool.Completion(prompt.text, answer.text),
            language=prompt.language,
            licence=prompt.licence,
            source=f"answers of {self.config.ask}",
            meta={key: value for key, value in about.items() if value},
        )

    def _prompts(self, run: kdtool.RunInfo) -> Iterator[Prompt | kdtool.Example]:
        """Yield prompts, and examples that are passed on as they are."""
        if self.config.corpus is None:
            found: Iterator[Prompt | kdtool.Example] = from_files(self.config.prompts)
        else:
            found = from_corpus(run.hook.kdtool_examples.of(self.config.corpus)(run), self.config.prefix_lines)
        asked = 0
        for one in found:
            if isinstance(one, Prompt):
                asked += 1
                if self.config.limit is not None and asked > self.config.limit:
                    continue
            yield one

"""The evaluator `answers-match`, its settings and metrics."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import kdtool

if TYPE_CHECKING:
    from kdtool_measuring import Answer, Item

    from kdtool_evaluator_answers_match._questions import Question

_LINE: tuple[str, ...] = ("\n",)
_PROGRAM = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n```")


class AnswersMatch(kdtool.Evaluator):
    """Asks a subject the questions of a file and compares its answers with the expected ones."""

    class Config(kdtool.Config):
        """The questions, and how they are asked."""

        file: kdtool.RecipePath
        """File of questions, JSON Lines, plain or gzipped: `prompt`, `expected`, and optionally `metric` and `id`."""
        metric: Literal["exact", "contains", "regex", "edit-similarity", "runs-in-sandbox"] = "exact"
        """Comparison for lines that do not name one."""
        form: Literal["base", "chat"] = "base"
        """`base` has the model continue the prompt; `chat` sends it as the user's message, by the chat template."""
        maximum_tokens: int = kdtool.Field(default=64, ge=1, le=100_000)
        """Largest number of tokens of an answer."""
        limit: int | None = kdtool.Field(default=None, ge=1)
        """Maximum number of questions, selected by the hashes of their ids; null asks all."""
        stop: tuple[str, ...] | None = None
        """Texts before which an answer ends; null: the line's end or, of a program, the next definition at the margin. A
        chat's answer ends by itself."""
        seconds: float = kdtool.Field(default=3.0, gt=0, le=600)
        """Time limit of a program."""

    config: Config
    measurements = (
        "answers-match.exact",
        "answers-match.contains",
        "answers-match.regex",
        "answers-match.edit-similarity",
        "answers-match.runs-in-sandbox",
        "answers-match.unanswered",
    )
    reads_text = False

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the questions.

        Raises:
            kdtool.UsageError: the file cannot be read.
        """
        from kdtool_measuring import read_and_hash

        return {"file": read_and_hash(self.config.file, "answers-match.file")[1]}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Read the questions; return what the sandbox lacks, if one of them needs it.

        Raises:
            kdtool.UsageError: the file is in another form, or empty.
        """
        from kdtool_programs import missing

        needed = any(question.metric == "runs-in-sandbox" for question in self._questions().values())
        return missing() if needed and when == "start" else ()

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example]:
        """Return the questions with their first expected answer, so that training text can be kept free of them."""
        return [
            kdtool.Example(one.id, kdtool.Completion(one.prompt, one.expected[0]), "test")
            for one in self._questions().values()
        ]

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_to_answer

        if ahead.student in ahead.models:
            size = bytes_to_answer(ahead, 2 * self.config.maximum_tokens)
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `answers-match.<metric>` of each subject for each metric of the file; items are questions.

        Raises:
            kdtool.UsageError: the file is in another form, or empty.
        """
        from kdtool_measuring import choose, collect_answers, make_measurement, measure_missing_answers

        questions = {question.id: question for question in choose([*self._questions().values()], self.config.limit)}
        for subject in subjects:
            answers = collect_answers(
                run, subject, list(questions), lambda name, runtime: self._request(questions[name], runtime),
                evaluator="answers-match",
            )  # fmt: skip
            if answers is None:
                continue
            for metric, items in self._items(
                run, subject, [(questions[answer.id], answer) for answer in answers]
            ).items():
                yield make_measurement(
                    items, run, subject,
                    name=f"answers-match.{metric}", unit="fraction", higher_is_better=True,
                    settings=self._settings(run, metric),
                )  # fmt: skip
            yield from measure_missing_answers("answers-match", subject, answers)

    def _request(self, question: Question, runtime: kdtool.Runtime) -> kdtool.Request:
        from kdtool_measuring import fit_prompt

        most, stop = self.config.maximum_tokens, self.config.stop
        if self.config.form == "chat":
            return kdtool.Request(question.id, "", most, stop or (), turns=(("user", question.prompt),))
        usual = _PROGRAM if question.metric == "runs-in-sandbox" else _LINE
        return kdtool.Request(
            question.id, fit_prompt(question.prompt, runtime, most), most, usual if stop is None else stop
        )

    def _items(
        self, run: kdtool.RunInfo, subject: kdtool.Subject, asked: Sequence[tuple[Question, Answer]]
    ) -> Mapping[str, list[Item]]:
        """Return the scored questions of each metric, with the texts that the report shows."""
        from kdtool_measuring import Item, file_of

        from kdtool_evaluator_answers_match._questions import judge, score

        programs = [(question, answer) for question, answer in asked if question.metric == "runs-in-sandbox"]
        verdicts = {}
        if programs:
            file = file_of(run, "answers-match", subject, "verdicts")
            verdicts = judge(run, file, programs, self.config.seconds)
        items: dict[str, list[Item]] = {}
        for question, answer in asked:
            shown = {"prompt": question.prompt, "expected": "\n".join(question.expected), "answer": answer.text}
            if question.id in verdicts:
                value, shown["verdict"] = verdicts[question.id]
            else:
                value = 0.0 if answer.missing else score(question, answer.text)
            items.setdefault(question.metric, []).append(Item(question.id, value, 1.0, shown))
        return items

    def _questions(self) -> Mapping[str, Question]:
        from kdtool_evaluator_answers_match._questions import read_questions

        return read_questions(self.config.file, self.config.metric)

    def _settings(self, run: kdtool.RunInfo, metric: str) -> dict[str, str]:
        stop = self.config.stop
        python = ".".join(map(str, sys.version_info[:2]))  # which runs the programs
        limits = {"time limit": f"{self.config.seconds:g} s", "python": python} if metric == "runs-in-sandbox" else {}
        stops = "" if stop is None else f", before {' '.join(map(repr, stop)) or 'nothing'}"
        return {
            "questions": f"SHA-256 {self.kdtool_identity(run)['file'][:12]}",
            **({"limit": str(self.config.limit)} if self.config.limit else {}),
            "metric of lines without one": self.config.metric,
            "form": self.config.form,
            "decoding": f"greedy, at most {self.config.maximum_tokens} tokens{stops}",
            **limits,
        }

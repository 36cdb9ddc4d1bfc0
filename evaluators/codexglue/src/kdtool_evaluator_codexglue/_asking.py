"""Tasks in which a subject writes text that is compared with the authors' reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import kdtool
from kdtool_asking import Answer, collect_answers, fit_prompt, measure_missing_answers
from kdtool_measuring import Item, make_measurement

__all__ = ["Metric", "Question", "Task", "measurements"]


@dataclass(frozen=True)
class Question:
    """A prompt that a subject continues, and the authors' continuation."""

    id: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class Metric:
    """A measure of an answer against its reference; `like` names the published evaluator that it equals."""

    name: str
    unit: str
    score: Callable[[str, str], float]
    like: str


@dataclass(frozen=True)
class Task:
    """Questions of one file, about one programming language.

    `cut` takes out of an answer what is compared; `settings` say how it is asked.
    """

    name: str
    language: str
    questions: Sequence[Question]
    stop: tuple[str, ...]
    maximum_tokens: int
    cut: Callable[[str], str]
    metrics: tuple[Metric, ...]
    settings: Mapping[str, str]


def measurements(run: kdtool.RunInfo, subject: kdtool.Subject, task: Task) -> Iterator[kdtool.Measurement]:
    """Yield a measurement of each of the task's metrics; nothing, with a message, if the subject does not answer."""
    questions = {question.id: question for question in task.questions}

    def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request:
        prompt = fit_prompt(questions[name].prompt, runtime, task.maximum_tokens)
        return kdtool.Request(name, prompt, task.maximum_tokens, task.stop)

    evaluator = f"codexglue.{task.language}"
    answers = collect_answers(run, subject, list(questions), request, evaluator=f"{evaluator}.{task.name}")
    if answers is None:
        return
    decoding = f"greedy, at most {task.maximum_tokens} tokens, until one of {' '.join(map(repr, task.stop))}"

    def score(metric: Metric, answer: Answer) -> float:
        return 0.0 if answer.missing else metric.score(task.cut(answer.text), questions[answer.id].reference)

    for metric in task.metrics:
        yield make_measurement(
            [Item(answer.id, score(metric, answer), 1.0) for answer in answers],
            run,
            subject,
            name=f"{evaluator}.{metric.name}",
            unit=metric.unit,
            higher_is_better=True,
            settings={**task.settings, "decoding": decoding, "like": metric.like},
        )
    yield from measure_missing_answers(f"{evaluator}.{task.name}", subject, answers)

"""The evaluator `samples`: completions of a few prompts, for people to read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import kdtool

__all__ = ["Samples", "distinct_words"]


class Samples(kdtool.Evaluator):
    """Shows what each subject writes after the same prompts, and measures how much of it is not repeated."""

    class Config(kdtool.Config):
        """The prompts, and the length of their completions."""

        prompts: list[str] = kdtool.Field(
            default=[
                "def __init__(self, name):\n    self.name =",
                "def fibonacci(n):",
                "for name in os.listdir(",
                "if value is None:\n    raise",
            ],
            min_length=1,
            max_length=100,
        )
        """Beginnings of texts, each completed by greedy decoding."""
        tokens: int = kdtool.Field(default=32, ge=1, le=10_000)
        """Largest number of tokens of a completion."""

    config: Config
    measurements = ("samples.distinct-words",)
    reads_text = False

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_to_answer

        if ahead.student in ahead.models:
            longest = max(map(len, self.config.prompts)) // 2 + self.config.tokens
            size = bytes_to_answer(ahead, longest)
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `samples.distinct-words` of each subject, with its completions by prompt; there are no items to compare."""
        from kdtool_measuring import collect_answers, fit_prompt

        prompts = list(dict.fromkeys(self.config.prompts))

        def request(prompt: str, runtime: kdtool.Runtime) -> kdtool.Request:
            return kdtool.Request(prompt, fit_prompt(prompt, runtime, self.config.tokens), self.config.tokens)

        for subject in subjects:
            answers = collect_answers(run, subject, prompts, request, evaluator="samples")
            if answers is not None:
                yield kdtool.Measurement(
                    name="samples.distinct-words",
                    subject=subject.name,
                    unit="fraction",
                    value=sum(distinct_words(answer.text) for answer in answers) / len(answers),
                    n=len(answers),
                    higher_is_better=True,
                    settings={"decoding": f"greedy, at most {self.config.tokens} tokens"},
                    texts={answer.id: answer.text for answer in answers},
                )


def distinct_words(text: str) -> float:
    """Return the share of words that are not repetitions of earlier ones, 0 for a text without words."""
    words = re.findall(r"\w+", text)
    return len(set(words)) / len(words) if words else 0.0

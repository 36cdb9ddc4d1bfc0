"""Samples are the completions of each prompt, in order, and are shown without being compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_evaluator_samples import Samples, distinct_words
from kdtool_testing import EvaluatorConformance, make_run

SUBJECT = kdtool.Subject("student", "student", Path("nowhere"), 0)


class TestSamples(EvaluatorConformance):
    component = Samples
    entry_point = "samples"


class Repeating(kdtool.Runtime):
    """Completes a prompt by its last word, twice, and then stops."""

    def __init__(self) -> None:
        self.asked: list[kdtool.Request] = []

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for request in requests:
            self.asked.append(request)
            yield kdtool.TextAnswer(request.id, f" {request.prompt.split()[-1]}" * 2, "stop", 3, 4)

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        raise NotImplementedError


class Opener(kdtool.Exporter):
    """Opens everything as one runtime."""

    def __init__(self, runtime: kdtool.Runtime) -> None:
        super().__init__(self.Config())
        self.runtime = runtime

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return self.runtime


def evaluate(folder: Path, runtime: kdtool.Runtime, **settings: Any) -> kdtool.Measurement:
    run = make_run(folder, {"any": Opener(runtime)}, ())
    (found,) = Samples(Samples.Config(**settings)).kdtool_evaluate(run, [SUBJECT])
    return found


def test_completions_stand_by_their_prompts(tmp_path: Path) -> None:
    runtime = Repeating()
    found = evaluate(tmp_path, runtime, prompts=["def one", "import", "def one"], tokens=5)
    assert found.texts == {"def one": " one one", "import": " import import"}
    assert list(found.texts) == ["def one", "import"]
    assert (found.value, found.n, found.items, found.low) == (0.5, 2, None, None)
    assert {(request.max_tokens, request.temperature, request.stop) for request in runtime.asked} == {(5, 0.0, ())}


def test_the_default_prompts_are_few_and_all_completed(tmp_path: Path) -> None:
    found = evaluate(tmp_path, Repeating())
    assert list(found.texts) == Samples.Config().prompts
    assert all(found.texts.values())


def test_a_recipe_without_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="prompts"):
        Samples.Config(prompts=[])


@pytest.mark.parametrize(
    ("text", "share"), [("", 0.0), ("\n\n  .", 0.0), ("a b c", 1.0), (", self, self, self, self", 0.25)]
)
def test_distinct_words_are_those_worked_by_hand(text: str, share: float) -> None:
    assert distinct_words(text) == share

"""Samples are the completions of each prompt, in order, and are shown without being compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_evaluator_samples import Samples, distinct_words
from kdtool_testing import EvaluatorConformance, OneRuntime, ScriptedRuntime, make_run

SUBJECT = kdtool.Subject("student", "student", Path("nowhere"), 0)


class TestSamples(EvaluatorConformance):
    component = Samples
    entry_point = "samples"


def repeating() -> ScriptedRuntime:
    """Return a runtime that completes a prompt by its last word, twice."""
    return ScriptedRuntime(lambda request: f" {request.prompt.split()[-1]}" * 2)


def evaluate(folder: Path, runtime: kdtool.Runtime, **settings: Any) -> kdtool.Measurement:
    run = make_run(folder, {"any": OneRuntime(runtime)}, ())
    (found,) = Samples(Samples.Config(**settings)).kdtool_evaluate(run, [SUBJECT])
    return found


def test_completions_stand_by_their_prompts(tmp_path: Path) -> None:
    runtime = repeating()
    found = evaluate(tmp_path, runtime, prompts=["def one", "import", "def one"], tokens=5)
    assert found.texts == {"def one": " one one", "import": " import import"}
    assert list(found.texts) == ["def one", "import"]
    assert (found.value, found.n, found.items, found.low) == (0.5, 2, None, None)
    assert {(request.max_tokens, request.temperature, request.stop) for request in runtime.asked} == {(5, 0.0, ())}


def test_a_recipe_without_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="prompts"):
        Samples.Config(prompts=[])


@pytest.mark.parametrize(
    ("text", "share"), [("", 0.0), ("\n\n  .", 0.0), ("a b c", 1.0), (", self, self, self, self", 0.25)]
)
def test_distinct_words_are_those_worked_by_hand(text: str, share: float) -> None:
    assert distinct_words(text) == share

"""Whole runs that learn preferences: after a distillation in the same recipe, and against the student as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import kdtool
import pytest

pytestmark = pytest.mark.slow

PAIRS = [(f"def f{i}(x):\n", f"    return x + {i}\n", f"    raise Broken({i})\n") for i in range(30)]


@pytest.fixture
def preferring(recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The small recipe, with a second phase on pairs and fewer things to measure."""
    lines = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in PAIRS[:24]]
    lines.append({"prompt": "# long\n" * 60, "chosen": "x\n", "rejected": "y\n"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    prefer = {
        "corpus": {"use": "jsonl", "files": [str(path)]},
        "rows": {"use": "pairs", "length": 96},
        "signals": False,
        "losses": {"preference": {"weight": 1.0}, "ce": {"weight": 0.1}},
        "trainer": {"batch": 4, "learning_rate": 1e-3, "log_every": 1},
        "steps": 16,
    }
    distil = {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 3}
    recipe["train"] = {"distil": distil, "prefer": prefer}
    recipe["control"] = {"match": "tokens", "losses": {"ce": {}}}
    recipe["evaluators"] = {"perplexity": {"documents": 2, "characters": 200}}
    return {key: value for key, value in recipe.items() if key not in {"trackers", "reporter"}}


def margin(folder: Path) -> float:
    """Mean log ratio of chosen to rejected answers, on pairs held out from training."""
    import torch
    from kdtool_transformers import open_model

    model = open_model(folder, dtype=torch.float32)

    def likelihood(prompt: str, answer: str) -> float:
        begin, end = model.tokenizer.encode(prompt), [*model.tokenizer.encode(answer), model.tokenizer.end_of_text]
        with torch.no_grad():
            logits = model.model(torch.tensor([begin + end])).logits[0].double().log_softmax(-1)
        return sum(float(logits[len(begin) - 1 + place, token]) for place, token in enumerate(end))

    return sum(likelihood(prompt, chosen) - likelihood(prompt, other) for prompt, chosen, other in PAIRS[24:]) / 6


def values(results: kdtool.Results, label: str, phase: str = "prefer") -> list[float]:
    return [report.terms[label].value for report in results.arms[0].histories[phase] if label in report.terms]


def test_a_recipe_distils_and_then_prefers_and_the_next_one_prefers_against_what_it_made(
    preferring: dict[str, Any], teacher_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = kdtool.run(preferring)
    assert "1 of 25 are without the beginning of their prompt" in "".join(capfd.readouterr()) + str(results.notes)
    student, control = results.arms[0].artifacts[0].path, results.arms[1].path
    found = values(results, "preference")
    assert sum(found[-4:]) < 0.7 * sum(found[:4])
    assert margin(student) > margin(control) + 1, "the control has learned the chosen answers alone"
    assert margin(control) > margin(teacher_folder) + 5, "and which these are"

    # Now against the student itself, as the first run exported it.
    phase = preferring["train"]["prefer"]
    again = {
        **preferring,
        "name": "again",
        "corpus": phase["corpus"],
        "rows": phase["rows"],
        "signals": {"use": "states"},
        "student": {"use": "pretrained", "model": str(student)},
        "teacher": {"use": "causal-lm", "model": str(student), "dtype": "float32"},
        "train": {key: phase[key] for key in ("losses", "trainer", "steps")},
        "control": False,
        "evaluators": {},
    }
    preferred = kdtool.run(again)
    found = values(preferred, "preference", "train")
    assert found[0] == pytest.approx(math.log(2), abs=1e-5), "the student is the reference still"
    assert found[-1] < 0.5 * found[0]
    assert margin(preferred.arms[0].artifacts[0].path) > margin(student) + 3


def test_what_does_not_go_together_is_refused_before_anything_is_made(preferring: dict[str, Any]) -> None:
    with pytest.raises(
        kdtool.RecipeError, match=r"losses\.preference: needs logits, but the signals \(sampled\) offers sampled"
    ):
        kdtool.check(preferring, {"train.prefer.signals": {"use": "sampled"}})
    with pytest.raises(kdtool.RecipeError, match=r"losses\.preference: requires column 'rejected', .*\n.*use rows"):
        kdtool.check(preferring, {"train.prefer.rows": {"use": "packed", "length": 64}})
    with pytest.raises(
        kdtool.RecipeError,
        match=r"losses\.preference: learns only from rows of the corpus.*\n.*`train\.prefer\.trainer\.on_policy: null`",
    ):
        kdtool.check(preferring, {"trainer.on_policy": {}, "signals": False})
    kdtool.check(preferring, {"trainer.on_policy": {}, "signals": False, "train.prefer.trainer.on_policy": None})


def test_examples_without_answers_are_refused(preferring: dict[str, Any]) -> None:
    del preferring["train"]["distil"]
    preferring["train"]["prefer"]["corpus"] = preferring["corpus"]
    with pytest.raises(kdtool.UsageError, match=r"pairs needs preferences, .* is not one"):
        kdtool.run(preferring)


def test_the_student_starts_at_its_reference_in_bfloat16(preferring: dict[str, Any]) -> None:
    del preferring["train"]["distil"]
    phase = preferring["train"]["prefer"]
    phase |= {"teacher": {"use": "initial-student"}, "losses": {"preference": {}}, "steps": 1}
    phase["trainer"] |= {"dtype": "bfloat16"}
    preferring |= {"control": False, "evaluators": {}}
    first = values(kdtool.run(preferring), "preference")[0]
    assert first == pytest.approx(math.log(2), abs=1e-7), "the margin is 0"

"""Perplexity and bits per byte against a model whose probabilities are known, and against transformers' own loss."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_evaluator_perplexity import Perplexity
from kdtool_testing import EvaluatorConformance, OneRuntime, make_run, write_toy_model

SUBJECT = kdtool.Subject("student", "student", Path("nowhere"), 0)
EXAMPLES = [kdtool.Example(f"d{i}", kdtool.Text("ä" * (i + 1)), split="test") for i in range(6)]


class TestPerplexity(EvaluatorConformance):
    component = Perplexity
    entry_point = "perplexity"


class Uniform(kdtool.Runtime):
    """Gives every character, one token each, the probability 1/8."""

    closed = False

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        raise NotImplementedError

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        for text in texts:
            yield kdtool.LogLikelihood(-len(text) * log(8), len(text), len(text.encode("utf-8")))

    def close(self) -> None:
        self.closed = True


def evaluate(run: kdtool.RunInfo, **settings: Any) -> dict[str, kdtool.Measurement]:
    evaluator = Perplexity(Perplexity.Config(**settings))
    return {found.name: found for found in evaluator.kdtool_evaluate(run, [SUBJECT])}


def test_a_uniform_model_has_the_perplexity_of_its_choices(tmp_path: Path) -> None:
    runtime = Uniform()
    found = evaluate(make_run(tmp_path, {"any": OneRuntime(runtime)}, EXAMPLES), characters=4)
    assert found["perplexity"].value == pytest.approx(8.0)
    assert found["bits-per-byte"].value == pytest.approx(3 / 2)
    assert found["perplexity"].transform == "exp"
    assert found["perplexity"].n == 6
    assert "same tokenizer" in found["perplexity"].settings["comparable with"]
    items = found["perplexity"].items
    assert items is not None
    weights = {row["item"]: row["weight"] for row in map(json.loads, items.read_text(encoding="utf-8").splitlines())}
    assert weights == {f"d{i}": min(i + 1, 4) for i in range(6)}
    assert runtime.closed


def test_a_split_without_documents_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"perplexity\.split: 'validation' has no .*`validation_share`"):
        evaluate(make_run(tmp_path, {"any": OneRuntime(Uniform())}, EXAMPLES), split="validation")


def test_an_evaluation_without_a_corpus_names_the_options_that_give_one(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"perplexity: the run has no text.*--corpus NAME or --recipe FILE"):
        evaluate(make_run(tmp_path, {"any": OneRuntime(Uniform())}), split="test")


def test_a_real_model_agrees_with_its_own_loss(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("kdtool_transformers")
    wrapped = library.open_model(str(write_toy_model(tmp_path / "model")))
    model = wrapped.model
    examples = [kdtool.Example(f"d{i}", kdtool.Text(f"x = {i}\nprint(x)\n" * 3), split="test") for i in range(4)]
    found = evaluate(make_run(tmp_path, {"any": OneRuntime(library.TransformersRuntime(wrapped))}, examples))
    model.set_attn_implementation("eager")
    total = tokens = 0.0
    for example in examples:
        assert isinstance(example.body, kdtool.Text)
        ids = torch.tensor([[*wrapped.tokenizer.scoring_context, *wrapped.tokenizer.encode(example.body.text)]])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert found["perplexity"].value == pytest.approx(exp(total / tokens), rel=1e-4)
    assert found["perplexity"].settings["tokenizer"] == wrapped.tokenizer.fingerprint[:12]


@pytest.mark.parametrize("attends", [0.0, 4.0])
def test_a_model_that_depends_on_what_precedes_a_text_is_named(tmp_path: Path, attends: float) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("kdtool_transformers")
    wrapped = library.open_model(str(write_toy_model(tmp_path / "model")))
    with torch.no_grad():
        for layer in wrapped.model.model.layers:
            layer.self_attn.o_proj.weight.mul_(attends)
    examples = [kdtool.Example(f"d{i}", kdtool.Text(f"x = {i}; print(x) " * 4), split="test") for i in range(6)]
    said: list[str] = []
    run = replace(
        make_run(tmp_path, {"any": OneRuntime(library.TransformersRuntime(wrapped))}, examples), say=said.append
    )
    evaluate(run)
    expected = (
        r"perplexity: student takes \d+\.\d{3} nats per token for 4 documents after 'Ċ', .* and \d+\.\d{3} without: .*"
    )
    assert [bool(re.fullmatch(expected, line)) for line in said] == [True] * (attends > 0)

"""The student `smallcoder`: its exact count, its relatives, and what another vocabulary makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import kdtool
import pytest
from kdtool_student_smallcoder import SHAPES, VOCABULARY, SmallCoder
from kdtool_testing import StudentConformance, make_run
from kdtool_transformers import TransformersTokenizer, byte_tokenizer


class Source(kdtool.Teacher):
    """A teacher of which only the tokenizer is wanted."""

    def __init__(self, tokenizer: kdtool.Tokenizer) -> None:
        super().__init__(self.Config())
        self.tokenizer = tokenizer

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self.tokenizer


class TestSmallCoder(StudentConformance):
    component = SmallCoder
    entry_point = "smallcoder"
    settings: ClassVar[dict[str, Any]] = {"size": "11m"}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teacher": Source(byte_tokenizer())}


def _tokens(count: int) -> TransformersTokenizer:
    """Return a tokenizer of as many tokens: the bytes, then tokens that text never gives."""
    tokenizer = byte_tokenizer()
    tokenizer.inner.add_tokens([f"<unused {number}>" for number in range(count - tokenizer.vocabulary)])
    found = TransformersTokenizer(tokenizer.inner)
    assert found.vocabulary == count
    return found


def _run(folder: Path, tokens: int, **fields: Any) -> kdtool.RunInfo:
    return make_run(folder, {"teacher": Source(_tokens(tokens))}, **fields)


def test_it_has_the_published_shape_and_exactly_its_count(tmp_path: Path) -> None:
    said: list[str] = []
    student = SmallCoder(SmallCoder.Config(parameters=303_654_528))
    facts = student.kdtool_describe(_run(tmp_path, VOCABULARY, say=said.append)).facts
    assert (facts.parameters, facts.trainable) == (303_654_528, 303_654_528)
    assert (facts.vocabulary, facts.hidden, facts.layers, facts.heads, facts.kv_heads) == (32_000, 1152, 18, 16, 4)
    assert (facts.feed_forward, facts.context, facts.tied, facts.dtype) == (3328, 4096, True, "float32")
    assert "303,654,528 parameters, 36,864,000 of them (12%) tied embeddings" in said[0]
    assert not any("the tokenizer has" in line for line in said)


@pytest.mark.parametrize(
    ("size", "count"), [("303m", 303_654_528), ("106m", 105_990_912), ("40m", 40_509_952), ("11m", 11_208_960)]
)
def test_sizes_are_named_by_their_counts(size: str, count: int) -> None:
    shape = SHAPES[size]
    assert shape.parameters(VOCABULARY, tied=True) == count
    assert round(count / 1e6, -1 if count > 3e8 else 0) == pytest.approx(int(size[:-1]), abs=4)
    assert shape.heads == 4 * shape.kv_heads
    assert shape.hidden == 64 * shape.layers
    if size != "303m":  # SmallCoder's own shape is what it is
        assert not list(shape.notes())


def test_another_vocabulary_makes_another_count_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    facts = SmallCoder(SmallCoder.Config()).kdtool_describe(_run(tmp_path, 49_152, say=said.append)).facts
    assert facts.parameters == 303_654_528 + (49_152 - 32_000) * 1152
    assert facts.vocabulary == 49_152
    assert any(
        "the tokenizer has 49,152 tokens, not 32,000: 323,413,632 parameters instead of 303,654,528 (+6.5%)" in line
        for line in said
    )


def test_its_count_is_known_before_its_tokenizer_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    run = make_run(tmp_path, offline=True)
    for tokenizer, count in (("mistralai/Mistral-7B-v0.1", 303_654_528), ("bigcode/starcoder2-3b", 323_413_632)):
        facts = SmallCoder(SmallCoder.Config(tokenizer=tokenizer)).kdtool_describe(run).facts
        assert (facts.parameters, facts.tokenizer_fingerprint) == (count, "")
    with pytest.raises(kdtool.UsageError, match="the tokenizer has 49,152"):
        SmallCoder(SmallCoder.Config(tokenizer="bigcode/starcoder2-3b", parameters=303_654_528)).kdtool_describe(run)
    unknown = SmallCoder(SmallCoder.Config(tokenizer="somebody/model"))
    with pytest.raises(kdtool.ServiceError, match="hf download somebody/model"):
        unknown.kdtool_describe(run)

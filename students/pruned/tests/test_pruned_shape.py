"""The shape that `pruned` finds for a count: within two per cent, to be cut from its source, or refused with the nearest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kdtool
import kdtool_student_gpt
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from kdtool_student_gpt import TOLERANCE
from kdtool_student_pruned import Pruned
from kdtool_student_pruned._anatomy import Anatomy, Shape, smaller_config
from kdtool_student_pruned._target import solve
from kdtool_testing import make_run
from kdtool_testing.tiny_models import tiny_config
from kdtool_transformers import PublishedTeacher, PublishedTeacherConfig, facts_of, published_config, without_weights

SOURCES: dict[str, Mapping[str, Any]] = {
    "smollm2-135m": {"model_type": "llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536}
    | {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "codellama-7b": published_config("codellama/CodeLlama-7b-hf"),
    "starcoder2-3b": published_config("bigcode/starcoder2-3b"),
    "qwen2.5-1.5b": published_config("Qwen/Qwen2.5-Coder-1.5B"),
}


@cache
def _source(name: str) -> Anatomy:
    config = transformers.AutoConfig.for_model(**SOURCES[name])
    return Anatomy.of(facts_of(without_weights(config), None))


class PublishedSource(PublishedTeacher):
    """A teacher whose weights are nowhere; its configuration is known."""

    def __init__(self, name: str) -> None:
        super().__init__(PublishedTeacherConfig())
        self.name = name

    def hub_name(self) -> str:
        return f"nobody/{self.name}"

    def absent(self) -> Mapping[str, Any]:
        return SOURCES[self.name]


@given(st.sampled_from(list(SOURCES)), st.floats(0.001, 1.05))
def test_a_count_is_met_or_refused_with_the_nearest(name: str, share: float) -> None:
    source = _source(name)
    whole = source.parameters(source.shape)
    wanted = int(share * whole)
    try:
        shape = solve(wanted, source, "teacher")
    except kdtool.UsageError as error:
        if wanted > whole:
            assert "cutting only takes away" in str(error)
            return
        found = re.search(r"nearest is parameters: (\d+) ", str(error))
        assert found is not None
        nearest = int(found[1])
        assert abs(nearest / wanted - 1) > TOLERANCE, "that would have done"
        shape, wanted = solve(nearest, source, "teacher"), nearest  # what is proposed is accepted
    assert abs(source.parameters(shape) / wanted - 1) <= TOLERANCE
    _can_be_cut(shape, source)


def _can_be_cut(shape: Shape, source: Anatomy) -> None:
    whole = source.shape
    assert all(1 <= size <= own for size, own in zip(shape, whole, strict=True))
    assert shape.heads % shape.kv_heads == 0
    assert shape.heads // shape.kv_heads <= whole.heads // whole.kv_heads
    for size, own in ((shape.hidden, whole.hidden), (shape.feed_forward, whole.feed_forward)):
        assert size == own or size % (64 if size < 1024 else 256) == 0
    if source.model_type != "llama":  # llama.cpp opens no others
        assert shape.heads * source.head_size == shape.hidden
    else:  # nor does transformers
        assert shape.hidden % shape.heads == 0


@pytest.mark.parametrize(
    ("name", "wanted", "shape"),
    [
        ("codellama-7b", 350_000_000, Shape(22, 1024, 8, 8, 2816)),
        ("starcoder2-3b", 350_000_000, Shape(18, 1280, 10, 1, 4864)),
        ("smollm2-135m", 60_000_000, Shape(26, 384, 6, 2, 1024)),
        ("smollm2-135m", 134_515_008, Shape(30, 576, 9, 3, 1536)),
    ],
)
def test_teachers_of_the_systems_get_these_shapes(
    name: str, wanted: int, shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdtool_student_gpt, "uses_of", lambda _: {"gpu": True, "gguf": True})
    assert solve(wanted, _source(name), "teacher") == shape
    said: list[str] = []
    run = make_run(tmp_path, {"teacher": PublishedSource(name)}, offline=True, say=said.append)
    student = Pruned(Pruned.Config(parameters=wanted))
    facts = student.kdtool_describe(run).facts
    assert facts == student.kdtool_describe(run).facts
    assert facts.parameters == facts.trainable == _source(name).parameters(shape)
    assert abs(facts.parameters / wanted - 1) <= TOLERANCE
    sizes = (facts.layers, facts.hidden, facts.heads, facts.kv_heads, facts.feed_forward)
    assert sizes == shape
    assert (facts.vocabulary, facts.dtype) == (SOURCES[name]["vocab_size"], "float32")
    assert facts.tied == SOURCES[name]["tie_word_embeddings"]
    if shape == _source(name).shape:
        assert said == []
        return
    assert said[0].startswith(f"student: {facts.parameters:,} parameters, ")  # once
    notes = " ".join(said[1:])
    assert ("not a multiple of 256: GGUF" in notes) == any(size % 256 for size in (shape.hidden, shape.feed_forward))


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2"])
@given(data=st.data())
def test_counts_are_what_transformers_builds(family: str, data: st.DataObject) -> None:
    options: dict[str, Any] = {"tie_word_embeddings": data.draw(st.booleans())}
    if family == "llama":
        options |= {"attention_bias": data.draw(st.booleans()), "mlp_bias": data.draw(st.booleans())}
    if family == "starcoder2":
        options["use_bias"] = data.draw(st.booleans())
    config = tiny_config(family, 5, **options)
    source = Anatomy.of(facts_of(without_weights(config), None))
    assert source.parameters(source.shape) == facts_of(without_weights(config), None).parameters
    kv_heads = data.draw(st.integers(1, 2))
    heads = kv_heads * data.draw(st.integers(1, 2))
    shape = Shape(
        data.draw(st.integers(1, 5)), data.draw(st.integers(1, 32)), heads, kv_heads, data.draw(st.integers(1, 48))
    )
    facts = facts_of(without_weights(smaller_config(config, range(shape.layers), shape)), None)
    assert facts.parameters == source.parameters(shape)
    assert facts.vocabulary * facts.hidden * (1 if facts.tied else 2) == source.embedding_parameters(shape)


def test_notes_name_what_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdtool_student_gpt, "uses_of", lambda _: {"gpu": True, "gguf": True})
    for config, told in (
        (Pruned.Config(hidden=512, heads=2, kv_heads=1), "attention width 128 is not a multiple of 256"),
        (Pruned.Config(hidden=504, feed_forward=1000), "hidden 504 and feed_forward 1000 are not a multiple of 64"),
        (Pruned.Config(heads=6), "hidden 576 and attention width 384 are not a multiple of 256"),
    ):
        said: list[str] = []
        run = make_run(tmp_path, {"teacher": PublishedSource("smollm2-135m")}, offline=True, say=said.append)
        Pruned(config).kdtool_describe(run)
        assert any(told in line for line in said), said

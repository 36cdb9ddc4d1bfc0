"""The student `gpt`: counts, the shape that it finds for one, what it refuses, and that it is an ordinary model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from kdtool_student_gpt import Gpt, LlamaShape
from kdtool_student_gpt._llama import _shapes, llama_config, solve
from kdtool_testing import StudentConformance, make_run
from kdtool_torch import isolated_rng
from kdtool_transformers import byte_tokenizer
from kdtool_transformers.sizes import TOLERANCE, ParameterCount

TARGETS = st.floats(6, 9.48).map(lambda power: int(10**power))  # 1M to 3B, small ones as often as large ones
VOCABULARIES = st.integers(1000, 152_064)


class Source(kdtool.Teacher):
    """A teacher of which only the tokenizer is wanted."""

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return byte_tokenizer()


class TestGpt(StudentConformance):
    component = Gpt
    entry_point = "gpt"
    settings: ClassVar[dict[str, Any]] = {"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "feed_forward": 48}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"teacher": Source(Source.Config())}


def _run(folder: Path, **fields: Any) -> kdtool.RunInfo:
    return make_run(folder, {"teacher": Source(Source.Config())}, **fields)


@given(TARGETS, VOCABULARIES, st.booleans())
def test_a_count_is_met_or_refused_with_the_nearest(wanted: int, vocabulary: int, tied: bool) -> None:
    try:
        shape = solve(wanted, vocabulary, tied)
    except kdtool.UsageError as error:
        found = re.search(r"nearest is parameters: (\d+) ", str(error))
        assert found is not None
        nearest = int(found[1])
        assert abs(nearest / wanted - 1) > TOLERANCE, "that would have done"
        assert f"{vocabulary:,} tokens" in str(error)
        counts = (
            shape.parameters(vocabulary, tied) for shape in _shapes((0, 2 * max(wanted, nearest)), vocabulary, tied)
        )
        assert abs(nearest - wanted) == min(abs(count - wanted) for count in counts), "another is nearer"
        shape, wanted = solve(nearest, vocabulary, tied), nearest  # what is proposed is accepted
    assert abs(shape.parameters(vocabulary, tied) / wanted - 1) <= TOLERANCE
    assert shape.mistake() is None
    assert shape.hidden // shape.heads == 64
    assert shape.feed_forward % 64 == 0
    assert shape.hidden < 1024 or not list(shape.notes()), "wide enough for multiples of 256"


@pytest.mark.parametrize(
    ("wanted", "vocabulary", "shape"),
    [
        (125_000_000, 49_152, LlamaShape(12, 768, 12, 12, 2048)),  # StarCoder2's tokenizer: GPT-2's own proportions
        (350_000_000, 32_016, LlamaShape(16, 1280, 20, 20, 3328)),
        (3_000_000_000, 152_064, LlamaShape(33, 2560, 40, 40, 6912)),
    ],
)
def test_usual_counts_get_usual_shapes(wanted: int, vocabulary: int, shape: LlamaShape) -> None:
    assert solve(wanted, vocabulary, True) == shape
    assert abs(shape.parameters(vocabulary, tied=True) / wanted - 1) <= TOLERANCE


def test_it_opens_plainly_and_says_its_shape_once(tmp_path: Path) -> None:
    said: list[str] = []
    run = _run(tmp_path, say=said.append)
    student = Gpt(Gpt.Config(parameters=300_000, context=128, tied=False))
    facts = student.kdtool_describe(run).facts
    built = student.kdtool_build_student(run)
    assert facts == built.facts
    assert abs(facts.parameters / 300_000 - 1) <= TOLERANCE
    assert said[0].startswith(f"student: {facts.parameters:,} parameters, {2 * 257 * facts.hidden:,} of them (")
    assert len([line for line in said if "embeddings for 257 tokens" in line]) == 1
    built.save(tmp_path / "student")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student", trust_remote_code=False)
    assert type(plain).__module__.startswith("transformers.")
    assert (plain.config.eos_token_id, plain.config.max_position_embeddings) == (built.tokenizer.end_of_text, 128)
    for name, weight in built.model.state_dict().items():
        assert torch.equal(weight, plain.state_dict()[name])


def test_an_own_tokenizer_takes_the_place_of_the_teachers(tmp_path: Path) -> None:
    byte_tokenizer("qwen2").save(tmp_path / "tokenizer")
    student = Gpt(Gpt.Config(parameters=300_000, tokenizer=str(tmp_path / "tokenizer")))
    run = make_run(tmp_path)  # and there need be no teacher
    assert student.kdtool_tokenizer(run).fingerprint == byte_tokenizer("qwen2").fingerprint
    assert student.kdtool_describe(run).facts == student.kdtool_build_student(run).facts


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "give parameters, or the shape"),
        ({"parameters": "1M", "layers": 2, "heads": 2}, "leave out layers, heads"),
        ({"layers": 2, "hidden": 32, "heads": 5}, "hidden 32 must be heads 5 times"),
        ({"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 3}, "kv_heads 3 does not divide heads 4"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=told):
        Gpt.Config.model_validate(settings)


def test_what_cannot_be_had_is_explained(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"teachers.big is not .*there are: teacher, or give tokenizer"):
        Gpt(Gpt.Config(parameters=300_000, source="teachers.big")).kdtool_tokenizer(_run(tmp_path))
    with pytest.raises(kdtool.UsageError, match="no such folder"):
        Gpt(Gpt.Config(parameters=300_000, tokenizer="./absent")).kdtool_tokenizer(_run(tmp_path))
    told = r"within 2% of 1,000: embeddings for 257 tokens take 16.45k at width 64 .* The nearest is parameters: \d+ "
    with pytest.raises(kdtool.UsageError, match=told):
        Gpt(Gpt.Config(parameters=1000)).kdtool_describe(_run(tmp_path))


COUNT: pydantic.TypeAdapter[int] = pydantic.TypeAdapter(ParameterCount)


@st.composite
def shapes(draw: st.DrawFn) -> LlamaShape:
    kv_heads = draw(st.integers(1, 6))
    heads = kv_heads * draw(st.integers(1, 4))
    hidden = heads * 2 * draw(st.integers(1, 40))
    return LlamaShape(draw(st.integers(1, 5)), hidden, heads, kv_heads, draw(st.integers(1, 900)))


@given(shapes(), st.booleans())
def test_a_shape_counts_what_transformers_builds(shape: LlamaShape, tied: bool) -> None:
    tokenizer = byte_tokenizer()
    with isolated_rng(), torch.device("meta"):
        model = transformers.LlamaForCausalLM(llama_config(shape, tokenizer, context=64, tied=tied))
    embeddings = {id(p): p.numel() for p in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    assert shape.parameters(257, tied) == sum(parameter.numel() for parameter in model.parameters())
    assert shape.embedding_parameters(257, tied) == sum(embeddings.values())
    assert (model.config.eos_token_id, model.config.bos_token_id) == (tokenizer.end_of_text, None)


@pytest.mark.parametrize(
    ("written", "count"),
    [("125M", 125_000_000), ("1.2B", 1_200_000_000), (" 64 k ", 64_000), ("0.5m", 500_000), ("7b", 7_000_000_000)],
)
def test_counts_are_read_as_they_are_written(written: str, count: int) -> None:
    assert COUNT.validate_python(written) == count
    assert COUNT.validate_json(f'"{written}"', strict=True) == count


@pytest.mark.parametrize("written", ["", "125 million", "M", "-3M", "1e6", "125T", "0", "0M", 0, 10**12, "1000B", 1.5])
def test_what_is_no_count_is_refused(written: Any) -> None:
    with pytest.raises(pydantic.ValidationError):
        COUNT.validate_python(written, strict=True)

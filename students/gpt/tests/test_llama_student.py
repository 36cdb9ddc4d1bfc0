"""Students from random weights: their counts, their configurations, and how a count is written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kdtool
import pydantic
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from kdtool_student_gpt import LlamaShape, LlamaStudent, LlamaStudentConfig, ParameterCount, readable_count, uses_of
from kdtool_student_gpt._llama import llama_config
from kdtool_testing import make_run
from kdtool_torch import isolated_rng
from kdtool_transformers import byte_tokenizer

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
    ("shape", "told"),
    [
        (LlamaShape(1, 30, 4, 4, 8), "hidden 30 must be heads 4 times an even number"),
        (LlamaShape(1, 12, 4, 4, 8), "hidden 12 must be heads 4 times an even number"),
        (LlamaShape(1, 32, 4, 3, 8), "kv_heads 3 does not divide heads 4"),
    ],
)
def test_shapes_that_no_model_has_are_refused(shape: LlamaShape, told: str) -> None:
    with pytest.raises(kdtool.UsageError, match=told):
        llama_config(shape, byte_tokenizer(), context=64, tied=True)


def test_a_shape_says_what_kernels_and_quantised_formats_do_not_like() -> None:
    assert list(LlamaShape(12, 768, 12, 12, 2048).notes()) == []
    kernels, quants = LlamaShape(18, 1152, 16, 4, 3328).notes()
    assert kernels.startswith("head size 72 is not a multiple of 64")
    assert quants.startswith("hidden 1152 is not a multiple of 256")
    assert "hidden 100 and feed_forward 300 are not" in " ".join(LlamaShape(1, 100, 2, 2, 300).notes())
    assert list(LlamaShape(18, 1152, 16, 4, 3328).notes(gpu=False, gguf=False)) == []
    assert LlamaShape(18, 1152, 16, 4, 3328).sentence(32_000, True) == (
        "303,654,528 parameters, 36,864,000 of them (12%) tied embeddings for 32,000 tokens, 266.8M in layers: 18 × 1152, "
        "16 heads of 72 on 4 KV heads, feed-forward 3,328"
    )


class GGUF(kdtool.Exporter):
    """Stands for the exporter `gguf`."""

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact:
        raise NotImplementedError


def test_only_a_run_with_a_gguf_exporter_or_a_gpu_has_notes_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdtool_torch.pick_device", lambda: torch.device("cpu"))
    run = make_run(tmp_path, {"exporters.q4": GGUF(GGUF.Config())})
    assert uses_of(run) == {"gpu": False, "gguf": False}
    monkeypatch.setattr(type(run.hook), "owner", lambda *_: SimpleNamespace(use="gguf"))
    assert uses_of(run) == {"gpu": False, "gguf": True}
    monkeypatch.setattr("kdtool_torch.pick_device", lambda: torch.device("cuda"))
    assert uses_of(make_run(tmp_path)) == {"gpu": True, "gguf": False}


def test_a_source_that_is_no_teacher_is_refused_with_the_teachers_that_there_are(tmp_path: Path) -> None:
    class Teacher(kdtool.Teacher):
        """Has a tokenizer."""

        def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
            return byte_tokenizer()

    run = make_run(tmp_path, {"teachers.large": Teacher(Teacher.Config())})
    with pytest.raises(
        kdtool.UsageError, match=r"source: teachr is not .* tokenizer; there are: teachers\.large, or give"
    ):
        LlamaStudent(LlamaStudentConfig(source="teachr")).kdtool_tokenizer(run)


@pytest.mark.parametrize(
    ("written", "count"),
    [("125M", 125_000_000), ("1.2B", 1_200_000_000), (" 64 k ", 64_000), ("0.5m", 500_000), ("7b", 7_000_000_000)],
)
def test_counts_are_read_as_they_are_written(written: str, count: int) -> None:
    assert COUNT.validate_python(written) == count
    assert COUNT.validate_json(f'"{written}"', strict=True) == count


@given(st.integers(1, 10**11))
def test_counts_are_whole_numbers_too_and_said_briefly(count: int) -> None:
    assert COUNT.validate_python(count, strict=True) == count
    assert len(readable_count(count)) <= 6
    if count >= 1000:
        assert COUNT.validate_python(readable_count(count)) == pytest.approx(count, rel=1e-3)


@pytest.mark.parametrize("written", ["", "125 million", "M", "-3M", "1e6", "125T", "0", "0M", 0, 10**12, "1000B", 1.5])
def test_what_is_no_count_is_refused(written: Any) -> None:
    with pytest.raises(pydantic.ValidationError):
        COUNT.validate_python(written, strict=True)

"""The teacher `codellama`: the whole suite on its class made small, and its published shapes without a network.

Random weights and tokenizers of the right sizes: they prove shapes and parity, nothing about quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import huggingface_hub
import kdtool
import pytest
from kdtool_teacher_codellama import CodeLlama
from kdtool_testing import TeacherConformance, make_run
from kdtool_testing.tiny_models import save_code_llama_tokenizer, save_reduced
from kdtool_transformers import open_tokenizer, published_config

SIZES = {
    "7B-base": (6_738_546_688, 32_016),
    "7B-python": (6_738_415_616, 32_000),
    "7B-instruct": (6_738_546_688, 32_016),
    "13B-base": (13_016_028_160, 32_016),
    "13B-python": (13_015_864_320, 32_000),
    "34B-base": (33_743_970_304, 32_000),
}


FOLDER = TemporaryDirectory()
"""Removed at the end."""


@cache
def _model() -> Path:
    folder = Path(FOLDER.name)
    save_code_llama_tokenizer(folder, 32_016, 6_000_000, infilling=True)
    save_reduced(folder, published_config("codellama/CodeLlama-7b-hf"))
    return folder


@pytest.fixture(autouse=True)
def _nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


@pytest.mark.slow
class TestCodeLlama(TeacherConformance):
    component = CodeLlama
    entry_point = "codellama"

    def prepare(self, folder: Path) -> Mapping[str, str]:
        return {"weights": str(_model()), "dtype": "float32"}


def _teacher(tmp_path: Path, **settings: str) -> CodeLlama:
    teacher = CodeLlama(CodeLlama.Config.model_validate({"weights": str(_model()), "dtype": "float32", **settings}))
    teacher.kdtool_tokenizer(make_run(tmp_path))
    return teacher


@pytest.mark.parametrize("name", SIZES)
def test_shapes_sizes_and_downloads_are_known_before_anything_is_fetched(tmp_path: Path, name: str) -> None:
    size, variant = name.split("-")
    teacher = CodeLlama(CodeLlama.Config.model_validate({"size": size, "variant": variant}))
    run = make_run(tmp_path, offline=True)
    facts = teacher.kdtool_describe(run)
    assert (facts.parameters, facts.vocabulary) == SIZES[name]
    assert (facts.context, facts.tied) == (16_384, False)
    held, fetched = teacher.kdtool_estimate(run, kdtool.RunForecast())
    assert held.host_bytes + held.device_bytes == fetched.download_bytes == 2 * facts.parameters


def test_weights_that_are_not_there_are_asked_for_by_name(tmp_path: Path) -> None:
    teacher = CodeLlama(CodeLlama.Config(size="13B", variant="python"))
    with pytest.raises(kdtool.ServiceError, match="hf download codellama/CodeLlama-13b-Python-hf"):
        teacher.kdtool_tokenizer(make_run(tmp_path, offline=True))


def test_a_gap_becomes_the_ids_that_the_paper_gives(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(_model())
    assert (tokenizer.vocabulary, tokenizer.document_start) == (32_016, (1,))
    before, after = "def f(x):\n    return ", "\n\nf(1)\n"
    ids = tokenizer.encode_infilling_prompt(before, after)
    prefix, suffix, middle = (tokenizer.encode_template(mark)[-1] for mark in ("▁<PRE>", "▁<SUF>", "▁<MID>"))
    assert (prefix, suffix, middle) == (32_012, 32_013, 32_014)
    # as sentencepiece writes the code before it, and without a leading space what stands behind it
    behind = tokenizer.encode_template("<s>" + after)[1:]
    assert ids == [prefix, *tokenizer.encode(before), suffix, *behind, middle]
    (answer,) = _teacher(tmp_path).kdtool_answer([kdtool.Request("1", before, 4, suffix=after)])
    assert answer.tokens_in == len(ids) + 1, "a prompt begins with <s>"


def test_prompts_of_the_instruct_model_are_wrapped(tmp_path: Path) -> None:
    assert _teacher(tmp_path).render_prompt("Add two numbers.\n") == "Add two numbers.\n"
    teacher = _teacher(tmp_path, variant="instruct")
    assert teacher.render_prompt("Add two numbers.\n") == "[INST] Add two numbers. [/INST]"
    request = kdtool.Request("1", "a", 4, suffix="b")
    assert teacher.render(request) == request

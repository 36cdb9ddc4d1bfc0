"""The teacher `starcoder2`: the whole suite on its class made small, and its published shapes without a network.

Random weights and a tokenizer of the right size: they prove shapes and parity, nothing about quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import huggingface_hub
import kdtool
import pytest
import torch
from kdtool_teacher_starcoder2 import StarCoder2
from kdtool_testing import TeacherConformance, make_run
from kdtool_testing.tiny_models import save_reduced, save_starcoder2_tokenizer
from kdtool_transformers import TransformersModel, open_tokenizer, published_config

VOCABULARY = 49_152
SIZES = {"3B": 3_030_371_328, "7B": 7_173_923_840, "15B": 15_957_889_024}


FOLDER = TemporaryDirectory()
"""Removed at the end."""


@cache
def _model() -> Path:
    folder = Path(FOLDER.name)
    save_starcoder2_tokenizer(folder, VOCABULARY, 12_000_000)
    save_reduced(folder, published_config("bigcode/starcoder2-3b"))
    return folder


@pytest.fixture(autouse=True)
def _nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


@pytest.mark.slow
class TestStarCoder2(TeacherConformance):
    component = StarCoder2
    entry_point = "starcoder2"

    def prepare(self, folder: Path) -> Mapping[str, str]:
        return {"weights": str(_model()), "dtype": "float32"}


@pytest.mark.parametrize("size", SIZES)
def test_shapes_sizes_and_downloads_are_known_before_anything_is_fetched(tmp_path: Path, size: str) -> None:
    teacher = StarCoder2(StarCoder2.Config.model_validate({"size": size}))
    run = make_run(tmp_path, offline=True)
    facts = teacher.kdtool_describe(run)
    assert facts.parameters == SIZES[size]
    assert (facts.vocabulary, facts.context, facts.tied) == (VOCABULARY, 16_384, size != "15B")
    held, fetched = teacher.kdtool_estimate(run, kdtool.RunForecast())
    assert held.host_bytes + held.device_bytes == 2 * SIZES[size], "bfloat16 unless asked otherwise"
    assert fetched.download_bytes == fetched.disk_bytes == 4 * SIZES[size]
    smaller = StarCoder2(StarCoder2.Config.model_validate({"size": size, "quantise": "nf4"}))
    few = next(iter(smaller.kdtool_estimate(run, kdtool.RunForecast())))
    assert 0.25 < (few.host_bytes + few.device_bytes) / (2 * SIZES[size]) < 0.33


def test_a_gap_is_written_with_its_marks_and_filled(tmp_path: Path) -> None:
    teacher = StarCoder2(StarCoder2.Config(weights=str(_model()), dtype="float32"))
    teacher.kdtool_tokenizer(make_run(tmp_path))
    ids = open_tokenizer(_model()).encode_infilling_prompt("def f(x):\n    return ", "\n\nf(1)\n")
    assert [ids.count(mark) for mark in (1, 2, 3)] == [1, 1, 1]
    assert teacher.render_prompt("def f(x):\n") == "def f(x):\n"
    (answer,) = teacher.kdtool_answer([kdtool.Request("1", "def f(x):\n    return ", 4, suffix="\n\nf(1)\n")])
    assert answer.tokens_in == len(ids)


def test_an_answer_ends_where_the_model_begins_another_file(tmp_path: Path) -> None:
    teacher = StarCoder2(StarCoder2.Config(weights=str(_model()), dtype="float32"))
    runtime = teacher.kdtool_open(make_run(tmp_path), kdtool.Subject("teacher", "teacher"))
    assert runtime is not None
    assert isinstance(runtime.model, TransformersModel)
    assert runtime.model.tokenizer.end_ids == (0, 4, 5, 6)
    model = runtime.model.model
    with torch.no_grad():  # a bias towards <file_sep> would need a head with one: make its row the likeliest instead
        states = model.model(torch.tensor([runtime.model.tokenizer.encode("x = 1\n")])).last_hidden_state[0, -1]
        model.lm_head.weight[6] = 100 * states
    (answer,) = runtime.answer([kdtool.Request("1", "x = 1\n", 20)])
    assert (answer.finish, answer.text, answer.tokens_out) == ("stop", "", 0)

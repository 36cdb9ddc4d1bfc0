"""Vocabularies in whole runs: padded ones, ones that go on, other ones; from the teacher itself and from a cache."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_testing.tiny_models import save_tiny

MARKS = ["<pre>", "<suf>", "<mid>"]


@pytest.fixture(scope="session")
def longer_folder(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small teacher with three marks behind its tokens, and an embedding that is padded to 528 rows."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("longer")
    shutil.copytree(teacher_folder, folder, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(528)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def short(recipe: dict[str, Any]) -> dict[str, Any]:
    """Two steps of one student, without control."""
    recipe["train"] = {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 2}
    left_out = {"control", "evaluators", "exporters", "reporter", "trackers"}
    kept = {key: value for key, value in recipe.items() if key not in left_out}
    return {**kept, "evaluators": {"agreement": {"documents": 3, "tokens": 40}}}


@pytest.mark.slow
@pytest.mark.parametrize("signals", ["states", False])
@pytest.mark.parametrize("longer", ["teacher", "student"])
def test_vocabulary_that_goes_on_is_cut_said_and_recorded(
    short: dict[str, Any], longer: str, signals: Any, teacher_folder: Path, longer_folder: Path
) -> None:
    folders = {"teacher": teacher_folder, "student": teacher_folder, longer: longer_folder}
    short["teacher"]["model"] = str(folders["teacher"])
    short["student"] = {"use": "pretrained", "model": str(folders["student"])}
    short["signals"] = {"use": signals} if signals else False
    results = kdtool.run(short)
    own, other = (515, 512) if longer == "student" else (512, 515)
    sizes = f"the student has {own} tokens and teacher {other}"
    note = f"vocabularies: {sizes}; the first 512 are the same: they are compared over these"
    assert note in results.notes
    (verdict,) = kdtool.check(short)["vocabularies"].values()
    assert (verdict["relation"], verdict["shared"]) == ("prefix", 512)
    # the same weights, so that over what both have nothing is to be learnt at first
    first = results.arms[0].histories["train"][0].terms["forward-kl"]
    assert abs(first.value) < 1e-4
    measured = next(found for found in results.measurements if found.name == "kl-to-teacher")
    assert measured.settings["tokens compared"] == "the first 512, which both have"


def test_what_is_trained_does_not_depend_on_the_teachers_further_tokens(
    short: dict[str, Any], teacher_folder: Path, longer_folder: Path
) -> None:
    from safetensors.torch import load_file

    found = []
    for number, folder in enumerate((teacher_folder, longer_folder)):
        short["teacher"]["model"] = str(folder)
        short["student"] = {"use": "gpt", "layers": 2, "hidden": 64, "heads": 2, "tokenizer": str(teacher_folder)}
        results = kdtool.run({**short, "name": f"run{number}", "evaluators": {}})
        found.append(load_file(results.arms[0].path / "model.safetensors"))
    for name, tensor in found[0].items():
        assert tensor.allclose(found[1][name], atol=1e-6), name


def test_rows_with_tokens_that_the_teacher_lacks_are_refused_by_name(
    short: dict[str, Any], longer_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "marked.jsonl").write_text('{"text": "def f():<mid> return 1"}\n' * 40, encoding="utf-8")
    short["corpus"] = {"use": "jsonl", "files": [str(tmp_path / "marked.jsonl")]}
    short["student"] = {"use": "pretrained", "model": str(longer_folder)}
    short["evaluators"] = False  # one text, so that no other split has any
    with pytest.raises(kdtool.UsageError, match="holds token 514; teacher has only tokens below 512"):
        kdtool.run(short)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("bytes", "the student has 257 tokens and teacher 512; the first ids with different tokens: 0 is "),
        (
            "merges",
            "the student has 600 tokens and teacher 512; the first 512 are the same, but they split texts differently",
        ),
    ],
)
def test_other_vocabulary_is_refused_in_words_before_weights_load(
    other: str, words: str, short: dict[str, Any], other_teacher_folder: Path, tmp_path: Path
) -> None:
    folder = other_teacher_folder if other == "merges" else tmp_path / "bytes"
    if other == "bytes":
        save_tiny(folder)
    short["student"] = {"use": "pretrained", "model": str(folder)}
    for way in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.RecipeError) as refused:
            way(short)
        assert f"train.losses.forward-kl: compares token by token, but {words}" in str(refused.value)


@pytest.mark.parametrize("form", ["sampled", "top-k"])
def test_kept_tokens_are_cut_like_logits(form: Any) -> None:
    import torch
    from kdtool._run.stages.terms import cut_signal

    ids = torch.tensor([[0, 3, 5], [4, 5, 6], [1, 2, -1]], dtype=torch.int32)
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.6, 0.4, 0.0]])
    signal = kdtool.Signal("t", sparse=kdtool.SparseTokens(ids, weights, form, 1.0))
    cut = cut_signal(signal, 4).sparse
    assert cut is not None
    assert cut.ids.tolist() == [[0, 3, -1], [-1, -1, -1], [1, 2, -1]]
    expected = weights.double().masked_fill(ids >= 4, 0)
    if form == "sampled":  # what is drawn among the shared tokens: again a distribution
        expected[0] /= expected[0].sum()
    torch.testing.assert_close(cut.weights.double(), expected, atol=1e-7, rtol=0)
    assert replace(signal, sparse=cut).lazy is None

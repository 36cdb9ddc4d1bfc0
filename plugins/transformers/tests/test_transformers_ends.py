"""Ends of answers, and matrices that are one, are taken from the files of a model's publisher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import transformers
from kdtool_export.gguf.files import write_gguf
from kdtool_testing.tiny_models import save_tiny, tiny_model
from kdtool_transformers import open_model, open_tokenizer
from kdtool_transformers.gguf import convert_gguf_into
from kdtool_transformers.opening import open_config
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer

MARKS = ("<eos>", "<|turn>", "<turn|>", "<|file_sep|>", "<|fim_pad|>")
TEMPLATE = (
    "{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>assistant\n{% endif %}"
)


def save_marked(folder: Path, template: str = "", **files: Mapping[str, Any]) -> Sequence[int]:
    """Write a model whose tokenizer has `MARKS` and ends with the first of them; return their ids."""
    save_tiny(folder, vocabulary=264)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(mark, special=mark[1] != "|", normalized=False) for mark in MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "generation_config.json").unlink()
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    for name, changes in files.items():
        file = folder / f"{name}.json"
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        file.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return [index for mark in MARKS if (index := tokenizer.token_to_id(mark)) is not None]


def answer(folder: Path, says: Sequence[int]) -> kdtool.TextAnswer:
    """Return the answer of the folder's model, whose next token is `says` at each step."""
    model = open_model(folder)
    rows = iter(says)

    def forced(*_: Any, **__: Any) -> Any:
        logits = torch.zeros(1, 1, 264)
        logits[..., next(rows)] = 9
        return transformers.modeling_outputs.CausalLMOutputWithPast(logits=logits)

    model.model.forward = forced
    (found,) = model.open_runtime().answer([kdtool.Request("1", "q", 8)])
    return found


@pytest.mark.parametrize(
    ("template", "files"),
    [
        ("", {"generation_config": {"eos_token_id": [257, 259]}}),
        ("", {"config": {"eos_token_id": [257, 259]}}),
        (TEMPLATE, {}),
    ],
)
def test_a_turn_ends_where_configurations_or_the_template_end_it(
    tmp_path: Path, template: str, files: Mapping[str, Mapping[str, Any]]
) -> None:
    eos, _, turn, *_ = save_marked(tmp_path, template, **files)
    assert {eos, turn} <= set(open_tokenizer(tmp_path).end_ids)
    said = answer(tmp_path, [104, 105, turn, 120, 121])
    assert (said.finish, said.tokens_out) == ("stop", 2)


def test_what_begins_another_file_ends_an_answer(tmp_path: Path) -> None:
    *_, file_sep, pad = save_marked(tmp_path)
    for mark in (file_sep, pad):
        assert answer(tmp_path, [104, mark, 105]).tokens_out == 1


def test_a_stored_end_of_ordinary_text_is_a_class_s_default(tmp_path: Path) -> None:
    save_marked(tmp_path, config={"eos_token_id": 2}, generation_config={"eos_token_id": [2, 7000, 259]})
    assert not {2, 7000} & set(open_tokenizer(tmp_path).end_ids)
    assert 259 in open_tokenizer(tmp_path).end_ids


def test_a_saved_student_tells_others_where_its_answers_end(tmp_path: Path) -> None:
    save_marked(tmp_path / "base", TEMPLATE)
    model = open_model(tmp_path / "base")
    ids, learned = model.tokenizer.encode_chat([("user", "q"), ("assistant", "hi")]) or ([], [])
    assert [index for index, label in zip(ids, learned, strict=True) if label][-1] in model.tokenizer.end_ids
    model.save(tmp_path / "saved")
    stored = transformers.GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id
    assert stored == list(model.tokenizer.end_ids) == list(open_tokenizer(tmp_path / "saved").end_ids)


def test_a_head_of_its_own_is_kept_whatever_the_configuration_claims(tmp_path: Path) -> None:
    save_tiny(tmp_path, tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, file, {"format": "pt"})
    assert open_config(tmp_path).tie_word_embeddings, "stored twice, but the same"
    weights["lm_head.weight"][3] += 1
    save_file(weights, file, {"format": "pt"})
    model = open_model(tmp_path)
    assert not model.facts.tied
    model.save(tmp_path / "saved")
    stored = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert stored["tie_word_embeddings"] is False
    assert load_file(tmp_path / "saved" / "model.safetensors")["lm_head.weight"].equal(weights["lm_head.weight"])


@pytest.mark.parametrize(("apart", "tied"), [(0.0, True), (0.004, True), (0.5, False)])
def test_two_roundings_of_one_matrix_are_one(
    tmp_path: Path, apart: float, tied: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """As llama.cpp's converters write tied models: `output.weight` again, rounded in another way."""
    model = save_tiny(tmp_path / "model", vocabulary=258, hidden_size=64, head_dim=16, tie_word_embeddings=False)
    head, embedding = model.model.lm_head.weight, model.model.model.embed_tokens.weight
    with torch.no_grad():
        head.copy_(embedding + apart * torch.randn_like(embedding) * embedding.std())
    file = write_gguf(model, tmp_path / "m.gguf", pre="smollm", dtype="q8_0")
    said: list[str] = []
    (tmp_path / "made").mkdir()
    convert_gguf_into(file, tmp_path / "made", said.append)
    opened = open_model(tmp_path / "made")
    assert opened.facts.tied is tied
    assert opened.facts.parameters == model.facts.parameters - tied * head.numel()
    assert len(said) == tied
    assert not any(capfd.readouterr()), "no bars"
    stored = json.loads((tmp_path / "made" / "generation_config.json").read_text(encoding="utf-8"))
    assert stored["eos_token_id"] == [model.tokenizer.end_of_text]


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
BLEND = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 48}


@pytest.mark.parametrize(
    ("family", "scaling"),
    [
        ("llama", {"rope_type": "linear", "factor": 2.0}),
        ("llama", YARN),
        ("qwen2", {**YARN, "attention_factor": 1.3}),
        ("llama", {"rope_type": "llama3", "factor": 8.0, **BLEND}),
    ],
)
def test_rotary_scaling_is_read_from_a_gguf_file(family: str, scaling: Mapping[str, Any], tmp_path: Path) -> None:
    shape = {"head_dim": 32} if family == "llama" else {}  # so that some frequencies are blended
    made = tiny_model(family, vocab_size=264, rope_parameters={"rope_theta": 10000.0, **scaling}, **shape)
    for weight in made.model.parameters():
        weight.data = weight.data.bfloat16().float()  # as a conversion stores them
    (tmp_path / "folder").mkdir()
    convert_gguf_into(write_gguf(made, tmp_path / "made.gguf", pre="smollm"), tmp_path / "folder")
    opened = open_model(tmp_path / "folder", dtype=torch.float32)
    assert opened.model.config.rope_parameters["rope_type"] == scaling["rope_type"]
    ids = torch.arange(100)[None]
    with torch.no_grad():
        torch.testing.assert_close(opened.model(ids).logits, made.model(ids).logits, atol=1e-5, rtol=0)

"""The start of documents: what is found in a tokenizer, and prompts behind it."""

from __future__ import annotations

from pathlib import Path

import kdtool
import pytest
import transformers
from kdtool_testing.model_checks import check_tokenizer
from kdtool_testing.tiny_models import begin_texts_with, save_code_llama_tokenizer, save_starcoder2_tokenizer
from kdtool_transformers import TransformersTokenizer, byte_tokenizer, open_tokenizer
from kdtool_transformers.generation import prompt_ids
from tokenizers import Tokenizer, processors


def _ending_texts_with(tokenizer: TransformersTokenizer, template: str) -> TransformersTokenizer:
    """The tokenizer with its end of text at other places, which names that as its beginning of text too."""
    end = tokenizer.inner.eos_token
    inner = Tokenizer.from_str(tokenizer.inner.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single=template.replace("E", end), special_tokens=[(end, inner.token_to_id(end))]
    )
    return TransformersTokenizer(
        transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=end, eos_token=end)
    )


def test_a_document_begins_with_what_the_tokenizer_puts_before_a_text(tmp_path: Path) -> None:
    for family in ("llama", "starcoder2"):
        (tmp_path / family).mkdir()
        (tmp_path / family / "config.json").write_text(f'{{"model_type": "{family}"}}', encoding="utf-8")
    save_starcoder2_tokenizer(tmp_path / "starcoder2", 320, 100_000)
    save_code_llama_tokenizer(tmp_path / "llama", 616, 100_000, infilling=True)
    plain, starcoder = byte_tokenizer(), open_tokenizer(tmp_path / "starcoder2")
    found = {
        "llama": open_tokenizer(tmp_path / "llama"),
        "bytes": plain,
        "starcoder": starcoder,  # names a beginning of text, and puts it before none
        "two": begin_texts_with(plain, "[gMASK]", "<sop>"),
        "behind": _ending_texts_with(plain, "$A E"),
        "around": _ending_texts_with(plain, "E $A E"),
    }
    assert {name: tokenizer.document_start for name, tokenizer in found.items()} == {
        "llama": (1,), "bytes": (), "starcoder": (), "two": (257, 258), "behind": (), "around": (256,)
    }  # fmt: skip
    assert {name: tokenizer.scoring_context for name, tokenizer in found.items()} == {
        "llama": (1,), "bytes": (256,), "starcoder": (0,), "two": (257, 258), "behind": (256,), "around": (256,)
    }  # fmt: skip
    for name in ("llama", "bytes", "starcoder", "two"):
        check_tokenizer(found[name], tmp_path / f"{name} saved")
    assert len({found[name].identity for name in ("bytes", "two", "around")}) == 3
    assert found["around"].fingerprint == plain.fingerprint, "text becomes the same ids"


TEMPLATE = "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}<|endoftext|>{% endfor %}"


@pytest.mark.parametrize("template", [TEMPLATE, "{{ bos_token }}" + TEMPLATE])
def test_prompts_begin_once(template: str) -> None:
    tokenizer = begin_texts_with(byte_tokenizer(), "<s>")
    tokenizer.inner.chat_template = template
    tokenizer = TransformersTokenizer(tokenizer.inner)
    start, *_ = tokenizer.document_start
    for request in (
        kdtool.Request("text", "def f", 1),
        kdtool.Request("empty", "", 1),
        kdtool.Request("begun", "<s>def f", 1),
        kdtool.Request("turns", "def", 1, turns=(("user", "write"),)),
    ):
        ids = prompt_ids(tokenizer, request)
        assert (ids[0], ids.count(start)) == (start, 1), request.id

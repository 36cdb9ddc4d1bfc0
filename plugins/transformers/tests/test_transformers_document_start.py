"""The start of documents: what is found in a tokenizer, prompts and scores behind it, and what is counted on the way."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import transformers
from kdtool_testing.model_checks import check_tokenizer
from kdtool_testing.tiny_models import (
    begin_texts_with,
    save_code_llama_tokenizer,
    save_starcoder2_tokenizer,
    tiny_config,
    tiny_model,
)
from kdtool_transformers import (
    TransformersModel,
    TransformersRuntime,
    TransformersTokenizer,
    byte_tokenizer,
    open_tokenizer,
)
from kdtool_transformers import model as model_module
from kdtool_transformers.generation import prompt_ids
from tokenizers import Tokenizer, processors

TEXTS = ["def f(x):\n    return x\n", "x", "é 漢\t\n", "print(1)\n" * 9]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    """A small Llama with a tokenizer as Code Llama's: pieces of sentencepiece, and `<s>` before every text."""
    folder = tmp_path_factory.mktemp("llama")
    save_code_llama_tokenizer(folder, 616, 100_000, infilling=True)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(tiny_config(vocabulary=616))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return TransformersModel(model.eval(), open_tokenizer(folder))


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


def test_a_document_begins_with_what_the_tokenizer_puts_before_a_text(llama: TransformersModel, tmp_path: Path) -> None:
    save_starcoder2_tokenizer(tmp_path, 320, 100_000)
    (tmp_path / "config.json").write_text('{"model_type": "starcoder2"}', encoding="utf-8")
    plain, starcoder = byte_tokenizer(), open_tokenizer(tmp_path)
    found = {
        "llama": llama.tokenizer,
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
        check_tokenizer(found[name], tmp_path / name)
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


def _reference(model: TransformersModel, text: str) -> float:
    """The log-likelihood of a text behind what begins it, from all logits in float64."""
    tokenizer = model.tokenizer
    context, ids = list(tokenizer.scoring_context), tokenizer.encode(text)
    double = copy.deepcopy(model.model).double()
    logits = double(torch.tensor([[*context, *ids]])).logits[0, :, : tokenizer.vocabulary]
    return float(logits[len(context) - 1 : -1].log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum())


@torch.no_grad()
def test_texts_are_scored_behind_the_start_of_a_document(llama: TransformersModel) -> None:
    two = tiny_model(vocabulary=260)
    two.tokenizer = begin_texts_with(two.tokenizer, "[gMASK]", "<sop>")
    for model in (llama, two, tiny_model()):
        for text, score in zip(TEXTS, TransformersRuntime(model).score(TEXTS), strict=True):
            assert score.tokens == len(model.tokenizer.encode(text))
            assert score.log_likelihood == pytest.approx(_reference(model, text), rel=1e-5)


@torch.no_grad()
def test_logits_of_scores_are_not_rounded_to_half_precision(llama: TransformersModel) -> None:
    """Final states are bfloat16's under autocast; what follows from them is as exact as from float64."""
    tokenizer, text = llama.tokenizer, TEXTS[0]
    ids = tokenizer.encode(text)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = torch.tensor([[*tokenizer.document_start, *ids]])[:, :-1]
        positions = torch.arange(tokens.shape[1])[None]
        document = torch.zeros_like(positions, dtype=torch.int32)
        batch = kdtool.Batch(tokens, positions, torch.tensor([ids]), document, ("",))
        states = llama.backbone(batch, kdtool.SignalRequest()).last
    logits = states.double() @ llama.head.weight[: tokenizer.vocabulary].double().T
    expected = float(logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].sum())
    (score,) = TransformersRuntime(llama, torch.bfloat16).score([text])
    assert score.log_likelihood == pytest.approx(expected, rel=1e-6)


def test_weights_are_not_counted_for_each_text_and_request(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    runtime, counted = TransformersRuntime(model), list[int]()
    facts_of = model_module.facts_of

    def counting(*given: Any) -> kdtool.ModelFacts:
        counted.append(1)
        return facts_of(*given)

    monkeypatch.setattr(model_module, "facts_of", counting)
    list(runtime.score(TEXTS))
    list(runtime.answer([kdtool.Request(str(number), "x = ", 2) for number in range(20)]))
    model.generate([model.tokenizer.encode("x")], [2], 0.0, [0])
    assert counted == []
    assert (runtime.context, runtime.count("abc")) == (model.facts.context, 3)

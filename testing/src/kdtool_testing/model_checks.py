"""Checks for teachers and students: tokenizers, batches in their tokens, opened models.

Plain functions that assert. Those that take tensors need torch, which they import when called.
"""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kdtool import (
    Batch,
    Head,
    LanguageModel,
    LogLikelihood,
    ModelFacts,
    Request,
    Row,
    Runtime,
    SignalRequest,
    TextAnswer,
    Tokenizer,
    UsageError,
)

from kdtool_testing.toy import batch_of, batch_on
from kdtool_testing.toy.runtime import log_likelihood

if TYPE_CHECKING:
    from torch import Tensor

_SHORT_CONTEXT = 4096
"""Tokens that a small model reads in no time."""
TEXTS = (
    "def add(a, b):\n    return a + b\n",
    "for number in range(10):\n\tprint(number)  # größer\n",
    "x = {'a': [1, 2, 3], 'b': None}\n",
    "class Empty:\n    pass\n",
)


def check_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Assert that a tokenizer keeps text, stays within its vocabulary, and can be saved."""
    for text in (*TEXTS, "", "  two  spaces\n\n\ttab é 漢"):
        ids = tokenizer.encode(text)
        assert all(isinstance(token, int) and 0 <= token < tokenizer.vocabulary for token in ids)
        assert tokenizer.end_of_text not in ids, "no special tokens are added"
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.end_of_text]) == text, "special tokens are left out"
        pieces = tokenizer.pieces([*ids, tokenizer.end_of_text])
        assert b"".join(pieces) == text.encode(), "pieces make up the text"
        assert len(pieces) == len(ids) + 1
        assert pieces[-1] == b"", "special tokens have no bytes"
    for before, text in zip(("", *TEXTS), (*TEXTS, "    indented\n"), strict=True):
        ids = [*tokenizer.encode(before), *tokenizer.encode_behind(before, text)]
        assert tokenizer.decode(ids) == before + text, "a text after another one follows it unchanged"
        assert b"".join(tokenizer.pieces(ids)) == (before + text).encode()
    assert 0 <= tokenizer.end_of_text < tokenizer.vocabulary
    assert tokenizer.fingerprint
    _check_start(tokenizer)
    names = tokenizer.tokens()
    assert len(names) == tokenizer.vocabulary, "every id has a name"
    assert len(set(names) - {""}) == sum(map(bool, names)), "names of ids are unique"
    folder.mkdir()
    tokenizer.save(folder)
    assert any(folder.iterdir())


def _check_start(tokenizer: Tokenizer) -> None:
    """Assert that the start of a document is not text, and occurs once even if a template writes it."""
    start = tokenizer.document_start
    assert tokenizer.scoring_context == (start or tuple(tokenizer.encode("\n")))
    assert all(0 <= token < tokenizer.vocabulary for token in start)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.missing_start(ids) == start, "`encode` adds no start"
        begun = [*start, *ids]
        assert tokenizer.missing_start(begun) == ()
        assert tokenizer.decode(begun) == text, "the start of a document is not text"
        assert list(tokenizer.pieces(begun)) == [*[b""] * len(start), *tokenizer.pieces(ids)], "nor has it bytes"
    talk = tokenizer.encode_chat((("user", TEXTS[0]), ("assistant", TEXTS[1])))
    if talk is not None and start:
        ids, labelled = talk
        missing = tokenizer.missing_start(ids)
        assert tokenizer.missing_start([*missing, *ids][len(start) :]) == start, "a conversation begins once"
        assert missing or not any(labelled[: len(start)]), "its start is not learned"


@contextmanager
def no_model_is_built() -> Iterator[None]:
    """Let every attempt to build a torch module fail: what happens inside must do without weights."""
    if find_spec("torch") is None:
        yield
        return
    import torch

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is built where only its tokenizer, or its shapes, are asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "__init__", refuse)
        yield


def pack_rows(tokenizer: Tokenizer, length: int = 24, texts: Sequence[str] = TEXTS) -> list[Row]:
    """Return a row for each pair of texts: two documents, some tokens without label, padding."""
    rows = []
    for number, (first, second) in enumerate(zip(texts, (*texts[1:], texts[0]), strict=True)):
        cut = length // 2 - number % 3
        first_ids = [*tokenizer.document_start, *tokenizer.encode(first * 3)][:cut]
        second_ids = [*tokenizer.document_start, *tokenizer.encode(second * 3)][: length - cut - 2]
        ids = [*first_ids, *second_ids]
        padding = length - len(ids)
        document = [0] * len(first_ids) + [1] * len(second_ids) + [-1] * padding
        labelled = [where >= 0 and (i + number) % 5 != 0 for i, where in enumerate(document)]
        rows.append(Row(f"row {number}", [*ids, *[tokenizer.end_of_text] * padding], labelled, document))
    return rows


def logits_of(hidden: Tensor, head: Head) -> Tensor:
    """Return the logits [N, V] of final states as `Head` defines them, computed plainly in float32."""
    logits = hidden.float() @ head.weight.float().T
    if head.bias is not None:
        logits = logits + head.bias.float()
    logits = logits * head.scale
    if head.soft_cap is not None:
        logits = head.soft_cap * (logits / head.soft_cap).tanh()
    return logits[:, : head.vocabulary]


def compute_logits(model: LanguageModel, batch: Batch) -> Tensor:
    """Return a model's logits [N, V] of a batch, without gradient and dropout."""
    import torch

    model.model.eval()
    with torch.no_grad():
        moved = batch_on(batch, model.head.weight.device)
        return logits_of(model.backbone(moved, SignalRequest()).last, model.head).cpu()


def check_model(model: LanguageModel) -> None:
    """Assert that a model's facts are counted rightly and that its backbone is causal within documents."""
    import torch

    facts, head = model.facts, model.head
    sizes = {id(parameter): parameter.numel() for parameter in model.model.parameters()}
    learning = {id(p): p.numel() for p in model.model.parameters() if p.requires_grad}
    assert facts.parameters == sum(sizes.values())
    assert facts.trainable == sum(learning.values())
    assert facts.vocabulary == head.vocabulary <= head.weight.shape[0]
    assert facts.vocabulary >= model.tokenizer.vocabulary
    assert facts.hidden == head.weight.shape[1]
    assert facts.tokenizer_fingerprint == model.tokenizer.fingerprint
    assert str(next(model.model.parameters()).dtype) == f"torch.{facts.dtype}"

    rows = pack_rows(model.tokenizer)
    whole = compute_logits(model, batch_of(rows))
    assert whole.isfinite().all()
    alone = torch.cat([compute_logits(model, batch_of([row])) for row in rows])
    close(alone, whole, "rows see each other")
    row = rows[0]
    cut = row.document.index(1)
    for position, changed, what in (
        (0, cut, "documents see each other"),
        (cut - 1, 0, "positions see what comes later"),
    ):
        ids = list(row.input_ids)
        ids[position] = next(other for other in ids if other != ids[position])
        before, after = (compute_logits(model, batch_of([_label_all(r)])) for r in (row, replace(row, input_ids=ids)))
        span = slice(cut - 1, None) if changed else slice(0, cut - 2)
        close(before[span], after[span], what)
    outputs = model.backbone(
        batch_on(batch_of(rows), head.weight.device), SignalRequest(frozenset({"hidden"}), (0, facts.layers - 1))
    )
    assert set(outputs.hidden) == {0, facts.layers - 1}
    assert all(states.shape == outputs.last.shape for states in outputs.hidden.values())


def check_generate(model: LanguageModel) -> None:
    """Assert that a model continues prompts with its own tokens, depending only on the seeds, and stays unchanged."""
    import torch

    tokenizer = model.tokenizer
    prompts = [[*tokenizer.document_start, *tokenizer.encode(text)] for text in (*TEXTS, "x = ")]
    limits, seeds = [6, 1, 9, 4, 12], [2**63 - 1, 3, 5, 3, 0]
    model.model.train()
    next(model.model.children()).eval()  # modes are each module's own
    modes = [module.training for module in model.model.modules()]
    weights = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    generator = torch.get_rng_state()
    greedy, drawn = (model.generate(prompts, limits, temperature, seeds) for temperature in (0.0, 0.8))
    for continued, temperature in ((greedy, 0.0), (drawn, 0.8)):
        for prompt, new, limit, seed in zip(prompts, continued, limits, seeds, strict=True):
            assert 1 <= len(new) <= limit
            assert all(0 <= token < model.head.vocabulary for token in new)
            assert model.tokenizer.end_of_text not in new[:-1], "the end of a text ends it"
            alone = model.generate([prompt], [limit], temperature, [seed])
            assert alone == [new], "other prompts of the batch, and their order, must not matter"
    others = [model.generate([prompts[4]], [12], 0.8, [seed])[0] for seed in range(1, 5)]
    assert any(other != drawn[4] for other in others), "another seed draws other tokens"
    assert model.generate([], [], 1.0, []) == []
    assert [module.training for module in model.model.modules()] == modes, "training mode is as it was"
    assert generator.equal(torch.get_rng_state()), "it draws from torch's global generator"
    assert all(weight.equal(weights[name]) for name, weight in model.model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.model.parameters())
    _check_likeliest(model, prompts[0], greedy[0])


def _check_likeliest(model: LanguageModel, prompt: list[int], new: list[int]) -> None:
    """Assert that each new token is the likeliest one after those before it, up to rounding."""
    ids = [*prompt, *new]
    logits = compute_logits(model, batch_of([Row("", ids, [True] * len(ids), [0] * len(ids))]))
    for token, row in zip(new, logits[len(prompt) - 1 :], strict=True):
        assert float(row.max() - row[token]) <= 0.05 * float(row.std()), "temperature 0 takes the likeliest token"


def close(logits: Tensor, expected: Tensor, what: str) -> None:
    """Assert that logits agree up to rounding, measured in their own spread; bfloat16 rounds coarsely."""
    scale = float(expected.std()) or 1.0
    assert float((logits - expected).abs().max()) <= 0.05 * scale, what


def same_shapes(described: ModelFacts, real: ModelFacts) -> None:
    """Assert that a description from only the configuration matches the model; copied layers may be unknown yet."""
    copied = described.copied_layers or real.copied_layers
    assert replace(described, copied_layers=copied) == real


def check_runtime(runtime: Runtime) -> None:
    """Assert that an opened subject scores in order, with finite and honest numbers, regardless of the other texts.

    A subject that only answers refuses to score. If it shows a model with a short context, a prompt that is too long does
    not stop the others. A subject that continues prompts streams its answers.
    """
    context = runtime.model.facts.context if runtime.model else 0
    if 0 < context <= _SHORT_CONTEXT:
        _check_too_long(runtime, context)
    if "continue" in runtime.abilities:
        _check_streams(runtime)
    texts = [*TEXTS, "é" * 30, "x"]
    if "score" not in runtime.abilities:
        with pytest.raises(UsageError):
            list(runtime.score(texts))
        return
    scores = list(runtime.score(texts))
    assert len(scores) == len(texts)
    for text, score in zip(texts, scores, strict=True):
        assert score.bytes == len(text.encode("utf-8"))
        assert score.tokens > 0
        assert score.log_likelihood < 0
        assert isfinite(score.log_likelihood)
    alone = [score for text in texts for score in runtime.score([text])]
    for single, other in zip(alone, scores, strict=True):
        assert single.tokens == other.tokens
        assert single.log_likelihood == pytest.approx(other.log_likelihood, rel=2e-2)
    if runtime.model is not None:
        _check_scores(runtime.model, texts, scores)


def _check_scores(model: LanguageModel, texts: Sequence[str], scores: Sequence[LogLikelihood]) -> None:
    """Assert that a text is scored after the `scoring_context` of its tokenizer; half precision rounds coarsely."""
    for text, score in zip(texts, scores, strict=True):
        assert score.tokens == len(model.tokenizer.encode(text))
        assert score.log_likelihood == pytest.approx(log_likelihood(model, text), rel=2e-2, abs=0.02)


def _check_too_long(runtime: Runtime, context: int) -> None:
    requests = [Request("long", "x = 1\n" * context, 2), Request("short", "x = ", 2)]
    answers = {answer.id: answer for answer in runtime.answer(requests)}
    assert sorted(answers) == ["long", "short"], "answer the other prompts when one is too long"
    assert (answers["long"].finish, answers["long"].text) == ("refused", "")
    assert answers["short"].finish != "refused"


def _check_streams(runtime: Runtime) -> None:
    """Assert that streamed pieces are the answer, in several threads too, and that a stream can be closed early."""
    requests = [Request(str(number), text[:12], 4 + number) for number, text in enumerate(TEXTS)]
    for stream in [runtime.stream(request) for request in requests]:
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    answers = {answer.id: answer for answer in runtime.answer(requests)}
    for left in range(2, -1, -1):  # in 16 bits a token can depend on the streams that happen to share a batch
        with ThreadPoolExecutor(min(runtime.streams, len(requests))) as pool:
            pieces_of = list(pool.map(lambda request: list(runtime.stream(request)), requests))
        texts = ["".join(piece.text for piece in pieces) for pieces in pieces_of]
        if not left or all(
            _is_streamed(text, answers[request.id]) for request, text in zip(requests, texts, strict=True)
        ):
            break
    for request, pieces, text in zip(requests, pieces_of, texts, strict=True):
        answer = answers[request.id]
        assert _is_streamed(text, answer), f"the pieces make up the answer: {text!r}, {answer.text!r}"
        assert [piece.finish for piece in pieces] == [None] * (len(pieces) - 1) + [answer.finish]
        assert (pieces[-1].tokens_in, pieces[-1].tokens_out) == (answer.tokens_in, answer.tokens_out)
        counts = [piece.tokens_out for piece in pieces]
        assert counts == sorted(counts), "tokens are counted as they come"
    assert (runtime.memory() or 1) > 0


def _is_streamed(text: str, answer: TextAnswer) -> bool:
    """Return whether the text of a stream is that of an answer, perhaps without a last character that the limit cut."""
    return text == answer.text or (
        answer.finish == "length" and text == answer.text.rstrip("\N{REPLACEMENT CHARACTER}")
    )


def check_answers(answer: Any) -> None:
    """Assert that every request is answered once, under its id, within its limits, and greedily the same again."""
    requests = [Request("a", "def f(", 6), Request("b", "x = ", 3), Request("c", TEXTS[0], 5, stop=("e", "\n"))]
    answers = {given.id: given for given in answer(iter(requests))}
    assert sorted(answers) == ["a", "b", "c"]
    for request in requests:
        given = answers[request.id]
        assert given.finish in {"stop", "length", "refused"}
        assert 0 <= given.tokens_out <= request.max_tokens
        assert given.tokens_in > 0
        assert given.picodollars >= 0
        assert not any(stop in given.text for stop in request.stop), "text ends before what stops it"
    assert {given.id: given.text for given in answer(iter(requests[::-1]))} == {i: a.text for i, a in answers.items()}
    assert list(answer(iter(()))) == []


def _label_all(row: Row) -> Row:
    return replace(row, labelled=[number >= 0 for number in row.document])

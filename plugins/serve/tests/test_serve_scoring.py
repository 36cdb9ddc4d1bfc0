"""Log-probabilities of prompts and answers, and lm-evaluation-harness' own client against a served model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_serve.forms import describe_token
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersRuntime
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime

END = 256
"""`<|endoftext|>` of the tiny model, whose other tokens are bytes."""


@pytest.fixture(scope="module")
def real() -> Iterator[Running]:
    """A server with a tiny model of 512 tokens of context."""
    with running(ScriptedModels({"student": TransformersRuntime(tiny_model())})) as started:
        yield started


def _expected(ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = tiny_model().model(input_ids=torch.tensor([ids])).logits[0, :-1, :257]
    values: torch.Tensor = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[1:, None])[:, 0]
    return values


def _choices(response: Any, *, stream: bool) -> list[dict[str, Any]]:
    """Return the choices of a response; those of a stream are joined."""
    assert response.status_code == 200, response.text
    if not stream:
        return list(response.json()["choices"])
    joined: dict[int, dict[str, Any]] = {}
    for line in response.text.split("\n"):
        for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
            whole = joined.setdefault(
                choice["index"], {"text": "", "logprobs": {name: [] for name in choice["logprobs"]}}
            )
            whole["text"] += choice["text"]
            for name, values in choice["logprobs"].items():
                whole["logprobs"][name] += values
    return [joined[number] for number in sorted(joined)]


IDS = tiny_model().tokenizer.encode


@pytest.mark.parametrize(
    ("prompt", "texts", "listed"),
    [
        ("def f(é)", ["def f(é)"], [IDS("def f(é)")]),
        (["x = 😀", "y"], ["x = 😀", "y"], [IDS("x = 😀"), IDS("y")]),
        (IDS("def f(é)"), ["def f(é)"], [IDS("def f(é)")]),
        ([[END, *IDS("ab")], IDS("c")], ["ab", "c"], [[END, *IDS("ab")], IDS("c")]),
        ("a\r\nb" * 100, ["a\r\nb" * 100], [IDS("a\r\nb" * 100)]),  # several chunks of a prompt, and line ends
    ],
)
@pytest.mark.parametrize(("max_tokens", "n", "stream"), [(0, 1, False), (1, 2, False), (4, 1, True)])
def test_an_echo_has_the_models_log_probabilities(
    real: Running, prompt: Any, texts: list[str], listed: list[list[int]], max_tokens: int, n: int, stream: bool
) -> None:
    settings = {"max_tokens": max_tokens, "n": n, "stream": stream, "temperature": 0}
    response = real.post("/v1/completions", prompt=prompt, echo=True, logprobs=3, **settings)
    choices = _choices(response, stream=stream)
    assert len(choices) == n * len(listed)
    for number, choice in enumerate(choices):
        text, ids, found = texts[number // n], listed[number // n], choice["logprobs"]
        assert choice["text"].startswith(text)
        assert {len(values) for values in found.values()} == {len(ids) + max_tokens}
        assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
        assert found["token_logprobs"][1 : len(ids)] == pytest.approx(_expected(ids).tolist(), abs=1e-4)
        assert all(len(top) == 3 for top in found["top_logprobs"][1:])
        for token, own, top in list(zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True))[
            1:
        ]:
            assert top.get(token, own) == own
            assert own <= max(top.values())
        whole = [
            (token, at) for token, at in zip(found["tokens"], found["text_offset"], strict=True) if len(token) == 1
        ]
        assert all(choice["text"][at] == token for token, at in whole)
        assert found["text_offset"][len(ids) :][:1] == [len(text)][:max_tokens]
    if not stream:
        assert response.json()["usage"]["completion_tokens"] <= max_tokens * len(choices)


def test_control_tokens_are_listed_by_name_and_have_no_text(real: Running) -> None:
    (choice,) = _choices(
        real.post("/v1/completions", prompt=[*IDS("a"), END, *IDS("b")], echo=True, logprobs=0, max_tokens=0),
        stream=False,
    )
    assert choice["logprobs"]["tokens"] == ["a", "<|endoftext|>", "b"]
    assert (choice["text"], choice["logprobs"]["text_offset"], choice["finish_reason"]) == ("ab", [0, 1, 1], "length")


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"prompt": [1, 257]}, "prompt", "student has no token 257; expected ids below 257"),
        ({"prompt": [[1], []]}, "prompt", "must be a text, a list of token ids"),
        ({"prompt": [1, -1]}, "prompt", "must be a text, a list of token ids"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "needs text, and no echo with logprobs"),
        ({"prompt": [1], "suffix": "y", "echo": False}, "suffix", "needs text"),
        ({"prompt": "<|endoftext|>x"}, None, "control tokens in a text are read as text"),
        ({"prompt": "x" * 512}, "prompt", "leaves no room in the model's context of 512"),
        ({"prompt": "x" * 513, "max_tokens": 0}, "prompt", "leaves no room in the model's context of 512"),
    ],
)
def test_a_prompt_that_cannot_be_scored_is_refused(
    real: Running, given: dict[str, Any], param: str | None, words: str
) -> None:
    refused = real.post("/v1/completions", **{"echo": True, "logprobs": 1, "max_tokens": 1, **given})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert words in refused.json()["error"]["message"]


def test_a_prompt_that_fills_the_context_is_scored(real: Running) -> None:
    (choice,) = _choices(
        real.post("/v1/completions", prompt="x" * 512, echo=True, logprobs=0, max_tokens=0), stream=False
    )
    assert len(choice["logprobs"]["tokens"]) == 512


class _Listed(StreamingRuntime):
    """Yields tokens with their log-probabilities, in which some have the same text; text comes in whole characters."""

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        top = (("A", -1.0), ("A", -2.0), ("\udcf0", -3.0), ("\udcf1", -4.0), ("A", -5.0))
        tokens = ["A", "\udcf0\udc9f", "\udc98\udc80", "b\n", "c"]
        texts = ["A", "", "😀", "b\n", "c"]
        for number, (token, text) in enumerate(zip(tokens, texts, strict=True), 1):
            logprobs = () if request.logprobs is None else (kdtool.TokenLogprob(token, -2.0, top),)
            yield kdtool.TextPiece(text, 1, number, "stop" if number == 5 else None, logprobs=logprobs)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("suffix", "kept"), [(None, 5), (")\n", 4)])
def test_tokens_are_listed_with_their_own_values_as_far_as_the_text_is_kept(
    stream: bool, suffix: str | None, kept: int
) -> None:
    with running(ScriptedModels({"student": _Listed()})) as server:
        response = server.post("/v1/completions", prompt="xy", suffix=suffix, logprobs=5, stream=stream)
        (choice,) = _choices(response, stream=stream)
        chat = server.post("/v1/chat/completions", messages=[{"role": "user", "content": "x"}], logprobs=True).json()
    found = choice["logprobs"]
    assert choice["text"] == "A😀b\nc"[: None if suffix is None else 3]
    assert found["tokens"] == ["A", r"bytes:\xf0\x9f", r"bytes:\x98\x80", "b\n", "c"][:kept]
    assert found["text_offset"] == [2, 3, 3, 4, 6][:kept]
    assert found["top_logprobs"][0] == {
        r"bytes:\x41": -1.0,
        "A": -2.0,
        r"bytes:\xf0": -3.0,
        r"bytes:\xf1": -4.0,
        r"bytes:\x41 ": -5.0,
    }
    listed = chat["choices"][0]["logprobs"]["content"]
    assert bytes(byte for each in listed for byte in each["bytes"]).decode() == "A😀b\nc"


def test_a_part_of_a_character_has_its_bytes() -> None:
    assert describe_token("\udcf0\udc9f", -1.0)["bytes"] == [0xF0, 0x9F]
    assert describe_token("é", -1.0) == {"token": "é", "logprob": -1.0, "bytes": [0xC3, 0xA9]}


@pytest.mark.parametrize(("tokenized", "batch"), [(True, 1), (True, 3), (False, 1), (False, 3)])
def test_lm_evaluation_harness_scores_a_served_model_as_it_scores_the_folder(
    real: Running, tokenized: bool, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("lm_eval", "tenacity", "aiohttp"):
        pytest.importorskip(needed, reason=f"the harness's client needs {needed}: pip install 'lm_eval[api]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    tiny_model().save(tmp_path)
    folder = HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=1)
    settings = {"tokenized_requests": tokenized, "batch_size": batch, "max_length": 512, "max_retries": 1}
    served = LocalCompletionsAPI(
        base_url=f"{real.url}/v1/completions",
        model="student",
        tokenizer=str(tmp_path),
        tokenizer_backend="huggingface",
        **settings,
    )
    ask: dict[str, list[tuple[Any, ...]]] = {
        "loglikelihood": [("2+3=", "5"), ("2+3=", " é"), ("x\n  ", "😀"), *([("", "abc")] if tokenized else [])],
        "generate_until": [(text, {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}) for text in ("2+3=", "x")],
        **({"loglikelihood_rolling": [("def f(x):\n" * 9,), ("é😀" * 80,)]} if tokenized else {}),
    }
    for kind, arguments in ask.items():
        requests = [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]
        expected, found = (getattr(model, kind)(requests) for model in (folder, served))
        if kind == "loglikelihood":
            assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
            expected, found = ([value for value, _ in each] for each in (expected, found))
        assert found == (expected if kind == "generate_until" else pytest.approx(expected, rel=1e-6, abs=1e-4))

"""The teacher on a real llama.cpp server: the suite, answers, likeliest tokens, tokenizers; and on a stand-in for vLLM."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from keyword import kwlist
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import kdtool
import pydantic
import pytest
import torch
from kdtool_export.gguf.files import write_gguf
from kdtool_teacher_openai import OpenAI
from kdtool_teacher_openai._config import local_addresses
from kdtool_testing import TeacherConformance, make_run
from kdtool_testing.servers.llama_cpp import llama_cpp_server
from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import TransformersModel, open_model
from openai_servers import Call, Reply, chat, serving
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TOP: frozenset[kdtool.SignalKind] = frozenset({"top-k"})


class Running(NamedTuple):
    url: str
    model: TransformersModel
    folder: Path
    gguf: Path


def save_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write a byte-level BPE tokenizer, trained on words that do not change when this file does."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([" ".join(kwlist)], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    wrapped.save_pretrained(folder)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    save_tiny(folder / "model", vocabulary=320, hidden_size=64, head_dim=16)
    save_tokenizer(folder / "model", 320)
    model = open_model(folder / "model", dtype=torch.float32)
    file = write_gguf(model, folder / "tiny.gguf")
    with llama_cpp_server(file, "tiny", context=512) as url:
        yield Running(url, model, folder / "model", file)


def teacher(running: Running, **settings: Any) -> OpenAI:
    return OpenAI(
        OpenAI.Config(**{"url": running.url, "model": "tiny", "retries": 1, "api": "completions", **settings})
    )


class TestOpenAI(TeacherConformance):
    component = OpenAI
    entry_point = "openai"
    settings: ClassVar = {"url": "http://127.0.0.1:1/v1", "model": "tiny", "api": "completions"}
    running: ClassVar[Running]

    @pytest.fixture(autouse=True)
    def _server(self, running: Running) -> None:
        type(self).running = running

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        return {"url": self.running.url, "tokenizer": str(self.running.gguf), "top_k": 5}


def batch_of(model: TransformersModel) -> kdtool.Batch:
    """Two rows: two documents with a label masked, and one that is padded."""
    ids = torch.randint(320, (2, 18), generator=torch.Generator().manual_seed(0))
    document = torch.zeros(2, 18, dtype=torch.int32)
    document[0, 11:], document[1, 12:] = 1, -1
    labels = ids.roll(-1, 1)
    labels[:, -1] = labels[0, 10] = labels[0, 3] = -100
    labels[1, 11:] = -100
    return kdtool.Batch(ids, torch.zeros_like(ids), labels, document, ("a", "b"))


def expected(model: TransformersModel, batch: kdtool.Batch) -> torch.Tensor:
    """Probabilities at labelled positions, each document alone."""
    found = []
    with torch.no_grad():
        for row, cuts in ((0, (0, 11, 18)), (1, (0, 12))):
            for start, stop in itertools.pairwise(cuts):
                logits = model.model.float()(input_ids=batch.input_ids[row : row + 1, start:stop]).logits[0]
                found.append(logits[batch.labels[row, start:stop] != -100].softmax(-1))
    return torch.cat(found)


def check_tokens(sparse: kdtool.SparseTokens | None, probabilities: torch.Tensor) -> None:
    assert sparse is not None
    assert sparse.form == "top-k"
    assert sparse.ids.shape == sparse.weights.shape == (len(probabilities), sparse.ids.shape[1])
    best = probabilities.topk(sparse.ids.shape[1]).values
    # llama.cpp keeps keys and values in half precision.
    torch.testing.assert_close(sparse.weights, best, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(sparse.weights, probabilities.gather(1, sparse.ids.long()), rtol=2e-3, atol=1e-6)


def test_llama_cpp_tells_what_the_model_itself_says(running: Running, tmp_path: Path) -> None:
    asked = teacher(running, tokenizer=str(running.folder), top_k=7)
    run = make_run(tmp_path)
    assert asked.kdtool_tokenizer(run).fingerprint == running.model.tokenizer.fingerprint
    batch = batch_of(running.model)
    check_tokens(asked.kdtool_signal(batch, kdtool.SignalRequest(TOP)).sparse, expected(running.model, batch))
    with pytest.raises(kdtool.UsageError, match="leave the loss's temperature at 1"):
        asked.kdtool_signal(batch, kdtool.SignalRequest(TOP, temperature=2.0))
    asked.kdtool_close()


def test_documents_longer_than_the_server_allows_are_explained(running: Running) -> None:
    asked = teacher(running, tokenizer=str(running.gguf), top_k=2)
    ids = torch.ones(1, 600, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    labels[0, 550] = 1
    batch = kdtool.Batch(ids, torch.zeros_like(ids), labels, torch.zeros_like(ids, dtype=torch.int32), ("a",))
    with pytest.raises(kdtool.UsageError, match=r"refuses a document: 400: .*shorter rows"):
        asked.kdtool_signal(batch, kdtool.SignalRequest(TOP))
    asked.kdtool_close()


def test_answers_of_both_protocols(running: Running) -> None:
    for api in ("chat", "completions"):
        asked = teacher(running, api=api)
        requests = [
            kdtool.Request(str(number), f"def f{number}(", 6, temperature=0.7, seed=number) for number in range(6)
        ]
        found = sorted(asked.kdtool_answer(requests), key=lambda answer: answer.id)
        assert [answer.id for answer in found] == list("012345")
        assert all(answer.tokens_in > 0 and 0 < answer.tokens_out <= 6 for answer in found)
        again = sorted(asked.kdtool_answer(requests[::-1]), key=lambda answer: answer.id)
        assert [answer.text for answer in again] == [answer.text for answer in found], "seeds are the server's, too"
        asked.kdtool_close()


def test_a_real_key_is_needed_where_the_server_wants_one(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with llama_cpp_server(running.gguf, "tiny", key="the-key") as url:
        served = running._replace(url=url)
        with pytest.raises(kdtool.AuthenticationError, match=r"requires an API key: set `key_variable`"):
            list(teacher(served).kdtool_answer([kdtool.Request("a", "x", 2)]))
        monkeypatch.setenv("OWN_API_KEY", "the-key")
        asked = teacher(served, key_variable="OWN_API_KEY")
        assert [answer.id for answer in asked.kdtool_answer([kdtool.Request("a", "x", 2)])] == ["a"]
        asked.kdtool_close()


def test_offers_and_what_they_need_follow_the_settings(tmp_path: Path) -> None:
    plain = OpenAI(OpenAI.Config(url="http://localhost/v1", model="m"))
    assert plain.offers == {"text"}
    assert OpenAI(OpenAI.Config(url="http://localhost/v1", model="m", tokenizer="t", top_k=3)).offers == {
        "text",
        "top-k",
    }
    with pytest.raises(pydantic.ValidationError, match="top_k needs `tokenizer`"):
        OpenAI.Config(url="http://localhost/v1", model="m", top_k=3)
    with pytest.raises(kdtool.UsageError, match="name it by `tokenizer`"):
        plain.kdtool_tokenizer(make_run(tmp_path))


@pytest.mark.parametrize(
    ("settings", "licence", "forbidden"),
    [
        ({"model": "m"}, "unknown licence", ()),
        ({"model": "m", "licence": "apache-2.0"}, "Apache-2.0", ()),
        ({"model": "codellama/CodeLlama-7b-hf"}, "Llama 2 Community License", ("signals", "text")),
        ({"model": "m", "licence": "llama2"}, "Llama 2 Community License", ("signals", "text")),
    ],
)
def test_the_licence_is_the_model_s_and_unknown_is_not_free(
    settings: dict[str, Any], licence: str, forbidden: tuple[str, ...]
) -> None:
    terms = OpenAI(OpenAI.Config(url="http://localhost/v1", **settings)).licence_terms
    assert (terms.licence, terms.forbids) == (licence, forbidden)
    assert licence == "Apache-2.0" or terms.restrictions


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("api.openai.com/v1", "address such as"),
        ("https://user:key@localhost/v1", "put a key into an environment variable"),
        ("https://8.8.8.8/v1", "public address; only servers on this machine .* cost money"),
        ("http://0.0.0.0/v1", "public address"),
        ("https://api.openai.com/v1", "api.openai.com is a hosted service; only servers on this machine"),
    ],
)
def test_addresses_that_are_not_local_are_refused_in_the_recipe(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("socket.getaddrinfo")
    with pytest.raises(pydantic.ValidationError, match=told):
        OpenAI.Config(url=url, model="m")


def test_machines_of_a_private_network_are_asked() -> None:
    for url in (
        "http://100.101.102.103:8000/v1",
        "http://10.0.0.7/v1",
        "http://[fd12::1]/v1",
        "http://notopenai.com/v1",
    ):
        assert OpenAI.Config(url=url, model="m").url == url


def test_names_that_lead_elsewhere_are_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"api.example.org": ["93.184.216.34"], "mixed": ["127.0.0.1", "8.8.8.8"], "box": ["192.168.1.7"]}

    def look_up(host: str, *_: Any) -> list[Any]:
        if host not in known:
            raise OSError(-2, "Name or service not known")
        return [(2, 1, 6, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    for host in ("api.example.org", "mixed"):
        with pytest.raises(kdtool.UsageError, match="public address; only servers on this machine"):
            local_addresses(f"https://{host}/v1", offline=False)
    local_addresses("http://box:8000/v1", offline=False)
    with pytest.raises(kdtool.ServiceError, match="the run is offline, and box is another machine"):
        local_addresses("http://box:8000/v1", offline=True)
    with pytest.raises(
        kdtool.ServiceError, match=r"no machine is named 'nowhere' here .* hosted services are not asked"
    ):
        local_addresses("http://nowhere/v1", offline=False)


class VLLM:
    """Answers as vLLM's completions and /tokenize do, with what the model itself says; written from vLLM's source."""

    def __init__(self, model: TransformersModel) -> None:
        self.model = model

    def tokenize(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text)

    def __call__(self, call: Call, _: int) -> Reply:
        if call.path == "/tokenize":
            return Reply(body={"max_model_len": 512, "tokens": self.tokenize(call.body["prompt"]), "token_strs": None})
        kept = call.body.get("prompt_logprobs")
        if kept is None:
            return chat("x")
        if kept > 20:
            return Reply(400, {"error": {"message": "Requested prompt logprobs of 21, greater than max allowed: 20"}})
        ids = call.body["prompt"]
        with torch.no_grad():
            values = self.model.model.float()(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        listed: list[Any] = [None]
        for at, token in enumerate(ids[1:]):
            best = values[at].topk(kept)
            told = [(token, float(values[at, token])), *zip(best.indices.tolist(), best.values.tolist(), strict=True)]
            listed.append({str(i): {"logprob": value, "rank": 1, "decoded_token": "?"} for i, value in told})
        choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": listed}
        return Reply(body={"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}})


def test_vllm_is_asked_once_a_document(running: Running, tmp_path: Path) -> None:
    with serving(VLLM(running.model)) as served:
        asked = teacher(running._replace(url=served.url), model="m", tokenizer=str(running.folder), top_k=6)
        asked.kdtool_tokenizer(make_run(tmp_path))
        before = len(served.posts)
        batch = batch_of(running.model)
        check_tokens(asked.kdtool_signal(batch, kdtool.SignalRequest(TOP)).sparse, expected(running.model, batch))
        assert len(served.posts) == before + 3, "three documents"
        asked.kdtool_close()


@pytest.mark.parametrize(
    ("tokens", "top_k", "told"),
    [
        ("its own", 21, "does not give the 21 likeliest tokens with their ids.*--max-logprobs 21"),
        ([1, 2, 3], 2, r"of a sample it returned \[1, 2, 3\] instead of \["),
        (None, 2, "returned None instead of"),
    ],
)
def test_a_server_that_cannot_is_refused_before_training(
    tokens: Any, top_k: int, told: str, running: Running, tmp_path: Path
) -> None:
    server = VLLM(running.model)
    if tokens != "its own":
        server.tokenize = lambda _: tokens  # type: ignore[assignment, method-assign]
    with serving(server) as served:
        asked = teacher(running._replace(url=served.url), model="m", tokenizer=str(running.folder), top_k=top_k)
        with pytest.raises(kdtool.UsageError, match=told):
            asked.kdtool_tokenizer(make_run(tmp_path))
        asked.kdtool_close()


def test_a_server_that_tells_no_ids_keeps_its_text(running: Running, tmp_path: Path) -> None:
    def script(call: Call, _: int) -> Reply:
        return Reply(404, {"detail": "Not Found"}) if call.path == "/tokenize" else chat("text")

    with serving(script) as served:
        plain = teacher(running._replace(url=served.url), model="m", api="chat")
        assert [answer.text for answer in plain.kdtool_answer([kdtool.Request("a", "x", 2)])] == ["text"]
        plain.kdtool_close()
        asked = teacher(running._replace(url=served.url), model="m", tokenizer=str(running.folder), top_k=2)
        with pytest.raises(kdtool.UsageError, match=r"does not report how it splits text .*learn from its text"):
            asked.kdtool_tokenizer(make_run(tmp_path))
        asked.kdtool_close()


def test_a_run_that_only_looks_asks_nobody(running: Running, tmp_path: Path) -> None:
    nobody = running._replace(url="http://127.0.0.1:1/v1")
    asked = teacher(nobody, tokenizer=str(running.folder), top_k=2)
    run = make_run(tmp_path, offline=True)
    assert asked.kdtool_tokenizer(run).vocabulary == running.model.tokenizer.vocabulary
    asked.kdtool_identity(run)
    asked.kdtool_close()

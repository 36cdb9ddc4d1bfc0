"""Answers of GGUF files while they are generated: the same text, which ends with its listener; and infilling."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from gguf_students import save_student
from hypothesis import given
from hypothesis import strategies as st
from kdtool_export.gguf import runtime as _runtime
from kdtool_export.gguf.files import write_gguf
from kdtool_export.gguf.processes import LlamaCpp
from kdtool_export.gguf.runtime import GGUFRuntime, completion, text_answer, text_pieces
from kdtool_testing.tiny_models import save_code_llama_tokenizer, save_starcoder2_tokenizer, tiny_model
from kdtool_transformers import TransformersTokenizer, open_tokenizer


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    return write_gguf(save_student(folder / "student"), folder / "student.gguf")


@pytest.fixture(scope="module")
def runtime(file: Path) -> Iterator[GGUFRuntime]:
    with GGUFRuntime(file, context=4096, threads=1) as opened:
        yield opened


def test_a_file_that_computes_nan_is_refused_by_name(tmp_path: Path) -> None:
    student = save_student(tmp_path / "student")
    student.model.model.layers[1].mlp.down_proj.weight.data[0] = torch.nan
    file = write_gguf(student, tmp_path / "damaged.gguf")
    with pytest.raises(kdtool.KdtoolError, match=r"damaged\.gguf computes NaN or infinity"):
        GGUFRuntime(file, context=256, threads=1)


def streaming(runtime: GGUFRuntime) -> LlamaCpp:
    """Return the server that streams."""
    assert runtime._streaming is not None
    return runtime._streaming


def slots(runtime: GGUFRuntime) -> list[dict[str, Any]]:
    server = streaming(runtime)
    connection = HTTPConnection(server._address)
    connection.request("GET", "/slots", headers={"Authorization": f"Bearer {server._key}"})
    found: list[dict[str, Any]] = json.loads(connection.getresponse().read())
    connection.close()
    return found


def wait_until_idle(runtime: GGUFRuntime) -> None:
    deadline = time.monotonic() + 20
    while any(slot["is_processing"] for slot in slots(runtime)):
        assert time.monotonic() < deadline


def read(pieces: Iterator[kdtool.TextPiece]) -> tuple[str, kdtool.TextPiece]:
    found = list(pieces)
    assert [piece.finish is None for piece in found] == [True] * (len(found) - 1) + [False]
    return "".join(piece.text for piece in found), found[-1]


def whole(text: str) -> str:
    """Return a text without the character that its last tokens begin."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


REQUESTS = [
    kdtool.Request("greedy", "def f(x", 40),
    kdtool.Request("empty", "", 6),
    kdtool.Request("drawn", "x = ", 40, temperature=0.9, seed=3),
    kdtool.Request("hot", "日本", 60, temperature=2.0, seed=1),
    kdtool.Request("narrow", "x = ", 40, temperature=2.0, seed=4, top_k=5, top_p=0.5),
    kdtool.Request("asked", "The", 12, turns=(("user", "hello"),)),
    *(kdtool.Request(f"stopped {n}", "def g(", n, stop=("e", ")")) for n in (3, 20)),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.id)
def test_pieces_are_the_answer(request_: kdtool.Request, runtime: GGUFRuntime) -> None:
    (expected,) = runtime.answer([request_])
    text, last = read(runtime.stream(request_))
    assert text == whole(expected.text)
    assert (last.finish, last.tokens_in, last.tokens_out) == (expected.finish, expected.tokens_in, expected.tokens_out)


def test_pieces_come_with_tokens_and_hold_whole_characters(
    runtime: GGUFRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        _runtime, "completion", lambda *given: {**completion(*given), "grammar": 'root ::= "日本語日本語日本語"'}
    )
    pieces = list(runtime.stream(kdtool.Request("a", "x", 22)))
    assert "".join(piece.text for piece in pieces) == "日本語日本語日", (
        "seven characters of three tokens, and a third of one"
    )
    assert {len(piece.text) for piece in pieces} == {0, 1}
    assert [piece.tokens_out for piece in pieces if piece.text] == [3, 6, 9, 12, 15, 18, 21]
    assert [piece.tokens_out for piece in pieces][:1] == [0], "a piece comes before the first token"
    assert pieces[-1].tokens_out == 22


def test_text_that_only_begins_a_stop_string_is_not_lost_at_the_limit(runtime: GGUFRuntime) -> None:
    (plain,) = runtime.answer([kdtool.Request("a", "def f(x", 8)])
    held = kdtool.Request("a", "def f(x", 8, stop=(plain.text[-2:] + "\0",))
    text, last = read(runtime.stream(held))
    assert (text, last.finish) == (plain.text, "length")


def test_few_likeliest_tokens_are_as_good_as_the_likeliest(runtime: GGUFRuntime) -> None:
    (greedy,) = runtime.answer([kdtool.Request("a", "def f(x", 20)])
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
        request = kdtool.Request("a", "def f(x", 20, temperature=1.5, seed=2, **narrow)
        assert read(runtime.stream(request))[0] == whole(greedy.text)
        assert [answer.text for answer in runtime.answer([request])] == [greedy.text]


def test_log_probabilities_are_those_of_the_model_before_sampling(runtime: GGUFRuntime) -> None:
    tokens = runtime.decoder.tokenize("def f(x")
    (logits,) = runtime.decoder.logits(tokens, len(tokens) - 1)
    expected = torch.from_numpy(logits[0]).log_softmax(-1).sort(descending=True).values
    request = kdtool.Request("a", "def f(x", 6, temperature=0.5, top_k=1, seed=1, logprobs=3)
    first, *_ = [piece.logprobs for piece in runtime.stream(request) if piece.logprobs]
    assert [value for _, value in first[0].top] == pytest.approx(expected[:3].tolist(), abs=1e-3)
    assert first[0].top[0] == (first[0].token, first[0].logprob)
    (alone, *_) = [piece.logprobs for piece in runtime.stream(replace(request, logprobs=0)) if piece.logprobs]
    assert alone == (replace(first[0], top=()),)
    assert not any(piece.logprobs for piece in runtime.stream(replace(request, logprobs=None)))


def test_streams_run_side_by_side(runtime: GGUFRuntime) -> None:
    requests = [kdtool.Request(str(n), "def f(" + "x" * n, 60) for n in range(3 * runtime.streams)]
    expected = {answer.id: whole(answer.text) for answer in runtime.answer(requests)}
    with ThreadPoolExecutor(runtime.streams) as threads:
        found = dict(zip(expected, threads.map(lambda each: read(runtime.stream(each))[0], requests), strict=True))
    assert found == expected
    assert [slot["n_ctx"] for slot in slots(runtime)] == [runtime.context] * runtime.streams


def test_many_disconnects_leave_no_slot_behind(runtime: GGUFRuntime) -> None:
    def leave(number: int) -> None:
        pieces = runtime.stream(kdtool.Request("a", "def f(x" * 20, 400, temperature=1.0, seed=number))
        for _ in range(number % 4):
            next(pieces)
        pieces.close()  # type: ignore[attr-defined]

    with ThreadPoolExecutor(runtime.streams) as threads:
        list(threads.map(leave, range(50)))
    wait_until_idle(runtime)
    assert read(runtime.stream(REQUESTS[0]))[1].tokens_out == 40


def test_a_prompt_that_fills_the_context_is_refused_with_the_reason(runtime: GGUFRuntime) -> None:
    text, last = read(runtime.stream(kdtool.Request("long", "é" * 4000, 4)))
    assert (text, last.finish, last.reason) == ("", "refused", "the prompt fills the context of 512 tokens")


def test_an_answer_ends_at_the_end_of_the_context(runtime: GGUFRuntime) -> None:
    tokens = len(runtime.decoder.tokenize("é" * 250))
    _, last = read(runtime.stream(kdtool.Request("long", "é" * 250, 400)))
    assert (last.finish, last.tokens_in) == ("length", tokens)
    assert last.tokens_in + last.tokens_out <= runtime.context + 1


def test_a_crash_reaches_the_streams_and_the_next_one_starts_anew(file: Path) -> None:
    with GGUFRuntime(file, context=4096, threads=1) as opened:
        pieces = opened.stream(kdtool.Request("a", "x", 400, temperature=1.0))
        next(pieces)
        os.kill(streaming(opened).process.pid, signal.SIGKILL)
        with pytest.raises(kdtool.PluginError, match=r"llama\.cpp ended over .*student\.gguf: exit status -9"):
            list(pieces)
        assert read(opened.stream(REQUESTS[0]))[1].tokens_out == 40
    with pytest.raises(kdtool.PluginError, match=r"llama\.cpp ended"):
        next(opened.stream(REQUESTS[0]))


PARENT = """
import sys, time, kdtool
from pathlib import Path
from kdtool_export.gguf.runtime import GGUFRuntime
opened = GGUFRuntime(Path(sys.argv[1]), context=64, threads=1)
list(opened.stream(kdtool.Request("a", "x", 2)))
print(*(child.process.pid for child in opened._children()), flush=True)
time.sleep(600)
"""


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the system's list of processes")
def test_processes_end_with_a_parent_that_is_killed(file: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(file)], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        children = [int(each) for each in parent.stdout.readline().split()]
        assert len(children) == 2
        assert all(map(is_running, children))
        parent.kill()
    deadline = time.monotonic() + 20
    while any(map(is_running, children)):
        assert time.monotonic() < deadline


def tokenizer_of(kind: str, folder: Path) -> TransformersTokenizer:
    folder.mkdir()
    if kind == "code-llama":
        save_code_llama_tokenizer(folder, 600, 200_000, infilling=True)
    else:
        save_starcoder2_tokenizer(folder, 600, 200_000)
    for file in folder.glob("*.json") if kind == "suffix-first" else ():
        file.write_text(file.read_text("utf-8").replace("<fim_", "<spm_"), "utf-8")
    return open_tokenizer(folder, offline=True)


GAPS = [
    ("def f(x):\n    ", "\n    return y\n"),
    ("", ""),
    ("", " leading space"),
    (" ", "x = 12345  # größer 日本語 🎉"),
    ("import os\n\n\nclass A:\n\tdef g(self): return self.", "(1, 2)\n"),
    ("x", "(("),
]


@pytest.mark.parametrize("kind", ["starcoder2", "code-llama", "suffix-first"])
def test_prompts_for_gaps_are_those_of_the_model_in_pytorch(kind: str, tmp_path: Path) -> None:
    student = tiny_model(vocabulary=616)
    student.tokenizer = tokenizer_of(kind, tmp_path / "tokenizer")
    file = write_gguf(student, tmp_path / "a.gguf")
    with GGUFRuntime(file, context=256, threads=1) as opened:
        assert "infill" in opened.abilities
        for before, after in GAPS:
            expected = [*student.tokenizer.document_start, *student.tokenizer.encode_infilling_prompt(before, after)]
            assert opened.decoder.tokenize_infilling(before, after) == expected, (before, after)
        request = kdtool.Request("infill", "def f(x):\n", 12, suffix="\n    return y\n")
        (answer,) = opened.answer([request])
        text, last = read(opened.stream(request))
        assert (text, last.tokens_in) == (whole(answer.text), answer.tokens_in)
        assert last.tokens_in == len(opened.decoder.tokenize_infilling(request.prompt, "\n    return y\n"))


def test_a_mark_ends_what_fills_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny_model(vocabulary=616)
    student.tokenizer = tokenizer_of("starcoder2", tmp_path / "tokenizer")
    mark = student.tokenizer.encode_template("<fim_prefix>")[0]
    monkeypatch.setattr(_runtime, "completion", lambda *given: {**completion(*given), "logit_bias": [[mark, 1000.0]]})
    request = kdtool.Request("infill", "x", 12, suffix="y")
    with GGUFRuntime(write_gguf(student, tmp_path / "a.gguf"), context=256, threads=1) as opened:
        (answer,) = opened.answer([request])
        assert (answer.text, answer.finish) == ("", "stop")
        text, last = read(opened.stream(request))
        assert (text, last.finish, last.tokens_out) == ("", "stop", 1)
        (plain,) = opened.answer([replace(request, suffix=None)])
        assert (plain.text, plain.finish) == ("", "length")


@pytest.mark.parametrize("way", ["answer", "stream"])
def test_a_file_without_marks_fills_no_gap(way: str, runtime: GGUFRuntime) -> None:
    assert "infill" not in runtime.abilities
    request = kdtool.Request("infill", "x", 12, suffix="y")
    with pytest.raises(
        kdtool.UsageError, match=r"request infill has a suffix, .*student\.gguf names no tokens .*expected"
    ):
        list(runtime.answer([request]) if way == "answer" else runtime.stream(request))


_CODE = st.lists(st.sampled_from(["x = 1", "\n", "    return x", ")", "if y:", "END"]), max_size=8).map("".join)


@given(_CODE, _CODE, st.lists(st.integers(1, 9), max_size=12), st.sampled_from(["word", "limit"]))
def test_streams_trim_a_repeated_suffix_as_answers_do_however_they_are_cut(
    answer: str, suffix: str, sizes: list[int], ended: str
) -> None:
    request = kdtool.Request("infill", "def f():\n", 12, suffix=suffix)
    cuts = sorted({min(sum(sizes[: number + 1]), len(answer)) for number in range(len(sizes))} | {0, len(answer)})
    parts = [answer[start:end] for start, end in pairwise(cuts)] or [""]
    events = [
        {
            "content": part, "tokens_evaluated": 3, "tokens_predicted": number, "stop": number == len(parts),
            "stop_type": ended,
        }
        for number, part in enumerate(parts, 1)
    ]  # fmt: skip
    pieces = list(text_pieces(request, ["END"], events))
    whole = answer.partition("END")[0]
    stop_type = "word" if "END" in answer else ended
    response = {"content": whole, "stop_type": stop_type, "tokens_evaluated": 3, "tokens_predicted": len(parts)}
    assert "".join(piece.text for piece in pieces) == text_answer(request, response).text
    assert [piece.finish is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]

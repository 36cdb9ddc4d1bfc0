"""`kdtool serve` on a small real model: text over HTTP is the text of the same model in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import httpx
import kdtool
import openai
import psutil
import pytest
from kdtool_export.gguf.files import write_gguf
from kdtool_transformers import DraftedModels, open_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "plugins" / "serve" / "tests"))

from running import Running, running

PROMPT = "def add(first, second):\n"


@pytest.fixture
def models(marked_teacher_folder: Path) -> Iterator[kdtool.Models]:
    """The models in a folder: one, with a chat template and FIM tokens."""
    with kdtool.open_models(marked_teacher_folder) as opened:
        yield opened


@pytest.fixture
def server(models: kdtool.Models) -> Iterator[Running]:
    """A server of it."""
    with running(models) as started:
        yield started


def _in_process(models: kdtool.Models, request: kdtool.Request, name: str = "") -> str:
    with models.open(name or next(iter(models.subjects))) as runtime:
        return "".join(piece.text for piece in runtime.stream(request))


def test_texts_over_http_are_those_of_the_model(models: kdtool.Models, server: Running) -> None:
    (name,) = models.subjects
    client: Any = server.openai()
    plain = kdtool.Request("0", PROMPT, 12)
    expected = _in_process(models, plain)
    asked: dict[str, Any] = {"model": name, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked)
    assert whole.choices[0].text == expected
    assert whole.usage.completion_tokens == 12
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)) == expected

    expected = _in_process(models, kdtool.Request("0", "", 8, turns=(("user", "add two numbers"),)))
    turns = [{"role": "user", "content": "add two numbers"}]
    answer = client.chat.completions.create(model=name, messages=turns, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content == expected

    suffix = "\n\nprint(add(1, 2))\n"
    expected = _in_process(models, kdtool.Request("0", PROMPT, 8, suffix=suffix, heal=True))
    assert client.completions.create(**asked | {"max_tokens": 8}, suffix=suffix).choices[0].text == expected
    filled = server.post("/infill", input_prefix=PROMPT, input_suffix=suffix, n_predict=8)
    assert filled.json()["content"] == expected


def test_a_drafted_teacher_answers_as_it_does_alone(marked_teacher_folder: Path) -> None:
    with kdtool.open_models(marked_teacher_folder) as opened:
        (subject,) = opened.subjects.values()
        opened.subjects = {name: replace(subject, name=name) for name in ("student", "teacher")}
        expected = _in_process(opened, kdtool.Request("0", PROMPT, 12), "teacher")
        with running(DraftedModels(opened, "student", ["teacher"])) as server:
            answer = server.openai().completions.create(model="teacher", prompt=PROMPT, max_tokens=12, temperature=0)
    assert answer.choices[0].text == expected


def test_a_prompt_longer_than_the_context_is_refused(models: kdtool.Models, server: Running) -> None:
    (name,) = models.subjects
    with pytest.raises(openai.BadRequestError, match=r"prompt: .*context") as refused:
        server.openai().completions.create(model=name, prompt="add " * 2000)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.slow
def test_a_chat_template_that_never_ends_holds_no_slot_for_ever(marked_teacher_folder: Path, tmp_path: Path) -> None:
    folder = copytree(marked_teacher_folder, tmp_path / "hostile")
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loop, "utf-8")
    asked = {"messages": [{"role": "user", "content": "x"}]}
    with kdtool.open_models(folder) as opened, running(opened) as server, ThreadPoolExecutor(3) as clients:

        def ask(_: int) -> httpx.Response:
            return httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=300)

        for refused in clients.map(ask, range(3)):
            assert (refused.status_code, "takes more than 5 s" in refused.text) == (400, True)
            assert str(tmp_path) not in refused.text
        assert server.post("/v1/completions", prompt=PROMPT, max_tokens=2).status_code == 200


def test_llama_cpp_that_was_killed_is_opened_again(marked_teacher_folder: Path, tmp_path: Path) -> None:
    file = write_gguf(open_model(marked_teacher_folder), tmp_path / "student.gguf")
    asked = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    with kdtool.open_models(file) as opened, running(opened) as server:
        text = server.post("/v1/completions", **asked).json()["choices"][0]["text"]
        killed = [child for child in psutil.Process().children() if "kdtool_export.gguf" in " ".join(child.cmdline())]
        assert len(killed) == 2
        for child in killed:
            child.kill()
        psutil.wait_procs(killed)
        failed = server.post("/v1/completions", **asked)
        assert (failed.status_code, failed.json()["error"]["code"]) == (503, "model_failed")
        assert "student.gguf" in failed.text
        assert str(tmp_path) not in failed.text
        assert server.get("/health").json() == {"status": "degraded", "failed": [*opened.subjects]}
        assert server.post("/v1/completions", **asked).json()["choices"][0]["text"] == text
        assert server.get("/health").json() == {"status": "ok"}

"""Counts of completions that were asked for, shown and accepted."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import httpx
import pytest
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime

LINES = ["total = width * height", "return total", "if width:\n        total += 1", "print(total, width)"]


class _Editor:
    """An editor with one file. It asks at its end, and its user accepts, types on, or writes something else."""

    def __init__(self, server: Running, model: str) -> None:
        self.server, self.model, self.file, self.number = server, model, "def area(width, height):\n", 0

    def ask(self, **more: Any) -> str:
        """Return the completion at the end of the file."""
        found = self.server.post("/infill", model=self.model, input_prefix=self.file, n_predict=50, **more)
        return str(found.json()["content"])

    def next_line(self) -> None:
        """Begin a line that occurs once in the file."""
        self.number += 1
        self.file += f"\n    # step {self.number}\n    "


def _counts(server: Running, model: str) -> dict[str, int]:
    text = server.get("/metrics").text
    found = re.findall(rf'^kdtool_completions{{model="{model}",what="(\w+)"}} (\d+)', text, re.MULTILINE)
    return {what: int(number) for what, number in found}


def test_a_session_of_200_completions_is_counted_right() -> None:
    chosen = random.Random(0)
    student = StreamingRuntime(lambda request: LINES[len(request.prompt) % 4])
    expected = {"asked": 0, "shown": 0, "accepted": 0}
    with running(ScriptedModels({"student": student})) as server:
        editor = _Editor(server, "student")
        for _ in range(200):
            editor.next_line()
            deed = chosen.choice(["accept", "accept", "type", "ignore", "again", "ahead", "empty"])
            student.text = (lambda _: "") if deed == "empty" else (lambda request: LINES[len(request.prompt) % 4])
            text = editor.ask()
            expected["asked"] += 1
            expected["shown"] += deed != "empty"
            if deed in {"accept", "again", "ahead"}:
                more = {"again": "", "ahead": text}.get(deed)  # the same place again; the text after one that is shown
                if more is not None:
                    server.post("/infill", input_prefix=editor.file + more, n_predict=50)
                    expected["asked"] += 1
                    expected["shown"] += 1
            if deed in {"accept", "again"}:
                editor.file += text
                expected["accepted"] += 1
            elif deed == "type":
                editor.file += f"{text[:3]}something else"
            else:
                editor.file += "pass"
        editor.next_line()
        server.post("/infill", input_prefix=editor.file, n_predict=0)  # a warm-up does not count
        assert _counts(server, "student") == {
            **expected,
            "accepted": expected["accepted"] - (deed in {"accept", "again"}),
        }
        editor.ask()
        counts = _counts(server, "student")
        card = server.get("/v1/models").json()["data"][0]["kdtool"]["completions"]
    assert expected["accepted"] > 50
    assert counts == card == {**expected, "asked": expected["asked"] + 1, "shown": expected["shown"] + 1}


def test_what_the_user_may_still_accept_is_open_and_each_model_has_its_counts(server: Running) -> None:
    editor = _Editor(server, "student")
    assert editor.ask() == "return width * height\n"
    editor.file += "return width"
    editor.model = "control"
    editor.ask()
    assert _counts(server, "student") == {"asked": 1, "shown": 1, "accepted": 0}
    editor.file += " * height\n    x"
    editor.ask()
    assert _counts(server, "student") == {"asked": 1, "shown": 1, "accepted": 1}
    assert _counts(server, "control") == {"asked": 2, "shown": 2, "accepted": 0}


def test_cancelled_completions_are_not_shown_and_chats_and_the_page_do_not_count(
    server: Running, student: StreamingRuntime
) -> None:
    server.post("/v1/chat/completions", messages=[{"role": "user", "content": "area"}])
    server.post("/v1/completions", prompt="x = ", natural_end=True)
    assert _counts(server, "student") == {"asked": 0, "shown": 0, "accepted": 0}
    student.text, student.seconds = (lambda _: "word " * 100), 0.02
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/infill", json={"input_prefix": "x"}, timeout=0.2)
    began = time.monotonic()
    while not _counts(server, "student")["asked"] and time.monotonic() - began < 10:
        time.sleep(0.02)
    assert _counts(server, "student") == {"asked": 1, "shown": 0, "accepted": 0}

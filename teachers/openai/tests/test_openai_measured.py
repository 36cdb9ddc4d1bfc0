"""The teacher as evaluators meet it: what its protocol allows is measured, all else is left out with a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_teacher_openai import OpenAI
from kdtool_testing import make_run
from openai_servers import Call, Reply, chat, serving

SUBJECT = kdtool.Subject("teacher", "teacher")
CODE = "import os\nsize = os.stat(path).st_size\nreturn os.stat(path).st_size\n"
EXAMPLES = [kdtool.Example(name, kdtool.Text(CODE), split="test") for name in ("one", "two")]


def completion(text: str) -> Reply:
    return Reply(body={"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})


def evaluated(
    folder: Path, package: str, evaluator: str, api: str, script: Any, **settings: Any
) -> tuple[list[kdtool.Measurement], list[str], list[Call]]:
    """Return an evaluator's measurements of a server, what was said, and what the server was asked."""
    cls = getattr(pytest.importorskip(f"kdtool_evaluator_{package}"), evaluator)
    said: list[str] = []
    with serving(script) as served:
        teacher = OpenAI(OpenAI.Config(url=served.url, model="m", retries=0, api=api))  # type: ignore[arg-type]
        run = make_run(folder, {"teacher": teacher}, EXAMPLES, say=said.append)
        try:
            found = list(cls(cls.Config(**settings)).kdtool_evaluate(run, [SUBJECT]))
        finally:
            teacher.kdtool_close()
    return found, said, served.posts


def test_a_server_of_completions_completes_lines(tmp_path: Path) -> None:
    def script(call: Call, _: int) -> Reply:
        return completion(".stat(path).st_size\nmore" if call.body["prompt"].endswith("os") else " = os.stat")

    found, said, posts = evaluated(tmp_path, "line_completion", "LineCompletion", "completions", script)
    assert {one.name for one in found} == {"line-completion.exact-match", "line-completion.edit-similarity"}
    assert all("this machine runs Python more slowly" in line for line in said)
    assert {call.path for call in posts} == {"/v1/completions"}
    assert all(call.body["stop"] == ["\n"] for call in posts)


@pytest.mark.parametrize(
    ("package", "evaluator", "api", "settings", "cannot"),
    [
        ("line_completion", "LineCompletion", "chat", {}, "continue text, only answer in a chat"),
        ("humaneval", "HumanEval", "completions", {"form": "chat", "limit": 2}, ""),
        ("perplexity", "Perplexity", "completions", {}, "score text"),
    ],
)
def test_what_the_protocol_does_not_allow_is_left_out_with_a_line(
    package: str, evaluator: str, api: str, settings: dict[str, Any], cannot: str, tmp_path: Path
) -> None:
    found, said, posts = evaluated(tmp_path, package, evaluator, api, lambda *_: chat("x"), **settings)
    assert (found, posts) == ([], [])
    assert f"{package.replace('_', '-')}: teacher is left out, it cannot {cannot}" in said[0]

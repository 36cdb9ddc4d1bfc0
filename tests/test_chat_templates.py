"""A run in which teacher and student write conversations differently ends before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import kdtool
import pytest


@pytest.fixture
def talking(recipe: dict[str, Any], marked_teacher_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The small recipe on conversations, with a pre-trained student that has the teacher's tokens and another template."""
    folder = shutil.copytree(marked_teacher_folder, tmp_path / "student")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("<|im_end|>\n", "<|im_end|>"), "utf-8")
    turns = [[("user", f"x{n} ="), ("assistant", f"{n}")] for n in range(40)]
    talks = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in turns]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks), "utf-8")
    for key in ("control", "exporters", "evaluators", "signals"):
        recipe.pop(key, None)
    return {
        **recipe,
        "corpus": {"use": "jsonl", "files": [str(tmp_path / "talks.jsonl")]},
        "teacher": {"use": "causal-lm", "model": str(marked_teacher_folder)},
        "student": {"use": "pretrained", "model": str(folder)},
        "train": {"losses": {"forward-kl": {}}, "steps": 1},
    }


def test_another_template_is_refused_unless_conversations_are_plain(talking: dict[str, Any]) -> None:
    with pytest.raises(kdtool.UsageError, match=r"other tokens in the chat template of teacher .*conversations: plain"):
        kdtool.run(talking)
    assert not list(Path("store").glob("phases/*"))
    talking["rows"]["conversations"] = "plain"
    assert kdtool.run(talking).folder.is_dir()

"""`kdtool data plan` and `kdtool check` of data that Claude writes: dollars, and no request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kdtool._cli import call
from kdtool_teacher_claude.testing import MODEL, serve


def test_a_plan_sends_nothing_and_needs_no_key(
    recipe: dict[str, Any], teacher_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    seen: list[str] = []

    @web.middleware
    async def note(request: web.Request, handler: Any) -> Any:
        seen.append(request.path)
        return await handler(request)

    monkeypatch.setattr(web, "Application", _with_middleware(note))
    kept = {name: value for name, value in recipe.items() if name not in {"corpus", "signals", "control", "exporters"}}
    with serve() as server:
        instruct = {"use": "instruct", "rows": 12, "languages": ["python"], "tasks": ["generate"], "max_tokens": 100}
        library = {"use": "python-source", "train_files": 4, "validation_files": 1, "test_files": 2}
        written = {
            **kept,
            "corpora": {"instruct": instruct, "library": library},
            "teacher": {"use": "claude", "url": server.url, "model": MODEL, "budget_usd": 5},
            "terms_acknowledged": {"teacher": "Anthropic Commercial Terms of Service"},
            "rows": {"use": "packed", "length": 32, "maximum_tokens": 256},
            "student": {"use": "pretrained", "model": str(teacher_folder)},
            "train": {"losses": {"ce": {}}, "steps": 2},
            "evaluators": {"perplexity": {"documents": 2, "characters": 200}},
        }
        Path("recipe.json").write_text(json.dumps(written), encoding="utf-8")
        for words in (["data", "plan", "recipe.json"], ["check", "recipe.json"], ["run", "recipe.json", "--plan"]):
            capsys.readouterr()
            assert call(words) == 0
            said = capsys.readouterr().out
            assert words[0] != "data" or "12 rows in 3 cells; 12 to 48 requests to teacher" in said
    assert seen == []
    assert not Path("store").exists()


def _with_middleware(note: Any) -> Any:
    made = web.Application
    return lambda **settings: made(middlewares=[note], **settings)

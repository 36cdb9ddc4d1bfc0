"""`kdtool data plan` and `kdtool check` of data that Claude writes: dollars, and no request."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kdtool
import pytest
from aiohttp import web
from kdtool._cli import call
from kdtool_teacher_claude.testing import serve
from kdtool_teacher_claude.testing_replies import MODEL


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes may name an address at which nothing answers."""
    monkeypatch.setenv("KDTOOL_TRUST_URL", "http://127.0.0.1:1")


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
    with serve() as server:
        monkeypatch.setenv("KDTOOL_TRUST_URL", server.url)
        write_recipe(recipe, teacher_folder, server.url)
        for words in (["data", "plan", "recipe.json"], ["check", "recipe.json"], ["run", "recipe.json", "--plan"]):
            capsys.readouterr()
            assert call(words) == 0
            said = capsys.readouterr().out
            assert words[0] != "data" or "12 rows in 3 cells; 12 to 48 requests to teacher" in said
    assert seen == []
    assert not Path("store").exists()


def write_recipe(recipe: dict[str, Any], teacher_folder: Path, url: str) -> None:
    """Write a recipe whose twelve rows Claude writes."""
    kept = {name: value for name, value in recipe.items() if name not in {"corpus", "signals", "control", "exporters"}}
    instruct = {"use": "instruct", "rows": 12, "languages": ["python"], "tasks": ["generate"], "max_tokens": 100}
    library = {"use": "python-source", "train_files": 4, "validation_files": 1, "test_files": 2}
    written = {
        **kept,
        "corpora": {"instruct": instruct, "library": library},
        "teacher": {"use": "claude", "url": url, "model": MODEL, "budget_usd": 5},
        "terms_acknowledged": {"teacher": "Anthropic Commercial Terms of Service"},
        "rows": {"use": "packed", "length": 32, "maximum_tokens": 256},
        "student": {"use": "pretrained", "model": str(teacher_folder)},
        "train": {"losses": {"ce": {}}, "steps": 2},
        "evaluators": {"perplexity": {"documents": 2, "characters": 200}},
    }
    Path("recipe.json").write_text(json.dumps(written), encoding="utf-8")


def test_check_warns_of_a_budget_that_is_too_small_and_counts_the_requests_it_pays_for(
    recipe: dict[str, Any], teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(recipe, teacher_folder, "http://127.0.0.1:1")
    capsys.readouterr()
    price = kdtool.check("recipe.json")["forecast"]["picodollars"]
    assert "warning" not in capsys.readouterr().err
    for budget, words in (
        (0.5, "pay for 6 of 12 requests: the run would stop there; raise budget_usd, or ask for less"),
        (
            2.5,
            "pay for 30 of 48 requests, the most after rejections: the run may stop there; raise budget_usd to continue",
        ),
        (4.0, ""),
    ):
        for command in ("check", "data plan"):
            limit = f"teacher.budget_usd={budget * price / 1e12}"
            assert call([*command.split(), "recipe.json", "--set", limit]) == 0
            said = capsys.readouterr().err
            assert f"of budget_usd that are left {words}\n" in said if words else "warning" not in said
            assert said.count("warning: text: ") == bool(words)


def test_plan_and_check_state_the_same_tokens(
    recipe: dict[str, Any], teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(recipe, teacher_folder, "http://127.0.0.1:1")
    stated = {}
    for command in ("check", "data plan"):
        capsys.readouterr()
        assert call([*command.split(), "recipe.json", "--set", "teacher.system=Write short programs."]) == 0
        stated[command] = re.findall(r"[\d,]+ tokens in\b", capsys.readouterr().out.partition("learned from")[0])
    assert stated["check"] == stated["data plan"]
    assert len(stated["check"]) == 1


def _with_middleware(note: Any) -> Any:
    made = web.Application
    return lambda **settings: made(middlewares=[note], **settings)

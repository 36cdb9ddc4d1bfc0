"""A whole run that learns Claude's answers, by one setting of a recipe, from a server on this machine."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_ledger import read_summary
from kdtool_teacher_claude.testing import KEY, MODEL, MessagesServer, serve
from test_recipes import RECIPES, tiny

_TERMS = "Anthropic Commercial Terms of Service"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with serve() as running:
        yield running


@pytest.fixture
def asking(recipe: dict[str, Any], server: MessagesServer, teacher_folder: Path) -> dict[str, Any]:
    library = {"use": "python-source", "train_files": 4, "validation_files": 1, "test_files": 2}
    answers = {"use": "answers", "ask": "teacher", "corpus": "corpora.library", "prefix_lines": 3, "max_tokens": 300}
    kept = {name: value for name, value in recipe.items() if name not in {"corpus", "signals", "control", "exporters"}}
    return {
        **kept,
        "corpora": {"library": library, "answers": answers},
        "teacher": {"use": "claude", "url": server.url, "model": MODEL, "budget_usd": 5},
        "terms_acknowledged": {"teacher": _TERMS},
        "rows": {"use": "packed", "length": 32, "maximum_tokens": 256},
        "student": {"use": "pretrained", "model": str(teacher_folder)},
        "train": {"losses": {"ce": {}}, "steps": 2},
        "evaluators": {"perplexity": {"documents": 2, "characters": 200}},
    }


def test_a_student_learns_answers_that_are_paid_for_once(asking: dict[str, Any], server: MessagesServer) -> None:
    results = kdtool.run(asking)
    (text,) = (stage.path for stage in results.stages if stage.name == "text")
    lines = [json.loads(line) for line in (text / "train.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == len(server.bodies) == 4
    store = text.parents[1]
    assert sum(int(line["meta"]["picodollars"]) for line in lines) == server.bill.picodollars
    assert read_summary(store / "answers.sqlite").spent == server.bill.picodollars
    with closing(kdtool.open_answers(store / "answers.sqlite", read_only=True)) as database:
        kept = [kdtool.TextAnswer(**json.loads(text)) for (text,) in database.execute("SELECT answer FROM answer")]
    assert sum(one.picodollars for one in kept) == server.bill.picodollars
    assert not list(store.glob("ledger*")), "one file holds all answers"
    kdtool.run({**asking, "name": "again"}, {"corpora.answers.limit": 3})
    assert len(server.bodies) == 4, "another text of the same answers pays for nothing"


def test_check_forecasts_money_and_refuses_what_would_fail(asking: dict[str, Any], server: MessagesServer) -> None:
    found = kdtool.check(asking)
    (prices,) = found["forecast"]["prices"]
    assert "4 requests" in prices
    assert "plain" in prices
    assert "batched" in prices
    assert found["forecast"]["picodollars"] >= 4 * 300 * 15_000_000
    short = kdtool.check(asking, {"teacher.system": "Write Python.", "teacher.count_tokens": "true"})
    assert "below the 1,024 from which this model caches" in short["forecast"]["prices"][0]
    long = kdtool.check(asking, {"teacher.system": "Write Python. " * 900, "teacher.budget_usd": "0.01"})
    assert "more than budget_usd allows" in long["forecast"]["prices"][0]
    assert server.bodies == [], "nothing was asked"
    with pytest.raises(kdtool.RecipeError, match="competing"):
        kdtool.check({**asking, "terms_acknowledged": {}})
    with pytest.raises(kdtool.RecipeError, match="price of 'claude-0' is unknown"):
        kdtool.check(asking, {"teacher.model": "claude-0"})
    with pytest.raises(kdtool.RecipeError, match=r"logits|offers"):
        kdtool.check({**asking, "train": {"losses": {"forward-kl": {}}, "steps": 2}})


def test_a_run_at_its_budget_resumes(asking: dict[str, Any], server: MessagesServer) -> None:
    with pytest.raises(kdtool.BudgetError) as stopped:
        kdtool.run(asking, {"teacher.budget_usd": "0.006"})
    assert stopped.value.exit_code == 3
    before = len(server.bodies)
    kdtool.run(asking)
    assert 0 < before < len(server.bodies) == 4


def test_the_small_recipe_takes_claude_by_one_setting(
    server: MessagesServer, teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claude = {"use": "claude", "url": server.url, "model": MODEL, "budget_usd": 1}
    settings: dict[str, Any] = {
        **tiny("claude-codellama", teacher_folder),
        "teachers.answers": claude,
        "terms_acknowledged": {"teachers.answers": _TERMS},
        "corpora.answers.max_tokens": 300,
    }
    results = kdtool.run(RECIPES / "small" / "claude-codellama.yaml", settings)
    assert "teachers.answers" not in {one.subject for one in results.measurements}, "it only converses"
    assert len(server.bodies) == 4
    price = server.bill.picodollars / 1e12
    assert f"4 answers of teachers.answers, for ${price:.4f}: ${price / 4:.6f} each" in "".join(capsys.readouterr())

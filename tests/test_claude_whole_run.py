"""Whole runs that learn Claude's answers, from a server on this machine; what `check` says of the money."""

from __future__ import annotations

import ast
import html
import json
import re
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool_measuring import read_summary
from kdtool_programs import missing
from kdtool_report.html.wording import money
from kdtool_testing.servers.claude import serve
from kdtool_testing.servers.claude_api import KEY, MessagesServer
from kdtool_testing.servers.claude_replies import MODEL
from test_recipes import RECIPES, SHORT, tiny
from whole_runs import lines, path_of, without

_TERMS = "Anthropic Commercial Terms of Service"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with serve() as running:
        monkeypatch.setenv("KDTOOL_TRUST_URL", running.url)
        yield running


@pytest.fixture
def asking(recipe: dict[str, Any], server: MessagesServer, teacher_folder: Path) -> dict[str, Any]:
    library = {"use": "python-source", "train_files": 4, "validation_files": 1, "test_files": 2}
    answers = {"use": "answers", "ask": "teacher", "corpus": "corpora.library", "prefix_lines": 3, "max_tokens": 300}
    answers["form"] = "text"  # parts of files are not functions to complete
    return {
        **without(recipe, "corpus", "signals", "control", "exporters"),
        "corpora": {"library": library, "answers": answers},
        "teacher": {"use": "claude", "url": server.url, "model": MODEL, "budget_usd": 5},
        "terms_acknowledged": {"teacher": _TERMS},
        "rows": {"use": "packed", "length": 32, "maximum_tokens": 256},
        "student": {"use": "pretrained", "model": str(teacher_folder)},
        "train": {"losses": {"ce": {}}, "steps": 2},
        "evaluators": {"perplexity": {"limit": 2, "characters": 200}},
    }


def test_a_student_learns_answers_that_are_paid_for_once(asking: dict[str, Any], server: MessagesServer) -> None:
    results = kdtool.run(asking)
    text = path_of(results, "text")
    rows = lines(text / "train.jsonl")
    assert len(rows) == len(server.bodies) == 4
    store = text.parents[1]
    assert sum(int(row["meta"]["picodollars"]) for row in rows) == server.bill.picodollars
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
    assert found["forecast"]["picodollars"] >= 4 * 300 * 15_000_000
    short = kdtool.check(asking, {"teacher.system": "Write Python."})
    assert "below the 1,024 from which this model caches" in short["forecast"]["prices"][0]
    long = kdtool.check(asking, {"teacher.system": "Write Python. " * 900, "teacher.budget_usd": "0.01"})
    assert "of budget_usd that are left" in long["forecast"]["prices"][0]
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
    settings |= {"evaluators.line-completion": {"limit": 3, "places": 2, "maximum_tokens": 4}}
    results = kdtool.run(RECIPES / "small" / "claude-codellama.yaml", settings)
    assert "teachers.answers" not in {one.subject for one in results.measurements}, "it only converses"
    assert len(server.bodies) == 4
    price, account = kdtool.dollars(server.bill.picodollars), results.data["accounts"]["corpora.answers"]
    rows = account["rows"]
    assert rows + sum(account["rejected"].values()) == 4
    said = "".join(capsys.readouterr())
    assert f"{rows} answers of teachers.answers, for {price}: " in said
    assert f"{account['cut_characters']:,} characters around the code cut" in said
    written = lines(path_of(results, "text") / "train.jsonl")
    assert len(written) == rows
    assert all(ast.parse(line["prompt"] + line["completion"]) for line in written)
    text = report_of(results)
    assert f"corpora.answers 4 {money(server.bill.picodollars)}" in text
    assert f"{money(-(-server.bill.picodollars // rows))} an accepted row" in text
    assert "After 4 answered requests of the mean size" in text
    assert "of training are not priced" in text


def test_the_small_recipe_for_instruction_data_shows_money_and_rejections(
    server: MessagesServer, teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if missing():
        pytest.skip("tests cannot be run safely here")
    model = {"use": "causal-lm", "model": str(teacher_folder), "dtype": "float32"}
    recipe = RECIPES / "small" / "claude-instruct.yaml"
    settings: dict[str, Any] = {
        **SHORT, "teachers.claude.url": server.url, "teachers.base": model, "student.layers": 4,
        "corpora.instruct.rows": 24, "rows.length": 64, "train.steps": 2, "reporter.dollars_per_hour": 3600,
        "evaluators.line-completion": {"limit": 3, "places": 2, "maximum_tokens": 4},
    }  # fmt: skip
    results = kdtool.run(recipe, settings)
    account, bill = results.data["accounts"]["corpora.instruct"], server.bill.picodollars
    assert (account["rows"], account["requests"], account["picodollars"]) == (24, len(server.bodies), bill)
    repaired = [body for body in server.bodies if len(body["messages"]) > 1]
    assert len(repaired) == sum(account["rejected"].values()) == len(server.bodies) - 24
    assert account["rejected"].keys() == {"tests: AssertionError", "syntax: go does not parse"}
    text = report_of(results)
    assert f"{money(-(-bill // 24))} an accepted row" in text
    assert "Rejected by corpora.instruct" in text
    assert "tests: AssertionError" in text
    assert "its tests fail: AssertionError" in text, "a sample"
    training = sum(one.seconds for one in results.arms[0].phases.values())
    assert f"{money(round(training * 10**12))} for " in text, "a dollar a second"
    (requests,) = re.findall(r"After (.+?) answered requests", text)
    asking_instead = (bill + round(training * 10**12)) / (bill / len(server.bodies))
    assert int(requests.replace("\u202f", "")) == pytest.approx(asking_instead, abs=1)
    said = "".join(capsys.readouterr())
    assert re.search(r"claude: \d+ new answers? at .* tokens/min; .* spent in all and .* reserved, of \$1.00", said)
    unknown = kdtool.check(recipe, settings, store=results.stages[0].path.parents[1])["forecast"]["unknown"]
    assert any("text: nothing to pay, with 24 stored answers" in line for line in unknown), (
        "the forecast makes the run's own requests"
    )


def report_of(results: kdtool.Results) -> str:
    """Return the report's text, with one space between its parts."""
    assert results.report is not None
    shown = html.unescape(re.sub(r"<[^>]+>", " ", results.report.read_text("utf-8")))
    return re.sub(r"[ \n]+", " ", shown)


def test_check_prices_what_evaluators_ask(asking: dict[str, Any], server: MessagesServer) -> None:
    chat = {"use": "humaneval", "form": "chat", "limit": 7, "maximum_tokens": 100}
    recipe = {**asking, "evaluators": {**asking["evaluators"], "chat": chat, "humaneval": {"limit": 3}}}
    forecast = kdtool.check(recipe)["forecast"]
    text, evaluator = sorted(forecast["prices"], key=lambda line: "evaluator" in line)
    assert re.match(r"text: \$0\.\d{4} for 4 requests, ", text)
    assert re.match(r"evaluator chat: \$0\.\d{4} for 7 requests, ", evaluator)
    assert "700 out at most" in evaluator
    assert forecast["picodollars"] >= 4 * 300 * 15_000_000 + 7 * 100 * 15_000_000
    assert not [line for line in forecast["unknown"] if "of evaluator" in line]
    short = kdtool.check(recipe, {"teacher.budget_usd": "0.02"})["forecast"]["prices"]
    assert sum("of budget_usd that are left" in line for line in short) == 1, "what is planned for text is gone"
    assert server.bodies == [], "nothing was asked"


def test_the_report_holds_the_bill_and_what_it_bought(asking: dict[str, Any], server: MessagesServer) -> None:
    from kdtool_testing.servers.claude_api import Faults

    server.faults = Faults(seed=1, error_charged=0.3)
    results = kdtool.run(asking)
    accounts = results.data["accounts"]
    bought, ledger = accounts["corpora.answers"], accounts["teacher"]
    assert (bought["requests"], bought["rows"]) == (4, 4)
    assert bought["picodollars"] == ledger["picodollars"] == read_summary(ledger_of(results)).spent
    assert bought["picodollars"] < server.bill.picodollars <= ledger["picodollars"] + ledger["unknown_picodollars"]
    assert ledger["unknown_requests"] == len(read_summary(ledger_of(results)).unknown) > 0
    again = kdtool.run({**asking, "name": "again"})
    assert again.data["accounts"] == accounts, "the text of an earlier run has its price"


def ledger_of(results: kdtool.Results) -> Path:
    """Return the ledger of a run's store."""
    return path_of(results, "text").parents[1] / "answers.sqlite"


@pytest.fixture
def planned(asking: dict[str, Any]) -> str:
    """A recipe file whose twelve rows Claude writes."""
    library = asking["corpora"]["library"]
    instruct = {"use": "instruct", "rows": 12, "languages": ["python"], "tasks": ["generate"], "max_tokens": 100}
    written = {**asking, "corpora": {"instruct": instruct, "library": library}}
    Path("recipe.json").write_text(json.dumps(written), encoding="utf-8")
    return "recipe.json"


def test_a_plan_sends_nothing_and_needs_no_key(
    planned: str, server: MessagesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    connected = threading.Event()
    monkeypatch.setattr(socket.socket, "connect", lambda *_: connected.set())
    for words, code in ((["check", planned], 2), (["run", planned, "--plan"], 0)):
        assert call(words) == code
    assert not connected.is_set()
    assert not Path("store").exists()


def test_check_warns_of_a_small_budget(planned: str, capsys: pytest.CaptureFixture[str]) -> None:
    price = kdtool.check(planned)["forecast"]["picodollars"]
    assert "warning" not in capsys.readouterr().err
    most = "30 of 48 requests, the most after rejections: the run may stop; raise budget_usd to continue"
    for budget, words in (
        (0.5, "pay for 6 of 12 requests: the run would stop; raise budget_usd, or ask for less"),
        (2.5, f"pay for {most}"),
        (4.0, ""),
    ):
        limit = f"teacher.budget_usd={budget * price / 1e12}"
        assert call(["check", planned, "--set", limit]) == 0
        said = capsys.readouterr().err
        assert f"of budget_usd that are left {words}\n" in said if words else "warning" not in said
        assert said.count("warning: text: ") == bool(words)

"""`kdtool data status, export, recover, quarantine` on a small generation: killed, and complete."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool_measuring import About, Ledger

TOYS = Path(__file__).resolve().parents[4] / "core" / "tests"
WRITER = '''
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import kdtool

spec = importlib.util.spec_from_file_location("toy", "TOY")
toy = sys.modules["toy"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)


class Rows(toy.Packer):
    """The toys' packer, for conversations too."""

    def kdtool_rows(self, run, examples, tokenizer):
        plain = (replace(one, body=kdtool.Text("".join(kdtool.parts_of(one.body)))) for one in examples)
        yield from super().kdtool_rows(run, plain, tokenizer)


class Writer(kdtool.Teacher):
    """Answers with code that is broken in the first answer of each cell; fails while a file `stop` exists.

    The second round fails while a file `stop later` exists.
    """

    offers = frozenset({"text"})
    rounds = 0

    def kdtool_answer(self, requests):
        self.rounds += 1
        if self.rounds == 2 and Path("stop later").exists():
            raise kdtool.ServiceError("the server went away")
        for number, request in enumerate(requests):
            if number == 3 and Path("stop").exists():
                raise kdtool.ServiceError("the server went away")
            code = "x = (" if request.id.endswith("/0#0") else "x = 1"
            text = f"<instruction>Task {request.id}</instruction><response>```python\\n{code}\\n```</response>"
            text = text.replace("```python", "\\n```python").replace("</resp", "\\n</resp")
            yield kdtool.TextAnswer(request.id, text, "stop", 7, 5, 2 * 10**9)
'''

pytestmark = pytest.mark.skipif(not TOYS.is_dir(), reason="the core's toy recipe is not here")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of the core's toys on six rows of a stand-in, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("toy_recipe", TOYS / "toy_recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    toy: dict[str, Any] = module.toy_recipe()
    (tmp_path / "writer.py").write_text(WRITER.replace("TOY", str(TOYS / "toy.py")), encoding="utf-8")
    own = {
        "use": "instruct",
        "ask": "teachers.writer",
        "rows": 6,
        "languages": ["python"],
        "tasks": ["generate"],
        "round": 4,
    }
    toy["corpora"] = {"held": toy.pop("corpus"), "instruct": own}
    toy["teachers"] = {"toy": toy.pop("teacher"), "writer": {"use": "./writer.py:Writer"}}
    toy["rows"] = {"use": "./writer.py:Rows"}
    toy["filters"] = {"syntax": {}}
    for unused in ("control", "signals", "evaluators", "exporters", "trackers"):
        toy.pop(unused)
    toy["seeds"] = [0]
    toy["train"]["losses"] = {"count": toy["train"]["losses"]["count"]}
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(toy), encoding="utf-8")
    return file


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert call(["data", *words, "--store", "store"]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def test_a_generation_is_looked_at_recovered_and_exported(
    recipe: Path, say: Callable[..., str], tmp_path: Path
) -> None:
    assert "is not begun yet" in say("status", "recipe.json", code=2)

    (tmp_path / "stop").touch()
    with pytest.raises(kdtool.ServiceError):
        kdtool.run(recipe, store="store")
    before = files_in(tmp_path / "store")
    said = say("status", "recipe.json", "--cells")
    assert "interrupted" in said
    assert "requests  4" in said
    assert files_in(tmp_path / "store") == before, "nothing is changed"
    assert "is not complete" in say("export", "recipe.json", "rows.jsonl", code=2)
    say("recover", "recipe.json", "so-far.jsonl")

    (tmp_path / "stop").unlink()
    kdtool.run(recipe, store="store")
    status = json.loads(say("status", "recipe.json", "--json"))
    assert status["state"] == "complete"
    assert sum(cell["accepted"] for cell in status["cells"]) == 6
    said = say("status", "recipe.json")
    assert "6 of 6 accepted" in said
    assert "syntax: python does not parse" in say("quarantine", "recipe.json", "--reason", "syntax")
    assert "complete; write it with kdtool data export" in say("recover", "recipe.json", "so-far.jsonl", code=2)


def test_requests_without_an_answer_are_counted_and_listed(
    recipe: Path, say: Callable[..., str], tmp_path: Path
) -> None:
    kdtool.run(recipe, store="store")
    assert "unknown" not in say("status", "recipe.json")
    assert say("status", "recipe.json", "--unknown").strip() == "every request that was sent has an answer"
    with Ledger(tmp_path / "store" / "answers.sqlite") as ledger:
        for number, reserved in ((7, 3 * 10**9), (8, 10**9)):
            about = About("model-1", "text", f"python/easy/generate/{number}#1")
            attempt = ledger.reserve(f"key {number}", reserved, limit=10**12, about=about)
            assert attempt is not None
            ledger.write_intent(attempt).result()
            if number == 7:
                ledger.doubt(attempt, "the stream was cut").result()
        said = say("status", "recipe.json", "--unknown")
        assert re.search(
            r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ  model-1  text  python/easy/generate/7#1  \$0\.003000  the stream was cut$",
            said,
            re.MULTILINE,
        )
        assert "python/easy/generate/8#1  $0.001000  under way, or its run was killed" in said
        assert (
            "\n1 sent and not answered: at most $0.0030\n1 under way, or its run was killed: at most $0.0010\n" in said
        )
        assert "  unknown   1 sent and not answered: at most $0.0030" in say("status", "recipe.json")
        found = json.loads(say("status", "recipe.json", "--unknown", "--json"))
        assert found == json.loads(say("status", "recipe.json", "--json"))["unanswered"]
    assert [(one["request"], one["reserved"]) for one in found] == [
        ("python/easy/generate/7#1", 3 * 10**9),
        ("python/easy/generate/8#1", 10**9),
    ]
    moved = tmp_path / "own.sqlite"
    (tmp_path / "store" / "answers.sqlite").rename(moved)
    assert "unknown" not in say("status", "recipe.json")
    assert "1 sent and not answered" in say("status", "recipe.json", "--unknown", "--ledger", str(moved))


def files_in(folder: Path) -> list[Path]:
    """Return all files, without those that SQLite keeps beside a file that is read."""
    return sorted(file for file in folder.rglob("*") if not file.name.endswith(("-shm", "-wal")))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_recovered_rows_are_those_that_the_finished_text_has(
    recipe: Path, say: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "stop later").touch()
    with pytest.raises(kdtool.ServiceError):
        kdtool.run(recipe, store="store")
    assert "so-far.jsonl has 2 rows; kdtool run continues" in say("recover", "recipe.json", "so-far.jsonl")
    recovered = read_lines(tmp_path / "so-far.jsonl")
    (tmp_path / "stop later").unlink()
    kdtool.run(recipe, store="store")
    say("export", "recipe.json", "rows")
    written = [row for row in read_lines(tmp_path / "rows" / "train.jsonl") if "messages" in row]
    assert recovered == written[:2]
    assert recovered[0]["messages"][1]["content"] == "```python\nx = 1\n```"
    assert json.loads(recovered[0]["meta"])["picodollars"] == str(2 * 10**9)


@pytest.mark.parametrize("source", ["recipe.json", "runs/toy"])
def test_what_is_exported_is_opened_by_datasets(
    recipe: Path, source: str, say: Callable[..., str], tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    kdtool.run(recipe, store="store")
    say("export", source, "rows", "--format", "jsonl")
    lines, cache = read_lines(tmp_path / "rows" / "train.jsonl"), str(tmp_path / "cache")
    plain = datasets.load_dataset("json", data_files=str(tmp_path / "rows" / "train.jsonl"), cache_dir=cache)["train"]
    assert [row["meta"] for row in plain] == [line["meta"] for line in lines]
    written = [line for line in lines if "messages" in line]
    assert len(written) == 6
    assert written[0]["messages"][1]["content"] == "```python\nx = 1\n```"
    assert json.loads(written[0]["meta"])["difficulty"] == "easy"
    assert "exists; choose another path" in say("export", source, "rows", code=2)
    say("export", source, "rows", "--force", "--format", "parquet")
    files = {"train": str(tmp_path / "rows" / "train.parquet")}
    columns = datasets.load_dataset("parquet", data_files=files, cache_dir=cache)["train"]
    assert [row["messages"] for row in columns] == [line.get("messages") for line in lines]
    say("export", source, "my-data", "--format", "dataset")
    opened = datasets.load_dataset(str(tmp_path / "my-data"), cache_dir=cache)
    assert [row["id"] for row in opened["train"]] == [line["id"] for line in lines]
    assert opened["train"][len(lines) - 1]["messages"] == lines[-1].get("messages")
    card = (tmp_path / "my-data" / "README.md").read_text("utf-8")
    assert "A teacher wrote 6 of the rows in" in card
    assert "| syntax: python does not parse |" in card


def test_a_place_that_cannot_be_written_is_a_sentence(recipe: Path, say: Callable[..., str], tmp_path: Path) -> None:
    kdtool.run(recipe, store="store")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    said = say("export", "recipe.json", str(tmp_path / "file" / "rows"), code=8)
    assert f"cannot write {tmp_path / 'file' / 'rows'}: " in said
    assert "make room, or choose another place" in said
    assert (tmp_path / "file").read_text("utf-8") == "mine"


def test_a_recipe_without_a_generation_says_so(recipe: Path, say: Callable[..., str]) -> None:
    content = json.loads(recipe.read_text("utf-8"))
    del content["corpora"]["instruct"]
    recipe.write_text(json.dumps(content), encoding="utf-8")
    kdtool.run(recipe, store="store")
    assert "has no generated rows" in say("status", "recipe.json", code=2)
    assert "no finished run" in say("status", ".", code=2)

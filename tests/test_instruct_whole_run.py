"""Whole runs on instruction data: quotas behind real screens, and a killed run that asks nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import kdtool
import pytest

WRITER = '''\
import os
import random
import signal

import kdtool

CODE = {
    "python": "def f{0}(x):\\n    return x + {0}\\n",
    "go": "package a\\n\\nfunc f{0}(x int) int {{ return x + {0} }}\\n",
}


class Writer(kdtool.Teacher):
    """Fails in one of five answers; logs what it is asked, and dies after as many as the environment says."""

    offers = frozenset({"text"})

    def kdtool_answer(self, requests):
        for number, request in enumerate(requests):
            with open("asked.log", "a", encoding="utf-8") as log:
                log.write(repr(request.turns) + "\\n")
            if number == int(os.environ.get("DIE_AT", -1)):
                os.kill(os.getpid(), signal.SIGKILL)
            language = request.turns[0][1].partition("begin with ```")[2].partition(".")[0]
            drawn = random.Random(repr(request.turns))
            words = " ".join(f"word{drawn.randrange(10**6)}" for _ in range(30))
            code = CODE[language].format(drawn.randrange(10**6))
            code = code.replace(")", "", 1) if drawn.random() < 0.2 else code
            text = f"<instruction>{words}</instruction><response>\\n```{language}\\n{code}```\\n{words}</response>"
            yield kdtool.TextAnswer(request.id, text, "stop", 9, 9, 10**9)

    def kdtool_acknowledge(self):
        return kdtool.LicenceTerms("Writer-1.0")
'''


@pytest.fixture
def instructing(recipe: dict[str, Any], tmp_path: Path, other_teacher_folder: Path) -> dict[str, Any]:
    """A recipe whose student learns what a stand-in writes, in twelve cells behind four screens."""
    (tmp_path / "writer.py").write_text(WRITER, encoding="utf-8")
    own = {"use": "instruct", "ask": "teachers.writer", "rows": 60, "languages": ["python", "go"], "form": "completion"}
    recipe["corpora"] = {
        "instruct": {**own, "tasks": ["generate", "refactor"], "round": 16},
        "library": {"use": "python-source", "train_files": 1, "validation_files": 1, "test_files": 2},
    }
    recipe["screens"] = {"length": {}, "syntax": {}, "secrets": {}, "duplicates": {}}
    recipe["teachers"] = {"writer": {"use": f"{tmp_path / 'writer.py'}:Writer"}}
    recipe["rows"] = {"use": "packed", "length": 64, "maximum_tokens": 4096}
    recipe["student"] = {"use": "pretrained", "model": str(other_teacher_folder)}
    recipe["train"] = {"losses": {"ce": {}}, "steps": 2}
    recipe["evaluators"] = {"perplexity": {"documents": 1, "characters": 200}}
    unused = {"corpus", "teacher", "signals", "control", "exporters", "trackers", "reporter"}
    return {key: value for key, value in recipe.items() if key not in unused}


def rows_of(store: Path) -> list[Any]:
    (file,) = store.glob("text/*/train.jsonl")
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [line for line in lines if "difficulty" in line.get("meta", {})]


def test_every_cell_is_full_behind_the_screens(instructing: dict[str, Any], tmp_path: Path) -> None:
    kdtool.run(instructing, store=tmp_path / "store")
    rows = rows_of(tmp_path / "store")
    cells = Counter(row["id"].rpartition("/")[0] for row in rows)
    assert len(cells) == 12
    assert set(cells.values()) == {5}
    (file,) = (tmp_path / "store").glob("text/*/instruct/*/status.json")
    status = json.loads(file.read_text("utf-8"))
    rejected = sum((Counter(cell["rejected"]) for cell in status["cells"]), Counter[str]())
    assert set(rejected) == {"syntax: python does not parse", "syntax: go does not parse"}
    asked = (tmp_path / "asked.log").read_text("utf-8").splitlines()
    assert len(asked) == 60 + sum(rejected.values())
    assert {row["meta"]["teacher_licence"] for row in rows} == {"Writer-1.0"}


DRIVER = """\
import importlib.util
import json
import sys
from pathlib import Path

from kdtool._run.answer_cache import cache_answers
from kdtool_corpus_instruct import Instruct
from kdtool_screen_duplicates import DuplicatesScreen
from kdtool_screen_syntax import SyntaxScreen
from kdtool_testing import make_run

spec = importlib.util.spec_from_file_location("writer", "writer.py")
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)
folder = Path(sys.argv[1]) / "text"
folder.mkdir(parents=True, exist_ok=True)
screens = {"screens.syntax": SyntaxScreen, "screens.duplicates": DuplicatesScreen}
others = {name: one(one.Config()) for name, one in screens.items()}
run = make_run(folder, {"teacher": writer.Writer(writer.Writer.Config()), **others})
settings = {"rows": 60, "languages": ("python", "go"), "tasks": ("generate", "refactor"), "round": 16}
corpus = Instruct(Instruct.Config.model_validate(settings))
with cache_answers(run, folder.parent / "answers.sqlite", {"teacher": "key"}) as asking:
    rows = [[row.id, repr(row.body), dict(row.meta)] for row in corpus.kdtool_examples(asking)]
Path(sys.argv[1], "rows.json").write_text(json.dumps(rows), encoding="utf-8")
"""


def test_a_generation_that_is_killed_again_and_again_asks_for_no_stored_answer(tmp_path: Path) -> None:
    (tmp_path / "writer.py").write_text(WRITER, encoding="utf-8")
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")

    def generate(folder: str, dies_at: int) -> int:
        environment = {**os.environ, "DIE_AT": str(dies_at)}
        command = [sys.executable, "driver.py", folder]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode

    codes = [generate("killed", dies_at) for dies_at in (15, 12, 10, 3, -1)]
    kills = codes.count(-signal.SIGKILL)
    assert codes[-1] == 0
    assert kills == len(codes) - 1
    asked = (tmp_path / "asked.log").read_text("utf-8").splitlines()
    assert len(asked) - len(set(asked)) <= kills, "at most the one request that was under way at each kill"
    assert generate("whole", -1) == 0
    assert (tmp_path / "killed" / "rows.json").read_text("utf-8") == (tmp_path / "whole" / "rows.json").read_text(
        "utf-8"
    )
